"""A task loaded by its name."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import Unpack

from d90.errors import InputError
from d90.options import TaskOptions, with_options
from d90.options.task import TaskFields
from d90.tasks.base import Task
from d90.tasks.columns import Columns
from d90.tasks.files import load_files
from d90.tasks.hub import load_glue, load_hub
from d90.tasks.images import load_images
from d90.tasks.names import LOADERS, UNITS, check_name
from d90.tasks.text import load_text

__all__ = ["load"]


@with_options
def load(
    name: str,
    *,
    test: str | None = None,
    limit: int | None = None,
    data: TaskOptions = TaskOptions(),
    **fields: Unpack[TaskFields],
) -> Task:
    """Load a task.

    Args:
        name: one of the forms in `TASKS`.
        test: "made": where the task has no test split, a tenth of the training examples becomes one.
        limit: the first training examples alone, as `train_limit` of the options.
        data: columns, kind, metric and limits; `max_length` is the model's.
        fields: those of `TaskOptions` as keywords, as label="stars".

    Raises:
        InputError: no such task, or what is wrong in which file and line.
    """
    first = data.train_limit if limit is None else limit
    if first is not None and first < 1:
        raise InputError(f"got a limit of {first} training examples, expected at least 1")
    if test not in (None, "made"):
        raise InputError(f"got test='{test}', expected made, or nothing")
    columns = Columns(data.text, data.label, data.prompt, data.completion, data.chat_template, data.loss_on, data.group)
    task = _open(name, columns, data.metric, data.kind).with_metric(data.metric, data.positive)
    return (task.with_test() if test else task).limit(first, data.validation_limit)


def _open(name: str, columns: Columns, metric: str | None, kind: str | None) -> Task:
    check_name(name)
    if name in LOADERS or name.startswith(("idx:", "glue/", *UNITS)):
        given = {
            "text": columns.text, "label": columns.given_label, "kind": kind, **columns.conversation,
            "group": None if name.startswith("glue/") else columns.group,
        }  # fmt: skip
        for option, value in given.items():
            if value is not None:
                raise InputError(f"got {option} for task '{name}', which has its own; leave it out, or load a file")
        if name.startswith(tuple(UNITS)):
            return load_text(name, metric)
        if name.startswith("glue/"):
            return load_glue(name, metric, columns.group)
        return LOADERS[name]() if name in LOADERS else load_images(name, name.removeprefix("idx:"))
    return (load_files if Path(name).exists() else load_hub)(name, columns, metric, kind)
