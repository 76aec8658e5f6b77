"""`d90 gap`: d90 against evaluation accuracy and against the relative generalization gap, from stores of measurements."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from d90.cli.options import echo, make_progress


def gap(
    stores: Annotated[list[Path], typer.Argument(help="Stores of measurements, trajectories or families.")],
    method: Annotated[
        str,
        typer.Option("--method", "-m", help="Only methods whose stored name begins so, as full@structure=did."),
    ] = "",
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="Train each tune at d90 whose training accuracy is in no store, and keep it there."
        ),
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML page.")] = Path("runs/gap.html"),
) -> None:
    """d90 against evaluation accuracy and against the relative generalization gap, over every measurement in the stores."""
    from d90.trials.store import Store

    for store in stores:  # one that is not there is told before torch is imported
        Store(store, write=False).close()

    from d90.report.environment import write_page
    from d90.report.generalization import gaps_page
    from d90.studies.generalization import LEVELS, generalization
    from d90.training.console import make_table, print_table

    rows = generalization(stores, method=method, train=train, progress=make_progress())
    table = make_table("d90 and generalization")
    for name in ("model", "task", "rule", "d90", "full", "train", "evaluation", "gap", "capacity"):
        table.add_column(name, justify="left" if name in ("model", "task") else "right")
    for row in rows:
        numbers = (row.baseline, row.train, row.evaluation, row.gap, row.capacity)
        table.add_row(
            row.model,
            row.task,
            row.rule,
            f"{row.d90:,}",
            *("-" if number is None else f"{number:.4f}" for number in numbers),
        )
    print_table(table)
    lacking = sum(row.train is None for row in rows)
    if lacking and not train:
        echo(f"{lacking} of {len(rows)} have no training accuracy yet: --train trains each of their tunes once")
    page = gaps_page(rows, LEVELS, shlex.join(["d90", *sys.argv[1:]]))
    echo(f"page: {write_page(page, out)}")
