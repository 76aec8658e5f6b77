"""A tune and its base side by side on tasks of the language model evaluation harness (lm-eval, the extra `d90[harness]`).

The harness's own loop and prompts are used, with the live model: nothing is written or merged for it. Tasks are the harness's names, or
local task files (.yaml). Tasks of the hub need a network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from d90.errors import InputError
from d90.models.model import Model
from d90.training.base import open_base
from d90.training.device import best_device
from d90.training.loading import open_tune
from d90.training.record import read_record

__all__ = ["HarnessScore", "run_harness"]


FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class HarnessScore:
    """One metric of one task: of the base, of the tune, and the standard error of each where the harness gives one."""

    task: str
    metric: str
    base: float
    tune: float
    base_error: float | None = None
    tune_error: float | None = None


def run_harness(
    path: str | os.PathLike[str], tasks: Sequence[str], limit: int | None = None, batch_size: int = 16
) -> list[HarnessScore]:
    """Evaluate a tune and its base.

    Args:
        path: a tune of a causal language model.
        tasks: the harness's names, or paths of local task files.
        limit: examples of each task at most.
        batch_size: of the harness.

    Raises:
        InputError: lm-eval is not installed, a tune of another kind, or a task that the harness does not know.
    """
    if find_spec("lm_eval") is None:
        raise InputError("--harness needs the package lm-eval: pip install 'd90[harness]'")
    record = read_record(path)
    kind = record.kind
    if kind.auto_class != "AutoModelForCausalLM":
        raise InputError(f"got --harness for a tune of a {kind.name}, expected one of a causal language model")
    names, folders = [_name(task) for task in tasks], _folders(tasks)
    model = open_base(record)
    model.module.to(best_device())
    base = _evaluated(model, names, folders, limit, batch_size)
    del model
    tune = _evaluated(open_tune(path).model, names, folders, limit, batch_size)
    found = []
    for task, metrics in base.items():
        for metric, value in metrics.items():
            name, _, form = metric.partition(",")
            if name.endswith("_stderr") or not isinstance(value, int | float) or name in ("alias", "sample_len"):
                continue
            errors = (side[task].get(f"{name}_stderr,{form}") for side in (base, tune))
            low, high = (float(e) if isinstance(e, int | float) else None for e in errors)
            found.append(
                HarnessScore(
                    task,
                    name if form == "none" else f"{name} ({form})",
                    float(value),
                    float(tune[task][metric]),
                    low,
                    high,
                )
            )
    return found


def _evaluated(
    model: Model, names: Sequence[str], folders: Sequence[str], limit: int | None, batch_size: int
) -> dict[str, dict[str, str | int | float]]:
    """{task: {metric: value}} as the harness names them, with each metric's standard error."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model.module.eval()
    wrapped = HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=batch_size)
    manager = TaskManager(include_path=list(folders) or None)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise InputError(
            f"the harness knows no task '{unknown[0]}', expected one of its names ('lm_eval ls tasks') or a task file's path"
        )
    result = simple_evaluate(
        wrapped,
        tasks=list(names),
        task_manager=manager,
        limit=limit,
        bootstrap_iters=1000,
        log_samples=False,
        verbosity="ERROR",
    )
    return {task: dict(metrics) for task, metrics in result["results"].items()}


def _folders(tasks: Sequence[str]) -> list[str]:
    """Where local task files lie."""
    return sorted({str(Path(task).resolve().parent) for task in tasks if task.endswith(FILES)})


def _name(task: str) -> str:
    """What a task file calls its task.

    Raises:
        InputError: no such file, or one that names no task.
    """
    if not task.endswith(FILES):
        return task
    path = Path(task)
    if not path.is_file():
        raise InputError(f"no such file: '{task}'; expected a task file of the harness, or one of its tasks' names")
    found = re.search(r"^task:\s*['\"]?([\w./-]+)", path.read_text(encoding="utf-8", errors="replace"), re.M)
    if found is None:
        raise InputError(f"'{task}' names no task, expected a line 'task: NAME' as the harness's task files have it")
    return found[1]
