"""`d90 measure` and `d90 report`: the measurement, and the page of everything measured."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.spelling import as_options
from d90.joined import read_joined

if TYPE_CHECKING:
    from d90.results.measure import Measurement
from d90.cli.options import (
    AddressOpt,
    BaselineRateOpt,
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
    LogsOpt,
    MethodOpt,
    MetricOpt,
    ModelArg,
    OnOpt,
    PositiveOpt,
    PrecisionOpt,
    RateOpt,
    ReportOpt,
    SeedOpt,
    StepRuleOpt,
    StoreOpt,
    TaskArg,
    TextOpt,
    ValidationOpt,
    conversational,
    echo,
    make_progress,
    open_executor,
    recipe_options,
)


@conversational
def measure(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    method: MethodOpt = "full",
    rule: Annotated[
        str | None,
        typer.Option(
            help="paper: 90 % of the score; gain: 90 % of the way from chance; margin: with --within. By default paper, and gain "
            "for a correlation or a loss."
        ),
    ] = None,
    fraction: Annotated[float, typer.Option(help="The share of the baseline to reach.")] = 0.9,
    within: Annotated[
        float | None,
        typer.Option(help="Points below the baseline that are good enough, by a paired test on the examples."),
    ] = None,
    dims: Annotated[str, typer.Option(help="Values of d to try besides, joined by commas.")] = "",
    low: Annotated[int | None, typer.Option(help="Smallest d to try.")] = None,
    high: Annotated[int | None, typer.Option(help="Largest d to try.")] = None,
    start: Annotated[int, typer.Option(help="The d the search starts at.")] = 4096,
    resolution: Annotated[float, typer.Option(help="Enough when the interval's ends are within this ratio.")] = 1.25,
    budget: Annotated[float, typer.Option(help="Enough when this many full fine-tunings were spent.")] = 9.0,
    parallel: Annotated[
        int, typer.Option(help="Trials the search asks for at once; with --jobs they run at once.")
    ] = 1,
    seeds: Annotated[int, typer.Option(help="Trials of the baseline that others are paired with, under --within.")] = 2,
    sure: Annotated[
        bool, typer.Option("--sure", help="Say as well the smallest d whose mean passes with a probability of 90 %.")
    ] = False,
    full_curve: Annotated[bool, typer.Option("--full-curve", help="Stop no trial early.")] = False,
    prune: Annotated[bool, typer.Option(help="Give up trials whose learning curve says that they will fail.")] = True,
    test: Annotated[
        bool, typer.Option("--test", help="Report test scores; a test split is made where there is none.")
    ] = False,
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline", "--of", help="The method that counts as full, or a number: a score, of a loss the loss."
        ),
    ] = "full",
    baseline_lr: BaselineRateOpt = None,
    baseline_epochs: Annotated[float | None, typer.Option(help="The baseline's epochs.")] = None,
    text: TextOpt = None,
    label: LabelOpt = None,
    metric: MetricOpt = None,
    kind: KindOpt = None,
    positive: PositiveOpt = None,
    lr: RateOpt = "auto",
    epochs: EpochsOpt = 3,
    batch_size: BatchOpt = 32,
    evaluations: EvaluationsOpt = 6,
    seed: SeedOpt = 0,
    train_limit: LimitOpt = None,
    validation_limit: ValidationOpt = None,
    max_length: LengthOpt = None,
    precision: PrecisionOpt = "auto",
    step_rule: StepRuleOpt = None,
    store: StoreOpt = Path("runs/d90.sqlite"),
    checkpoint_minutes: CheckpointOpt = 10.0,
    page: Annotated[Path | None, typer.Option(help="The HTML page; beside the store by default.")] = None,
    log: Annotated[Path | None, typer.Option(help="Append one JSON line for each trial as it ends.")] = None,
    report_to: ReportOpt = "",
    logs: LogsOpt = "runs/logs",
    jobs: JobsOpt = None,
    on: OnOpt = "here",
    num_gpus: GpusOpt = 0.0,
    address: AddressOpt = None,
) -> None:
    """Measure d90: the smallest d whose fine-tune reaches 90 % of full fine-tuning."""
    from d90.report import measure as report
    from d90.studies.measure import measure as run
    from d90.training.trackers import tracked
    from d90.trials.store import Store

    tried = read_joined("dims", dims)
    given: str | float = float(baseline) if _is_number(baseline) else baseline
    with open_executor(jobs, on, num_gpus, address) as executor, tracked(make_progress(), report_to, logs) as progress:
        opened = Store(store, checkpoint_minutes=checkpoint_minutes)
        result = run(
            model,
            task,
            method,
            rule=rule,
            fraction=fraction,
            within=within,
            store=opened,
            full_curve=full_curve,
            prune=prune,
            test=test,
            dims=tried,
            low=low,
            high=high,
            start=start,
            resolution=resolution,
            budget=budget,
            parallel=parallel,
            seeds=seeds,
            baseline=given,
            baseline_lr=baseline_lr,
            baseline_epochs=baseline_epochs,
            command=shlex.join(["d90", *sys.argv[1:]]),
            log=log,
            progress=progress,
            executor=executor,
            **recipe_options(
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
                step_rule=step_rule,
            ),
        )
    written = report.write_report(opened, page or store.with_suffix(".html"))
    _show(result)
    echo(f"\n{as_options(str(result), measure)}")
    if result.status == "found":
        echo(f"{result.trained_there}; the interval is that of this validation split")
    if sure:
        echo(result.shipped)
    echo(f"page: {written}")


def report(
    store: StoreOpt = Path("runs/d90.sqlite"),
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML page; beside the store by default.")] = None,
) -> None:
    """Write the page of everything measured in a store."""
    from d90.report import measure as pages
    from d90.trials.store import Store

    echo(f"page: {pages.write_report(Store(store, write=False), out or store.with_suffix('.html'))}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _show(result: Measurement) -> None:
    from d90.tasks.metrics import rises, to_display
    from d90.training.console import make_table, print_table

    table = make_table(f"{result.model} on {result.task}: {result.metric} against d")
    for name in ("d", "P's seed", "seed", result.metric, "", "seconds"):
        table.add_column(name, justify="right" if name else "left")
    for point in result.curve:
        sign = f"{'>=' if rises(result.metric) else '<='} " if point.at_least else ""
        stopped = None if point.stop_at is None else f"{to_display(point.stop_at, result.metric):.4f}"
        word = {True: "pass", False: "fail", None: f"stopped at {stopped}" if stopped else "stopped"}[
            result.reached(point)
        ]
        if point.status in ("diverged", "hopeless"):
            word = point.status
        score = f"{sign}{to_display(point.score, result.metric):.4f}"
        table.add_row(str(point.d), str(point.p_seed), str(point.seed), score, word, f"{point.seconds:.0f}")
    print_table(table)
    if result.variance:
        share, (low, high) = result.variance.projection, result.variance.interval
        echo(
            f"variance over seeds: {share:.0%} P's ({low:.0%} to {high:.0%}), the rest training's; standard deviation "
            f"{result.variance.deviation:.4f}"
        )
