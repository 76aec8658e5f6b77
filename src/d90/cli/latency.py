"""`d90 latency`: what adapters and prefixes add to a forward pass, beside merged LoRA."""

from __future__ import annotations

import itertools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.options import ModelArg, SeedOpt, echo, make_progress, split_methods
from d90.joined import read_joined

if TYPE_CHECKING:
    from d90.results.latency import Latency


def latency(
    model: ModelArg = "minilm",
    shape: Annotated[str | None, typer.Option(help="gpt2-medium, bert-base, ...: random weights, no network.")] = None,
    pairs: Annotated[str, typer.Option(help="BATCHxTOKENS, joined by commas.")] = "32x512,16x256,1x128,1x64",
    r: Annotated[str, typer.Option("--r", help="Widths of the adapters, joined by commas.")] = "64",
    prefix: Annotated[int, typer.Option(help="Positions of PreEmbed and PreLayer.")] = 16,
    methods: Annotated[str | None, typer.Option(help="Methods, separated by spaces, in place of the usual.")] = None,
    rounds: Annotated[int, typer.Option(help="Passes of each method at each size, at least.")] = 7,
    seconds: Annotated[float, typer.Option(help="Go on with rounds at each size for so long.")] = 20,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
    seed: SeedOpt = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The figures, as JSON.")] = Path("runs/latency.json"),
) -> None:
    """Time forward passes with each method on the model, as table 1 of the LoRA paper."""
    from d90.studies.latency import latency as run
    from d90.studies.latency import usual_methods

    result = run(
        model,
        split_methods(methods) if methods is not None else usual_methods(read_joined("r", r), prefix),
        shape=shape,
        pairs=read_joined("pairs", pairs),
        rounds=rounds,
        seconds=seconds,
        dtype=dtype,
        threads=threads,
        seed=seed,
        progress=make_progress(),
        command=shlex.join(["d90", *sys.argv[1:]]),
    )
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
    machine = f"{result.definitions['processor']}, {result.definitions['threads']} threads, {result.dtype}"
    noise = ", ".join(f"{100 * max(row.noise for row in rows):.1f} %" for rows in sizes)
    echo(f"{machine}; rounds: {rounds}")
    echo(f"noise: models that add nothing (merged ones, a second copy of the bare one) seemed to add up to {noise}")
