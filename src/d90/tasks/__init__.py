"""Tasks by name: data in up to three splits, a loss, a metric.

Names are imported when they are first asked for: what a task may be called is known without torch.
"""

from typing import TYPE_CHECKING

from d90.registry import late_names

if TYPE_CHECKING:
    from d90.tasks.base import ABSENT, Split, Task
    from d90.tasks.kinds import TaskKind, kind_names, register_kind
    from d90.tasks.loading import load
    from d90.tasks.metrics import register_metric
    from d90.tasks.names import TASKS, register_task

__all__ = [
    "ABSENT",
    "TASKS",
    "Split",
    "Task",
    "TaskKind",
    "kind_names",
    "load",
    "register_kind",
    "register_metric",
    "register_task",
]

_MODULES = {
    **dict.fromkeys(("ABSENT", "Split", "Task"), "base"),
    **dict.fromkeys(("TaskKind", "kind_names", "register_kind"), "kinds"),
    "load": "loading",
    "register_metric": "metrics",
    **dict.fromkeys(("TASKS", "register_task"), "names"),
}


__getattr__ = late_names("d90.tasks", _MODULES)
