"""`d90 certify`: a guarantee on the true error, from the training examples alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.commands.options import (
    BatchOpt,
    EpochsOpt,
    KindOpt,
    LabelOpt,
    LengthOpt,
    LimitOpt,
    LrOpt,
    PrecisionOpt,
    SeedOpt,
    StoreOpt,
    TextOpt,
    recipe_options,
    told,
)
from d90.errors import InputError

if TYPE_CHECKING:
    from d90.certify import Certificate


def certify(
    model: Annotated[str, typer.Argument(help="As for train; or a tune that 'd90 train' wrote (.d90).")] = "minilm",
    task: Annotated[str | None, typer.Argument(help="As for train; not needed beside a tune.")] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="What moves, with a subspace.")] = "full@structure=did",
    dims: Annotated[str, typer.Option(help="Values of d to try, joined by commas.")] = "100,200,400",
    levels: Annotated[str, typer.Option(help="Numbers of values theta may take, to try.")] = "3,5,9",
    prior: Annotated[float, typer.Option(help="Share of the examples that trains the starting point.")] = 0.0,
    delta: Annotated[float, typer.Option(help="1 - confidence.")] = 0.05,
    tried: Annotated[int, typer.Option(help="Seeds, structures, projections tried before, this one included.")] = 1,
    prior_epochs: Annotated[float, typer.Option(help="Passes that train the starting point.")] = 3,
    quantise_epochs: Annotated[float, typer.Option(help="Passes with few values.")] = 2,
    out: Annotated[Path, typer.Option("--out", "-o", help="The certificate to write.")] = Path("runs/certificate.json"),
    check: Annotated[Path | None, typer.Option(help="Check this certificate against its data instead.")] = None,
    text: TextOpt = None,
    label: LabelOpt = None,
    kind: KindOpt = None,
    lr: LrOpt = None,
    epochs: EpochsOpt = 3,
    batch_size: BatchOpt = 32,
    seed: SeedOpt = 0,
    train_limit: LimitOpt = None,
    max_length: LengthOpt = None,
    precision: PrecisionOpt = "auto",
    store: StoreOpt = Path("runs/d90.sqlite"),
) -> None:
    """Bound the true error: description length of a tune, its training error, and what a hold-out would have given."""
    from d90.certify import certify as run
    from d90.certify import check as verify

    if check is not None:
        _show(verify(check))
        typer.echo(f"'{check}' holds: its message decodes to the same errors and the same bound")
        return
    options = recipe_options(
        text,
        label,
        None,
        kind,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        evaluations=1,
        seed=seed,
        train_limit=train_limit,
        max_length=max_length,
        precision=precision,
    )
    result = run(
        model,
        task if task or model.endswith(".d90") else "docstrings",
        method,
        dims=_whole(dims, "--dims"),
        levels=_whole(levels, "--levels"),
        prior=prior,
        delta=delta,
        tried=tried,
        prior_epochs=prior_epochs,
        quantise_epochs=quantise_epochs,
        store=store,
        progress=told(),
        command=shlex.join(["d90", *sys.argv[1:]]),
        **({} if model.endswith(".d90") else options),
    )
    result.save(out)
    _show(result)
    typer.echo(f"certificate: {out}")


def _whole(text: str, option: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise InputError(f"got {option} {text}, expected whole numbers joined by commas, as in 100,200")
    return [int(part) for part in parts]


def _show(result: Certificate) -> None:
    from rich.table import Table

    from d90.console import console

    table = Table(title=f"{result.model} on {result.task}: {result.n:,} examples count")
    for name in ("d", "levels", "training error", "bits", f"bound, {1 - result.delta:.0%}"):
        table.add_column(name, justify="right")
    for one in result.candidates:
        mark = " *" if one == result.best else ""
        row = (f"{one.errors / result.n:.2%}", f"{one.bits:.0f}", f"{one.bound:.2%}{mark}")
        table.add_row(*(str(n) if one.d else "-" for n in (one.d, one.levels)), *row)
    console.print(table)
    typer.echo(f"\n{result}")
    typer.echo("bits: " + ", ".join(f"{name} {bits:g}" for name, bits in result.parts.items() if bits))
    better = "the certificate" if result.bound < result.holdout else "the hold-out"
    typer.echo(f"{better} is the smaller bound; majority class {result.majority:.2%}")
    typer.echo("the bound with " + ", ".join(f"{name} {value:.2%}" for name, value in result.tighter.items()))
    typer.echo("it rests on: " + "; ".join(result.assumptions))
