"""What the commands share: arguments and options, the fields of a recipe, and how they talk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from d90.progress import Progress

ModelArg = Annotated[str, typer.Argument(help="minilm, fc, lenet, mlp:WIDTHS, a hub name or a local folder.")]
TaskArg = Annotated[str, typer.Argument(help="docstrings, glue/NAME, a file or folder, idx:FOLDER, or a hub dataset.")]
MethodOpt = Annotated[str, typer.Option("--method", "-m", help="What moves: method[:key=value,...][@key=value,...].")]
TextOpt = Annotated[str | None, typer.Option("--text", help="Text column, or two joined by a comma.")]
LabelOpt = Annotated[str | None, typer.Option("--label", help="Label column.")]
MetricOpt = Annotated[str | None, typer.Option("--metric", help="accuracy, f1, matthews, pearson, spearman or loss.")]
KindOpt = Annotated[str | None, typer.Option("--kind", help="classification or regression; guessed by default.")]
LrOpt = Annotated[float | None, typer.Option("--lr", help="Adam's learning rate; the method's default if not given.")]
EpochsOpt = Annotated[float, typer.Option("--epochs", help="Passes over the training split.")]
BatchOpt = Annotated[int, typer.Option("--batch-size", help="Examples in a batch.")]
EvaluationsOpt = Annotated[int, typer.Option("--evaluations", help="Evaluations in a run.")]
SeedOpt = Annotated[int, typer.Option("--seed", help="Seed of fresh weights, order, dropout and P.")]
LimitOpt = Annotated[int | None, typer.Option("--train-limit", help="Train on the first N examples.")]
ValidationOpt = Annotated[int | None, typer.Option("--validation-limit", help="Evaluate on the first N examples.")]
LengthOpt = Annotated[int | None, typer.Option("--max-length", help="Cut texts to N tokens.")]
PrecisionOpt = Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")]
ReportOpt = Annotated[
    str, typer.Option("--report-to", help="tensorboard, wandb, trackio or mlflow, joined by commas: curves go there.")
]
LogsOpt = Annotated[str, typer.Option("--logs", help="Where TensorBoard's files go.")]
StoreOpt = Annotated[Path, typer.Option("--store", help="The SQLite file trials are kept in.")]


def recipe_options(
    text: str | None, label: str | None, metric: str | None, kind: str | None, **recipe: Any
) -> dict[str, Any]:
    """Fields of a Recipe; columns only where they were given."""
    columns = {"text": text, "label": label, "metric": metric, "kind": kind}
    return {**recipe, "columns": {key: value for key, value in columns.items() if value is not None}}


def told() -> Progress:
    """Bars on a terminal, plain lines otherwise."""
    from d90.console import progress_for

    return progress_for(sys.stdout.isatty())


def two_columns(title: str, rows: dict[str, str]) -> None:
    """Print names and what they mean."""
    width = max(map(len, rows))
    typer.echo(f"{title}:")
    for name, meaning in rows.items():
        typer.echo(f"  {name:<{width}}  {meaning}")
