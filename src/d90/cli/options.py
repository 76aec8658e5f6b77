"""What the commands share: arguments and options, the fields of a recipe, and how they talk."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d90.errors import printable

if TYPE_CHECKING:
    from d90.training.progress import Progress
    from d90.trials.executor import Executor

ModelArg = Annotated[str, typer.Argument(help="minilm, smollm2, fc, lenet, mlp:WIDTHS, a hub name or a local folder.")]
TaskArg = Annotated[str, typer.Argument(help="docstrings, glue/NAME, a file or folder, idx:FOLDER, or a hub dataset.")]
MethodOpt = Annotated[str, typer.Option("--method", "-m", help="What moves: method[:key=value,...][@key=value,...].")]
TextOpt = Annotated[str | None, typer.Option("--text", help="Text column, or two joined by a comma.")]
LabelOpt = Annotated[str | None, typer.Option("--label", help="Label column.")]
MetricOpt = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="accuracy, f1, matthews, pearson, spearman or loss; of a language model's answers exact, contains or script:FILE.",
    ),
]
KindOpt = Annotated[
    str | None,
    typer.Option(
        "--kind",
        help="A kind of task, as tokens or seq2seq (d90 tasks lists them); guessed from the columns by default.",
    ),
]
PositiveOpt = Annotated[
    str | None, typer.Option("--positive", help="The class that --metric f1 is of; the rarer of two by default.")
]
LrOpt = Annotated[float | None, typer.Option("--lr", help="Adam's learning rate; the method's default if not given.")]
RateOpt = Annotated[
    str,
    typer.Option(
        "--lr",
        help="Adam's learning rate: a number; auto: found by short runs first; default: that of the method and kind of model.",
    ),
]
BaselineRateOpt = Annotated[
    str | None,
    typer.Option(help="The baseline's learning rate, as --lr; found as well where --lr is auto, else its default."),
]
EpochsOpt = Annotated[float, typer.Option("--epochs", help="Passes over the training split.")]
BatchOpt = Annotated[int, typer.Option("--batch-size", help="Examples in a batch.")]
EvaluationsOpt = Annotated[int, typer.Option("--evaluations", help="Evaluations in a run.")]
SeedOpt = Annotated[int, typer.Option("--seed", help="Seed of fresh weights, order, dropout and P.")]
LimitOpt = Annotated[int | None, typer.Option("--train-limit", help="Train on the first N examples.")]
ValidationOpt = Annotated[int | None, typer.Option("--validation-limit", help="Evaluate on the first N examples.")]
LengthOpt = Annotated[int | None, typer.Option("--max-length", help="Cut texts to N tokens.")]
PrecisionOpt = Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")]
StepRuleOpt = Annotated[
    int | None,
    typer.Option("--step-rule", help="Version of theta's unit; 1 repeats what d90 did at scales global and relative."),
]
ReportOpt = Annotated[
    str, typer.Option("--report-to", help="tensorboard, wandb, trackio or mlflow, joined by commas: curves go there.")
]
LogsOpt = Annotated[str, typer.Option("--logs", help="Where TensorBoard's files go.")]
CheckpointOpt = Annotated[
    float,
    typer.Option("--checkpoint-minutes", help="How often a running trial's state is kept, to go on from after a kill."),
]
StoreOpt = Annotated[Path, typer.Option("--store", help="The SQLite file trials are kept in.")]

_CONVERSATION: dict[str, tuple[str, str]] = {
    "prompt": ("--prompt", "The column of prompts, of instruction data."),
    "completion": ("--completion", "The column of what is to follow a prompt."),
    "chat_template": ("--chat-template", "A file with a chat template in place of the tokenizer's own."),
    "loss_on": ("--loss-on", "completions or all: what counts of instruction data; completions by default."),
}
_given: ContextVar[dict[str, str | None]] = ContextVar("_given", default={})  # noqa: B039 (never changed in place)


def conversational(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of instruction data, which `recipe_options` puts among the columns."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        token = _given.set({name: kwargs.pop(name, None) for name in _CONVERSATION})
        try:
            command(*args, **kwargs)
        finally:
            _given.reset(token)

    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option(flag, help=text)],
        )
        for name, (flag, text) in _CONVERSATION.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


JobsOpt = Annotated[
    int | None,
    typer.Option(
        "--jobs", help="Trials at once, a process each; on a cluster as many as it has room for, if not given."
    ),
]
OnOpt = Annotated[str, typer.Option("--on", help="Where trials run: here, or ray for a Ray cluster (d90[ray]).")]
GpusOpt = Annotated[float, typer.Option("--num-gpus", help="With --on ray: GPUs, or a share of one, for each trial.")]
AddressOpt = Annotated[
    str | None, typer.Option("--address", help="With --on ray: the cluster's, as auto or HOST:6379.")
]


def check_executor(on: str, num_gpus: float, address: str | None) -> None:
    """Refuse what `where` cannot give.

    Raises:
        InputError: an unknown place, or options of Ray's without it.
    """
    from d90.errors import InputError, unknown_name

    if on not in ("here", "ray"):
        raise unknown_name("place --on", on, ("here", "ray"))
    if on == "here" and (num_gpus or address):
        raise InputError("got --num-gpus or --address without --on ray, expected them with it")


@contextmanager
def open_executor(jobs: int | None, on: str, num_gpus: float, address: str | None) -> Iterator[Executor | None]:
    """The executor that was asked for; None: trials run in this process.

    Raises:
        InputError: as `check_where`.
    """
    check_executor(on, num_gpus, address)
    executor: Executor | None = None
    if on == "ray":
        from d90.trials.ray import Cluster

        executor = Cluster(jobs, num_gpus, address=address)
    elif jobs is not None:
        from d90.trials.local import Local

        executor = Local(jobs)
    try:
        yield executor
    finally:
        if executor is not None:
            executor.close()


def recipe_options(
    text: str | None,
    label: str | None,
    metric: str | None,
    kind: str | None,
    positive: str | None = None,
    **recipe: Any,
) -> dict[str, Any]:
    """Fields of a Recipe; columns only where they were given."""
    columns = {"text": text, "label": label, "metric": metric, "kind": kind, "positive": positive} | _given.get()
    if recipe.get("step_rule", 0) is None:
        del recipe["step_rule"]  # left open, it is no part of what is asked
    return {**recipe, "columns": {key: value for key, value in columns.items() if value is not None}}


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
