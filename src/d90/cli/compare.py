"""`d90 compare`: methods side by side, as a table and a page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.options import (
    AddressOpt,
    BatchOpt,
    CheckpointOpt,
    EpochsOpt,
    EvaluationsOpt,
    GpusOpt,
    JobsOpt,
    KindOpt,
    LabelOpt,
    LengthOpt,
    LimitOpt,
    LrOpt,
    MetricOpt,
    ModelArg,
    OnOpt,
    PositiveOpt,
    PrecisionOpt,
    SeedOpt,
    StoreOpt,
    TaskArg,
    TextOpt,
    ValidationOpt,
    conversational,
    echo,
    make_progress,
    open_executor,
    recipe_options,
    split_methods,
)
from d90.joined import read_joined

if TYPE_CHECKING:
    from d90.results.compare import Comparison


@conversational
def compare(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    methods: Annotated[str, typer.Option("--methods", help="Methods, separated by spaces.")] = "full bitfit lora:r=8",
    seeds: Annotated[int, typer.Option(help="Trials of each method at its best learning rate.")] = 1,
    rates: Annotated[str, typer.Option(help="Factors of each method's default rate to try.")] = "0.333,1,3",
    costs: Annotated[bool, typer.Option(help="Measure time, memory and latency as well.")] = True,
    text: TextOpt = None,
    label: LabelOpt = None,
    metric: MetricOpt = None,
    kind: KindOpt = None,
    positive: PositiveOpt = None,
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
    checkpoint_minutes: CheckpointOpt = 10.0,
    page: Annotated[Path | None, typer.Option(help="The HTML page; beside the store by default.")] = None,
    log: Annotated[Path | None, typer.Option(help="Append one JSON line for each trial as it ends.")] = None,
    jobs: JobsOpt = None,
    on: OnOpt = "here",
    num_gpus: GpusOpt = 0.0,
    address: AddressOpt = None,
) -> None:
    """Compare methods: numbers trained and stored, score with its spread, time, memory, latency."""
    from d90.report.compare import write_comparisons
    from d90.studies.compare import compare as run
    from d90.trials.store import Store

    chosen, opened = split_methods(methods), Store(store, checkpoint_minutes=checkpoint_minutes)
    options = recipe_options(
        text,
        label,
        metric,
        kind,
        positive=positive,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        evaluations=evaluations,
        seed=seed,
        train_limit=train_limit,
        validation_limit=validation_limit,
        max_length=max_length,
        precision=precision,
    )
    with open_executor(jobs, on, num_gpus, address) as executor:
        result = run(
            model,
            task,
            chosen,
            seeds=seeds,
            rates=read_joined("rates", rates),
            store=opened,
            costs=costs,
            progress=make_progress(),
            command=shlex.join(["d90", *sys.argv[1:]]),
            log=log,
            executor=executor,
            **options,
        )
    written = write_comparisons(opened, page or store.with_suffix(".compare.html"))
    _show(result)
    echo(f"page: {written}")


def _show(result: Comparison) -> None:
    from d90.report.compare import interval, verdicts
    from d90.tasks.metrics import to_display
    from d90.training.console import make_table, print_table

    table = make_table(f"{result.model} on {result.task}: {result.split} {result.metric}, {result.seeds} seed(s)")
    costs = any(entry.cost for entry in result.entries)
    names = ("", "method", "trained", "stored", result.metric, "interval", "lr")
    for name in (*names, *(("step", "memory", "latency") if costs else ())):
        method = name == "method"
        table.add_column(
            name,
            justify="left" if method or not name else "right",
            no_wrap=not method,
            min_width=12 if method else None,
        )
    for entry in sorted(result.entries, key=lambda entry: entry.stored):
        row = ["*" if entry.front else "", entry.asked, f"{entry.trained:,}", f"{entry.stored:,}"]
        row += [f"{to_display(entry.mean, result.metric):.4f}", interval(entry, result.metric), f"{entry.lr:g}"]
        if entry.cost:
            cost = entry.cost
            row += [f"{cost.step_ratio:.2f}", f"{cost.memory / 1e6:.0f} MB", f"{100 * (cost.latency_ratio - 1):+.1f} %"]
        table.add_row(*row)
    print_table(table)
    for line in (
        *verdicts(result),
        *(["step: over full fine-tuning's; latency: over the merged model's"] if costs else []),
    ):
        echo(line)
