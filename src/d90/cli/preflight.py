"""`d90 preflight`: the memory that a run needs, before anything is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.expand import expanded
from d90.cli.options import MethodOpt, ModelArg, command_line, echo
from d90.options import PreflightOptions

if TYPE_CHECKING:
    from d90.results.preflight import Preflight

WORDS = {
    "weights": "the model's weights",
    "first": "weights before training",
    "optimizer": "Adam's moments",
    "best": "the best evaluation's copy",
    "projection": "what P keeps",
    "step": "a step: activations, gradients",
    "evaluation": "an evaluated batch",
}


@expanded()
def preflight(
    model: ModelArg = "minilm",
    method: MethodOpt = "full",
    options: PreflightOptions = PreflightOptions(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Tell the memory that training takes, from the model's config alone."""
    from d90.studies.preflight import preflight as study

    found = study(model, method, options=options, command=command_line())
    if as_json:
        echo(json.dumps(found.to_dict(), indent=1))
    else:
        _show(found)


def _show(found: Preflight) -> None:
    echo(
        f"{found.method} on {found.model}: {found.count:,} weights in {found.dtype}, {found.moved:,} move, {found.trained:,} trained; "
        f"batch of {found.batch} x {found.tokens}, {found.precision}, {found.device}"
    )
    width = max(map(len, WORDS.values()))
    for name, words in WORDS.items():
        size_of_part = getattr(found.parts, name)
        if size_of_part:
            echo(f"  {words:<{width}}  {_megabytes(size_of_part):>12}")
    echo(f"  {'at most':<{width}}  {_megabytes(found.peak):>12}")
    if found.process is not None and found.device == "cpu":
        echo(f"beside the program itself, {_megabytes(found.process)} with its libraries")
    if found.available is not None:
        echo(f"memory here: {_megabytes(found.available)}; it {'fits' if found.fits else 'does NOT fit'}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
