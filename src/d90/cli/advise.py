"""`d90 advise`: the smallest method that is as good as a reference, as a sentence, a tune, the line to run, and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.expand import expanded
from d90.cli.options import ModelArg, TaskArg, check_methods, command_line, echo, make_progress, split_methods
from d90.options import AdviseOptions, TaskOptions, TrainingOptions
from d90.trials.options import CommandRunOptions

if TYPE_CHECKING:
    from d90.results.advise import Recommendation


@expanded(without=["lr"])
def advise(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    methods: Annotated[
        str,
        typer.Option(
            "--methods", help="Candidates in place of the usual ones, separated by spaces.", callback=check_methods
        ),
    ] = "",
    options: AdviseOptions = AdviseOptions(),
    data: TaskOptions = TaskOptions(),
    training: TrainingOptions = TrainingOptions(),
    run: CommandRunOptions = CommandRunOptions(),
) -> None:
    """Advise: the smallest method, rank or d that is as good as a reference on your model and data, trained."""
    from d90.report.advise import write_advice
    from d90.studies.advise import advise as study

    chosen = split_methods(methods)
    with run.opened(make_progress(), command_line()) as opened:
        result = study(model, task, chosen, options=options, training=training, data=data, run=opened)
    written = write_advice(opened.open_store(), run.page_path(".advise.html"))
    _show(result)
    echo(f"page: {written}")


def _show(result: Recommendation) -> None:
    from d90.tasks.metrics import to_display
    from d90.training.console import make_table, print_table

    table = make_table(f"{result.model} on {result.task}: {result.metric} of whole runs")
    for name in ("", "method", "stored", "bytes", result.metric, "worse by", "+-", "lr", "seeds"):
        table.add_column(name, justify="left" if name in ("", "method") else "right")
    rows = [*result.tried, *([result.reference] if result.reference else [])]
    for one in sorted(rows, key=lambda row: row.stored):
        mark = "*" if result.chosen is not None and one.method == result.chosen.method else ""
        name = f"{one.method} (reference)" if result.reference and one.method == result.reference.method else one.method
        score = f"{to_display(one.score, result.metric):.4f}" if one.scores else "failed"
        gap = "" if one.gap is None else f"{one.gap:.4f}"
        table.add_row(
            mark, name, f"{one.stored:,}", f"{one.bytes:,}", score, gap, f"{one.error:.4f}", f"{one.lr:g}", str(len(one.scores))
        )  # fmt: skip
    print_table(table)
    for line in result.lines():
        echo(line)
    if result.line:
        echo(f"\n{result.line}")
    for name, text in result.snippets.items():
        echo(f"\n{name}:")
        for line in text.splitlines():
            echo(f"    {line}" if line else "")
    if result.tune:
        adapter = f", and as an adapter {result.adapter}" if result.adapter else ""
        echo(f"\ntrained: {result.tune} ({Path(result.tune).stat().st_size:,} bytes){adapter}")
