"""`d90 trajectory | family | lowdata`: studies over several models, or over the number of examples."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d90.cli.options import (
    AddressOpt,
    BaselineRateOpt,
    BatchOpt,
    EpochsOpt,
    EvaluationsOpt,
    GpusOpt,
    JobsOpt,
    KindOpt,
    LabelOpt,
    LengthOpt,
    LimitOpt,
    LrOpt,
    MethodOpt,
    MetricOpt,
    ModelArg,
    OnOpt,
    PositiveOpt,
    PrecisionOpt,
    RateOpt,
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
    split_methods,
)
from d90.joined import read_joined

if TYPE_CHECKING:
    from d90.results.series import Series

ModelsArg = Annotated[
    list[str],
    typer.Argument(help="Models: folders, hub names, or NAME@REVISION; the last one's target counts for all."),
]
TasksOpt = Annotated[str, typer.Option("--tasks", help="Tasks, separated by spaces.")]
TargetOpt = Annotated[str, typer.Option(help="last: one target for all models; own: each model's; both.")]
RuleOpt = Annotated[
    str | None,
    typer.Option(
        help="paper: 90 % of the score; gain: 90 % of the way from chance. By default paper, and gain for a correlation or a loss."
    ),
]
FractionOpt = Annotated[float, typer.Option(help="The share to reach, 0.9 for d90.")]
StartOpt = Annotated[int, typer.Option(help="The d each search starts at.")]
LowOpt = Annotated[int | None, typer.Option(help="Smallest d to try.")]
HighOpt = Annotated[int | None, typer.Option(help="Largest d to try.")]
ResolutionOpt = Annotated[float, typer.Option(help="A search ends when its interval's ends are within this ratio.")]
BudgetOpt = Annotated[float, typer.Option(help="A search ends when this many full fine-tunings were spent.")]
SeedsOpt = Annotated[int, typer.Option(help="Trials of the baseline under the margin rule.")]
PageOpt = Annotated[Path | None, typer.Option(help="The HTML page; beside the store by default.")]
LogOpt = Annotated[Path | None, typer.Option(help="Append one JSON line for each trial as it ends.")]


@conversational
def trajectory(
    models: ModelsArg,
    tasks: TasksOpt = "docstrings",
    method: MethodOpt = "full",
    target: TargetOpt = "last",
    rule: RuleOpt = None,
    fraction: FractionOpt = 0.9,
    start: StartOpt = 4096,
    low: LowOpt = None,
    high: HighOpt = None,
    resolution: ResolutionOpt = 1.25,
    budget: BudgetOpt = 9.0,
    seeds: SeedsOpt = 2,
    baseline_lr: BaselineRateOpt = None,
    text: TextOpt = None,
    label: LabelOpt = None,
    metric: MetricOpt = None,
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
    page: PageOpt = None,
    log: LogOpt = None,
    jobs: JobsOpt = None,
    on: OnOpt = "here",
    num_gpus: GpusOpt = 0.0,
    address: AddressOpt = None,
) -> None:
    """d90 of each checkpoint of a pretraining run: folders, or branches of the hub as owner/model@step4000; the step is the last number."""
    _series("trajectory", **locals())


@conversational
def family(
    models: ModelsArg,
    tasks: TasksOpt = "docstrings",
    method: MethodOpt = "full",
    target: TargetOpt = "own",
    rule: RuleOpt = None,
    fraction: FractionOpt = 0.9,
    start: StartOpt = 4096,
    low: LowOpt = None,
    high: HighOpt = None,
    resolution: ResolutionOpt = 1.25,
    budget: BudgetOpt = 9.0,
    seeds: SeedsOpt = 2,
    baseline_lr: BaselineRateOpt = None,
    text: TextOpt = None,
    label: LabelOpt = None,
    metric: MetricOpt = None,
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
    page: PageOpt = None,
    log: LogOpt = None,
    jobs: JobsOpt = None,
    on: OnOpt = "here",
    num_gpus: GpusOpt = 0.0,
    address: AddressOpt = None,
) -> None:
    """d90 against the number of weights, over models of several sizes."""
    _series("family", **locals())


@conversational
def lowdata(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    methods: Annotated[str, typer.Option("--methods", help="Methods, separated by spaces.")] = "full bitfit lora:r=8",
    counts: Annotated[str, typer.Option(help="Numbers of training examples, and 'all'.")] = "100,1000,10000,all",
    least_steps: Annotated[int, typer.Option(help="A run takes so many optimizer steps at least.")] = 200,
    seeds: Annotated[int, typer.Option(help="Trials of each method at its best learning rate.")] = 1,
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
    validation_limit: ValidationOpt = None,
    max_length: LengthOpt = None,
    precision: PrecisionOpt = "auto",
    store: StoreOpt = Path("runs/d90.sqlite"),
    page: PageOpt = None,
    log: LogOpt = None,
    jobs: JobsOpt = None,
    on: OnOpt = "here",
    num_gpus: GpusOpt = 0.0,
    address: AddressOpt = None,
) -> None:
    """Methods against the number of training examples."""
    from d90.report.environment import write_page
    from d90.report.series import lowdata_page
    from d90.studies.low_data import low_data as run
    from d90.tasks.metrics import to_display

    sizes = read_joined("counts", counts)
    options = recipe_options(
        text, label, metric, kind, positive=positive, lr=lr, epochs=epochs, batch_size=batch_size, evaluations=evaluations, seed=seed,
        validation_limit=validation_limit, max_length=max_length, precision=precision,
    )  # fmt: skip
    with open_executor(jobs, on, num_gpus, address) as executor:
        result = run(
            model,
            task,
            split_methods(methods),
            sizes,
            least_steps=least_steps,
            seeds=seeds,
            store=store,
            progress=make_progress(),
            command=shlex.join(["d90", *sys.argv[1:]]),
            log=log,
            executor=executor,
            **options,
        )
    metric = result.comparisons[0].metric
    for asked, entries in result.rows().items():
        scores = "  ".join(
            f"n = {n:,}: {f'{to_display(entry.mean, metric):.4f}' if entry else 'none'}"
            for n, entry in zip(result.counts, entries, strict=True)
        )
        echo(f"{asked:<30} {scores}")
    written = write_page(lowdata_page(result), page or store.with_suffix(".lowdata.html"))
    echo(f"page: {written}")


def _series(kind: str, **given: Any) -> None:
    from d90.report.environment import write_page
    from d90.report.series import series_page
    from d90.studies import series

    store, page = given["store"], given.pop("page")
    models, tasks, method = given.pop("models"), given.pop("tasks").split(), given.pop("method")
    given = recipe_options(kind=None, **given)
    place = [given.pop(key) for key in ("jobs", "on", "num_gpus", "address")]
    run, command = getattr(series, kind), shlex.join(["d90", *sys.argv[1:]])
    with open_executor(*place) as executor:
        result = run(models, tasks, method, progress=make_progress(), command=command, executor=executor, **given)
    _show(result)
    written = write_page(series_page(result), page or store.with_suffix(f".{kind}.html"))
    echo(f"page: {written}")


def _show(result: Series) -> None:
    from d90.search.summary import ends_in_words
    from d90.tasks.metrics import to_display
    from d90.training.console import make_table, print_table

    table = make_table(f"{result.kind}: {result.method}, {result.rule} rule")
    for name in ("model", "task", result.xlabel, "target", "full", "threshold", "d90", "interval"):
        table.add_column(name, justify="left" if name in ("model", "task") else "right", overflow="fold")
    for cell in result.cells:
        scores = (cell.score, cell.threshold)
        full, threshold = ("" if value is None else f"{to_display(value, cell.metric):.4f}" for value in scores)
        answer = f"{cell.d90:,}" if cell.d90 is not None else cell.status
        ends = ends_in_words(*cell.interval) if any(cell.interval) else ""
        table.add_row(cell.model, cell.task, f"{cell.x:,}", cell.target, full, threshold, answer, ends)
    print_table(table)
    for task, giver in result.givers.items():
        last = [cell.model for cell in result.cells if cell.task == task][-1]
        other = "" if giver == last else f": {last} could not be trained"
        echo(f"target 'last' on {task}: the one of {giver}{other}")
    for cell in result.cells:
        if cell.error:
            echo(f"{cell.model} on {cell.task}: {cell.error}")
