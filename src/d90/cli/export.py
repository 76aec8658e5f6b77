"""`d90 export`: the trials of a store as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d90.cli.options import echo

StoreArg = Annotated[Path, typer.Argument(help="The SQLite file trials are kept in.")]
OutOpt = Annotated[Path, typer.Option("--out", "-o", help="A name that ends in .csv, .parquet or .xlsx.")]


def export(store: StoreArg = Path("runs/d90.sqlite"), out: OutOpt = Path("runs/d90.csv")) -> None:
    """Write a row for each trial: CSV, parquet, or a spreadsheet with a sheet for each study."""
    from d90.trials.export import export as write
    from d90.trials.store import Store

    opened = Store(store, write=False)
    echo(f"{len(opened.runs()[1])} trials: {write(opened, out)}")
