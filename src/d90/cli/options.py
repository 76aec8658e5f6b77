"""What the commands share: arguments and options, the fields of a recipe, and how they talk."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.errors import printable
from d90.options import TaskOptions, TrainingOptions, fields_of
from d90.trials.options import RunOptions

if TYPE_CHECKING:
    from d90.training.progress import Progress


def check_task(name: str | None) -> str | None:
    """A task's name as it was given, told to be wrong before torch is imported, which takes seconds.

    Raises:
        InputError: no such file or folder, or a name of no form.
    """
    from d90.tasks.names import check_name

    if name is not None:
        check_name(name)
    return name


def check_tasks(names: str) -> str:
    """The same of several tasks, separated by spaces.

    Raises:
        InputError: as `check_task`.
    """
    for name in names.split():
        check_task(name)
    return names


def check_method(text: str | None) -> str | None:
    """A method's text as it was given, told to be wrong before torch is imported.

    Raises:
        InputError: an unknown method or option, or a value of the wrong type.
    """
    from d90.methods import parse

    if text is not None:
        parse(text)
    return text


def check_methods(text: str | None) -> str | None:
    """The same of several methods, separated by spaces.

    Raises:
        InputError: as `check_method`; a comma between two methods.
    """
    for method in split_methods(text or ""):
        check_method(method)
    return text


ModelArg = Annotated[str, typer.Argument(help="minilm, smollm2, fc, lenet, mlp:WIDTHS, a hub name or a local folder.")]
TaskArg = Annotated[
    str,
    typer.Argument(help="docstrings, glue/NAME, a file or folder, idx:FOLDER, or a hub dataset.", callback=check_task),
]
MethodOpt = Annotated[
    str,
    typer.Option("--method", "-m", help="What moves: method[:key=value,...][@key=value,...].", callback=check_method),
]
MethodsOpt = Annotated[str, typer.Option("--methods", help="Methods, separated by spaces.", callback=check_methods)]
TextOpt = Annotated[str | None, typer.Option(help=fields_of(TaskOptions)["text"].help)]
MetricOpt = Annotated[str | None, typer.Option(help=fields_of(TaskOptions)["metric"].help)]
SeedOpt = Annotated[int, typer.Option(help=fields_of(TrainingOptions)["seed"].help)]
StoreOpt = Annotated[Path, typer.Option(help=fields_of(RunOptions)["store"].help)]


def command_line() -> str:
    """The command as it was typed, kept with results."""
    return shlex.join(["d90", *sys.argv[1:]])


def make_progress() -> Progress:
    """Bars on a terminal, plain lines otherwise; `restore_terminal` takes them off."""
    from d90.training.console import progress_for

    return progress_for(sys.stdout.isatty())


def make_notices() -> Progress:
    """What is noted goes to standard error, a line each: for commands whose standard output is their result."""
    from d90.errors import printable
    from d90.training.progress import Progress

    class Notices(Progress):
        def note(self, message: str) -> None:
            typer.echo(printable(f"note: {message}"), err=True)

    return Notices()


def restore_terminal() -> None:
    """Take bars off the screen and give the cursor back, where a command has drawn any."""
    console = sys.modules.get("d90.training.console")
    if console is not None:
        with contextlib.suppress(OSError):
            console.close_bars()


def echo(message: object) -> None:
    """Print to standard output; control characters that files and names hold are written out."""
    typer.echo(printable(message))


def split_methods(text: str) -> list[str]:
    """Methods separated by spaces.

    Raises:
        InputError: a comma between two methods: within one, a comma stands between its options.
    """
    from d90.errors import InputError
    from d90.methods import METHODS

    words = text.split()
    for word in words:
        _, *rest = word.split(",")
        stray = next((part for part in rest if part.split(":")[0].split("@")[0].split("+")[0] in METHODS), None)
        if stray is not None or word.endswith(","):
            listed = " ".join(part.strip(",") for part in text.replace(f",{stray}", f" {stray}").split())
            raise InputError(
                f"got --methods '{text}', expected methods separated by spaces, as in --methods '{listed}'"
            )
    return words


def two_columns(title: str, rows: dict[str, str]) -> None:
    """Print names and what they mean."""
    width = max(map(len, rows))
    echo(f"{title}:")
    for name, meaning in rows.items():
        echo(f"  {name:<{width}}  {meaning}")
