"""`d90 latency`: what adapters and prefixes add to a forward pass, beside merged LoRA."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.expand import expanded
from d90.cli.options import ModelArg, check_methods, command_line, echo, make_progress, split_methods
from d90.joined import read_joined
from d90.options import LatencyOptions

if TYPE_CHECKING:
    from d90.results.latency import Latency


@expanded()
def latency(
    model: ModelArg = "minilm",
    options: LatencyOptions = LatencyOptions(),
    r: Annotated[str, typer.Option("--r", help="Widths of the adapters, joined by commas.")] = "64",
    prefix: Annotated[int, typer.Option(help="Positions of PreEmbed and PreLayer.")] = 16,
    methods: Annotated[
        str | None, typer.Option(help="Methods, separated by spaces, in place of the usual.", callback=check_methods)
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The figures, as JSON.")] = Path("runs/latency.json"),
) -> None:
    """Time forward passes with each method on the model, as table 1 of the LoRA paper."""
    from d90.studies.latency import latency as study
    from d90.studies.latency import usual_methods

    chosen = split_methods(methods) if methods is not None else usual_methods(read_joined("r", r), prefix)
    result = study(model, chosen, options=options, progress=make_progress(), command=command_line())
    result.save(out)
    _show(result)
    echo(f"figures: {out}")


def _show(result: Latency) -> None:
    from d90.training.console import make_table, print_table

    title = f"{result.model}, {result.weights:,} weights: what is added to a forward pass"
    table = make_table(
        title, caption="medians over rounds in which every model runs once, and 95 % intervals that cover the noise"
    )
    table.add_column("method", overflow="fold")
    sizes = [list(rows) for _, rows in itertools.groupby(result.rows, lambda row: (row.batch, row.length))]
    for rows in sizes:
        table.add_column(f"{rows[0].batch} x {rows[0].length}", justify="right")
    for row in zip(*sizes, strict=True):
        if row[0].method == "base":
            table.add_row("full, or merged", *(f"{cell.milliseconds:,.1f} ms" for cell in row), end_section=True)
        else:
            name = f"{row[0].asked}{', merged' if row[0].merged else ''}"
            table.add_row(
                name,
                *(f"{100 * c.added:+.1f} %\n({100 * c.low:+.1f} ... {100 * c.high:+.1f})" for c in row),
            )
    print_table(table)
    rounds = ", ".join(str(rows[0].rounds) for rows in sizes)
    noise = ", ".join(f"{100 * max(row.noise for row in rows):.1f} %" for rows in sizes)
    echo(f"{result.machine}; rounds: {rounds}")
    echo(f"noise: models that add nothing (merged ones, a second copy of the bare one) seemed to add up to {noise}")
