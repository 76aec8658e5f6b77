"""`d90 measure` and `d90 report`: the measurement, and the page of everything measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.expand import expanded
from d90.cli.options import MethodOpt, ModelArg, StoreOpt, TaskArg, command_line, echo, make_progress
from d90.cli.spelling import as_options
from d90.options import SearchOptions, TaskOptions, TrainingOptions
from d90.training.trackers import TrackerOptions
from d90.trials.options import CommandRunOptions

if TYPE_CHECKING:
    from d90.results.measure import Measurement


@expanded()
def measure(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    method: MethodOpt = "full",
    search: SearchOptions = SearchOptions(),
    data: TaskOptions = TaskOptions(),
    training: TrainingOptions = TrainingOptions(lr="auto"),
    sure: Annotated[
        bool, typer.Option("--sure", help="Say as well the smallest d whose mean passes with a probability of 90 %.")
    ] = False,
    run: CommandRunOptions = CommandRunOptions(),
    trackers: TrackerOptions = TrackerOptions(),
) -> None:
    """Measure d90: the smallest d whose fine-tune reaches 90 % of full fine-tuning."""
    from d90.report import measure as report
    from d90.studies.measure import measure as study

    with trackers.tracking(make_progress()) as progress, run.opened(progress, command_line()) as opened:
        result = study(model, task, method, search=search, training=training, data=data, run=opened)
    written = report.write_report(opened.open_store(), run.page_path(".html"))
    _show(result)
    echo(f"\n{as_options(str(result), measure)}")
    if result.status == "found":
        echo(f"{result.trained_there}; the interval is that of this validation split")
    if sure:
        echo(result.shipped)
    if result.line:
        echo(f"to train it: {result.line}")
    if result.tune:
        echo(f"its tune: {result.tune} ({Path(result.tune).stat().st_size:,} bytes)")
    if result.other:
        echo(f"the store holds another space that passes the same threshold: {result.other}")
    if result.more:
        echo(result.more)
    echo(f"page: {written}")


def report(
    store: StoreOpt = Path("runs/d90.sqlite"),
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The index; STORE.report.html by default. The pages lie beside it."),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the pages on this machine, made anew while trials run.")
    ] = False,
    port: Annotated[int, typer.Option(help="With --serve: the port on 127.0.0.1; any free one by default.")] = 0,
) -> None:
    """Write the pages of everything in a store, with an index that says what to take."""
    if serve:
        from d90.report.serve import serving

        with serving(store, port) as server:
            echo(f"http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends it)")
            server.serve_forever()
        return
    from d90.trials.store import Store

    opened = Store(store, write=False)  # where there is none, that is told before what draws pages is imported

    from d90.report.store import write_store

    echo(f"page: {write_store(opened, out or store.with_suffix('.report.html'))}")


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
