"""Tasks by name: data in up to three splits, a loss, a metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from typing_extensions import Unpack

from d90.errors import InputError, did_you_mean
from d90.options import TaskOptions, with_options
from d90.options.task import TaskFields
from d90.registry import Registry
from d90.tasks.base import ABSENT, Split, Task
from d90.tasks.columns import Columns
from d90.tasks.digits import load_digits
from d90.tasks.docstrings import load_docstrings
from d90.tasks.files import load_files
from d90.tasks.hub import GLUE, load_glue, load_hub
from d90.tasks.images import load_images
from d90.tasks.kinds import TaskKind, kind_names, register_kind
from d90.tasks.metrics import register_metric
from d90.tasks.readers import ENDINGS, ending_of
from d90.tasks.text import UNITS, load_text

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

TASKS = {
    "docstrings": "embedded: does this docstring belong to this signature? From Python's own sources",
    "digits": "embedded: which digit is it? Pictures drawn in fonts, for a network such as mlp:256-64-64-10",
    "glue/NAME": f"GLUE through the hub: {', '.join(GLUE)}",
    "FILE": f"a file ({', '.join(ENDINGS)}) with columns named; a tenth is held out as validation",
    "FOLDER": "a folder with train, validation and test in those forms; or of class folders of pictures, alone or below these names",
    "text:PATH": "documents for a causal language model: a file (.txt, .txt.gz) or a folder of them, blank lines between documents",
    "lines:PATH": "the same, each line a document",
    "idx:FOLDER": "MNIST-style images in idx files, gzipped or not",
    "OWNER/NAME[/CONFIG]": "any dataset of the Hugging Face hub, with columns named (also hub:NAME, hub:FOLDER)",
}

LOADERS: Registry[Callable[[], Task]] = Registry(
    "task", "d90.tasks", {"docstrings": load_docstrings, "digits": load_digits}
)


def register_task(name: str, load: Callable[[], Task]) -> None:
    """Let a task of your own be opened by its name, in this process and, as an entry point of `d90.tasks`, in any.

    Example:
        >>> d90.register_task("three-clouds", lambda: task)
        >>> d90.train(model, "three-clouds", epochs=1).recipe.task
        'three-clouds'

    Args:
        load: makes the task; the same data every time, for its hash is part of every trial's key.

    Raises:
        InputError: a name that is no word of small letters, digits, "-" and "_", or that is taken.
    """
    LOADERS.register(name, load)


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
    if Path(name).exists():
        return load_files(name, columns, metric, kind)
    if ending_of(name) or name.startswith((".", "/", "~")):
        raise InputError(
            f"no such file or folder: '{name}'; expected a path to a task's data.{did_you_mean(name, _near(name))}"
        )
    if name.startswith("hub:") or name.count("/") in (1, 2):
        return load_hub(name, columns, metric, kind)
    forms, near = ", ".join(TASKS), did_you_mean(name, _near(name))
    glue = f" Did you mean 'glue/{name.lower()}'?" if name.lower() in GLUE else ""
    raise InputError(
        f"unknown task '{name}': no file or folder of that name; expected one of the forms {forms}.{glue or near}"
    )


def _near(name: str) -> list[str]:
    """Names that could have been meant: the embedded task, GLUE's, and what lies beside."""
    parent = Path(name).expanduser().parent
    try:
        files = [str(path) for path in sorted(parent.iterdir())[:1000]]
    except OSError:
        files = []
    prefix = "./" if name.startswith("./") else ""
    return [*LOADERS, *(f"glue/{subset}" for subset in GLUE), *(f"{prefix}{file}" for file in files)]
