"""`d90 trajectory | family | lowdata`: studies over several models, or over the number of examples."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d90.commands.options import (
    BatchOpt,
    EpochsOpt,
    EvaluationsOpt,
    LengthOpt,
    LimitOpt,
    LrOpt,
    MethodOpt,
    ModelArg,
    PrecisionOpt,
    SeedOpt,
    StoreOpt,
    TaskArg,
    ValidationOpt,
    told,
)
from d90.errors import InputError

if TYPE_CHECKING:
    from d90.series import Series

ModelsArg = Annotated[
    list[str], typer.Argument(help="Models: folders or hub names; the last one's target counts for all.")
]
TasksOpt = Annotated[str, typer.Option("--tasks", help="Tasks, separated by spaces.")]
TargetOpt = Annotated[str, typer.Option(help="last: one target for all models; own: each model's; both.")]
RuleOpt = Annotated[str, typer.Option(help="paper: 90 % of the score; gain: 90 % of the way from chance.")]
StartOpt = Annotated[int, typer.Option(help="The d each search starts at.")]
ResolutionOpt = Annotated[float, typer.Option(help="Stop when a bracket's ends are within this ratio.")]
PageOpt = Annotated[Path | None, typer.Option(help="The HTML page; beside the store by default.")]
LogOpt = Annotated[Path | None, typer.Option(help="Append one JSON line for each trial as it ends.")]


def trajectory(
    models: ModelsArg,
    tasks: TasksOpt = "docstrings",
    method: MethodOpt = "full",
    target: TargetOpt = "last",
    rule: RuleOpt = "paper",
    start: StartOpt = 256,
    resolution: ResolutionOpt = 1.5,
    lr: LrOpt = None,
    epochs: EpochsOpt = 3,
    batch_size: BatchOpt = 32,
    evaluations: EvaluationsOpt = 6,
    seed: SeedOpt = 0,
    train_limit: LimitOpt = None,
    validation_limit: ValidationOpt = None,
    max_length: LengthOpt = None,
    precision: PrecisionOpt = "auto",
    store: StoreOpt = Path("runs/d90.sqlite"),
    page: PageOpt = None,
    log: LogOpt = None,
) -> None:
    """d90 of each checkpoint of a pretraining run; a checkpoint's step is the last number in its name."""
    _series("trajectory", **locals())


def family(
    models: ModelsArg,
    tasks: TasksOpt = "docstrings",
    method: MethodOpt = "full",
    target: TargetOpt = "own",
    rule: RuleOpt = "paper",
    start: StartOpt = 256,
    resolution: ResolutionOpt = 1.5,
    lr: LrOpt = None,
    epochs: EpochsOpt = 3,
    batch_size: BatchOpt = 32,
    evaluations: EvaluationsOpt = 6,
    seed: SeedOpt = 0,
    train_limit: LimitOpt = None,
    validation_limit: ValidationOpt = None,
    max_length: LengthOpt = None,
    precision: PrecisionOpt = "auto",
    store: StoreOpt = Path("runs/d90.sqlite"),
    page: PageOpt = None,
    log: LogOpt = None,
) -> None:
    """d90 against the number of weights, over models of several sizes."""
    _series("family", **locals())


def lowdata(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    methods: Annotated[str, typer.Option("--methods", help="Methods, separated by spaces.")] = "full bitfit lora:r=8",
    counts: Annotated[str, typer.Option(help="Numbers of training examples, and 'all'.")] = "100,1000,10000,all",
    least_steps: Annotated[int, typer.Option(help="A run takes so many optimizer steps at least.")] = 200,
    seeds: Annotated[int, typer.Option(help="Trials of each method at its best learning rate.")] = 1,
    lr: LrOpt = None,
    epochs: EpochsOpt = 3,
    batch_size: BatchOpt = 32,
    evaluations: EvaluationsOpt = 6,
    seed: SeedOpt = 0,
    validation_limit: ValidationOpt = None,
    max_length: LengthOpt = None,
    precision: PrecisionOpt = "auto",
    store: StoreOpt = Path("runs/d90.sqlite"),
    page: PageOpt = None,
    log: LogOpt = None,
) -> None:
    """Methods against the number of training examples."""
    from d90.lowdata import lowdata as run
    from d90.report.lines import lowdata_page, write_page

    parts = [part.strip() for part in counts.split(",") if part.strip()]
    if not parts or not all(part == "all" or part.isdecimal() for part in parts):
        raise InputError(
            f"got --counts {counts}, expected whole numbers and 'all' joined by commas, as in 100,1000,all"
        )
    options: dict[str, Any] = {
        "lr": lr,
        "epochs": epochs,
        "batch_size": batch_size,
        "evaluations": evaluations,
        "seed": seed,
    }
    options |= {"validation_limit": validation_limit, "max_length": max_length, "precision": precision}
    result = run(
        model,
        task,
        methods.split(),
        [None if part == "all" else int(part) for part in parts],
        least_steps=least_steps,
        seeds=seeds,
        store=store,
        progress=told(),
        command=shlex.join(["d90", *sys.argv[1:]]),
        log=log,
        **options,
    )
    for i, entry in enumerate(result.comparisons[0].entries):
        scores = "  ".join(
            f"n = {n:,}: {comparison.entries[i].mean:.4f}"
            for n, comparison in zip(result.counts, result.comparisons, strict=True)
        )
        typer.echo(f"{entry.asked:<30} {scores}")
    written = write_page(lowdata_page(asdict(result)), page or store.with_suffix(".lowdata.html"))
    typer.echo(f"page: {written}")


def _series(kind: str, **given: object) -> None:
    from d90 import series
    from d90.report.lines import series_page, write_page

    store, page = given["store"], given.pop("page")
    assert isinstance(store, Path)
    models, tasks, method = given.pop("models"), str(given.pop("tasks")).split(), given.pop("method")
    run = getattr(series, kind)
    result = run(models, tasks, method, progress=told(), command=shlex.join(["d90", *sys.argv[1:]]), **given)
    _show(result)
    written = write_page(series_page(asdict(result)), page or store.with_suffix(f".{kind}.html"))  # type: ignore[arg-type]
    typer.echo(f"page: {written}")


def _show(result: Series) -> None:
    from rich.table import Table

    from d90.console import console

    table = Table(title=f"{result.kind}: {result.method}, {result.rule} rule")
    for name in ("model", "task", result.xlabel, "target", "full", "d90"):
        table.add_column(name, justify="left" if name in ("model", "task") else "right")
    for cell in result.cells:
        full = "" if cell.score is None else f"{cell.score:.4f}"
        answer = str(cell.d90) if cell.d90 is not None else cell.status
        table.add_row(cell.model, cell.task, f"{cell.x:,}", cell.target, full, answer)
    console.print(table)
    for cell in result.cells:
        if cell.error:
            typer.echo(f"{cell.model} on {cell.task}: {cell.error}")
