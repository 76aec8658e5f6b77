"""`d90 trajectory | family | lowdata`: studies over several models, or over the number of examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.expand import expanded
from d90.cli.options import (
    MethodOpt,
    MethodsOpt,
    ModelArg,
    TaskArg,
    check_tasks,
    command_line,
    echo,
    make_progress,
    split_methods,
)
from d90.joined import read_joined
from d90.options import LowDataOptions, SearchOptions, SeriesOptions, TaskOptions, TrainingOptions
from d90.trials.options import CommandRunOptions

if TYPE_CHECKING:
    from d90.results.series import Series

ModelsArg = Annotated[
    list[str],
    typer.Argument(help="Models: folders, hub names, or NAME@REVISION; the last one's target counts for all."),
]
TasksOpt = Annotated[str, typer.Option("--tasks", help="Tasks, separated by spaces.", callback=check_tasks)]


@expanded()
def trajectory(
    models: ModelsArg,
    tasks: TasksOpt = "docstrings",
    method: MethodOpt = "full",
    options: SeriesOptions = SeriesOptions(),
    search: SearchOptions = SearchOptions(),
    data: TaskOptions = TaskOptions(),
    training: TrainingOptions = TrainingOptions(lr="auto"),
    run: CommandRunOptions = CommandRunOptions(),
) -> None:
    """d90 of each checkpoint of a pretraining run: folders, or branches of the hub as owner/model@step4000; the step is the last number."""
    from d90.studies.series import trajectory as study

    with run.opened(make_progress(), command_line()) as opened:
        result = study(
            models, tasks.split(), method, options=options, search=search, training=training, data=data, run=opened
        )
    _show(result)
    _write_page(result, run)


@expanded()
def family(
    models: ModelsArg,
    tasks: TasksOpt = "docstrings",
    method: MethodOpt = "full",
    options: SeriesOptions = SeriesOptions(target="own"),
    search: SearchOptions = SearchOptions(),
    data: TaskOptions = TaskOptions(),
    training: TrainingOptions = TrainingOptions(lr="auto"),
    run: CommandRunOptions = CommandRunOptions(),
) -> None:
    """d90 against the number of weights, over models of several sizes."""
    from d90.studies.series import family as study

    with run.opened(make_progress(), command_line()) as opened:
        result = study(
            models, tasks.split(), method, options=options, search=search, training=training, data=data, run=opened
        )
    _show(result)
    _write_page(result, run)


@expanded(without=("train_limit",))
def lowdata(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    methods: MethodsOpt = "full bitfit lora:r=8",
    counts: Annotated[str, typer.Option(help="Numbers of training examples, and 'all'.")] = "100,1000,10000,all",
    options: LowDataOptions = LowDataOptions(),
    data: TaskOptions = TaskOptions(),
    training: TrainingOptions = TrainingOptions(),
    run: CommandRunOptions = CommandRunOptions(),
) -> None:
    """Methods against the number of training examples."""
    from d90.report.environment import write_page
    from d90.report.series import lowdata_page
    from d90.studies.low_data import low_data as study
    from d90.tasks.metrics import to_display

    sizes, chosen = read_joined("counts", counts), split_methods(methods)
    with run.opened(make_progress(), command_line()) as opened:
        result = study(model, task, chosen, sizes, options=options, training=training, data=data, run=opened)
    metric = result.comparisons[0].metric
    for asked, entries in result.rows().items():
        scores = "  ".join(
            f"n = {n:,}: {f'{to_display(entry.mean, metric):.4f}' if entry else 'none'}"
            for n, entry in zip(result.counts, entries, strict=True)
        )
        echo(f"{asked:<30} {scores}")
    written = write_page(lowdata_page(result), run.page_path(".lowdata.html"))
    echo(f"page: {written}")


def _write_page(result: Series, run: CommandRunOptions) -> None:
    from d90.report.environment import write_page
    from d90.report.series import series_page

    written = write_page(series_page(result), run.page_path(f".{result.kind}.html"))
    echo(f"page: {written}")


def _show(result: Series) -> None:
    from d90.tasks.metrics import to_display
    from d90.training.console import make_table, print_table

    table = make_table(f"{result.kind}: {result.method}, {result.rule} rule")
    for name in ("model", "task", result.xlabel, "target", "full", "threshold", "d90", "interval"):
        table.add_column(name, justify="left" if name in ("model", "task") else "right", overflow="fold")
    for cell in result.cells:
        scores = (cell.score, cell.threshold)
        full, threshold = ("" if value is None else f"{to_display(value, cell.metric):.4f}" for value in scores)
        answer = f"{cell.d90:,}" if cell.d90 is not None else cell.status
        table.add_row(cell.model, cell.task, f"{cell.x:,}", cell.target, full, threshold, answer, cell.ends)
    print_table(table)
    for task, giver in result.givers.items():
        last = [cell.model for cell in result.cells if cell.task == task][-1]
        other = "" if giver == last else f": {last} could not be trained"
        echo(f"target 'last' on {task}: the one of {giver}{other}")
    for cell in result.cells:
        if cell.error:
            echo(f"{cell.model} on {cell.task}: {cell.error}")
