"""What a task may be called. Names are checked here without torch, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from d90.errors import InputError, did_you_mean, unknown_name
from d90.registry import Registry
from d90.tasks.readers import ENDINGS, ending_of

if TYPE_CHECKING:
    from d90.tasks.base import Task

__all__ = ["GLUE", "LOADERS", "TASKS", "UNITS", "check_name", "register_task"]

# columns, metric, validation split
GLUE = {
    "cola": ("sentence", "matthews", "validation"),
    "sst2": ("sentence", "accuracy", "validation"),
    "mrpc": ("sentence1,sentence2", "accuracy", "validation"),
    "qqp": ("question1,question2", "accuracy", "validation"),
    "stsb": ("sentence1,sentence2", "pearson", "validation"),
    "mnli": ("premise,hypothesis", "accuracy", "validation_matched"),
    "mnli_mismatched": ("premise,hypothesis", "accuracy", "validation_mismatched"),
    "qnli": ("question,sentence", "accuracy", "validation"),
    "rte": ("sentence1,sentence2", "accuracy", "validation"),
    "wnli": ("sentence1,sentence2", "accuracy", "validation"),
}
UNITS = {"text:": "documents, separated by blank lines", "lines:": "documents, one a line"}

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
    "task",
    "d90.tasks",
    {"docstrings": "d90.tasks.docstrings:load_docstrings", "digits": "d90.tasks.digits:load_digits"},
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


def check_name(name: str) -> None:
    """Whether a name is one of a task: a file or folder that is there, a form of `TASKS`; what the hub holds it does not ask.

    Raises:
        InputError: no such file or folder, no GLUE task of that name, or a name of no form.
    """
    if name in LOADERS or Path(name).exists():
        return
    if name.startswith("glue/"):
        if name.removeprefix("glue/") not in GLUE:
            raise unknown_name("GLUE task", name.removeprefix("glue/"), GLUE)
    elif name.startswith(tuple(UNITS)):
        path = Path(name.partition(":")[2])
        if not path.exists():
            raise InputError(f"no such file or folder: '{path}'; expected text, one file or a folder with train.txt")
    elif ending_of(name) or name.startswith((".", "/", "~")):
        raise InputError(
            f"no such file or folder: '{name}'; expected a path to a task's data.{did_you_mean(name, _near(name))}"
        )
    elif not name.startswith(("idx:", "hub:")) and name.count("/") not in (1, 2):
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
