"""`d90 analyze`: what a tune changed, matrix by matrix, and how alike two tunes are."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.options import echo
from d90.files import write_text
from d90.joined import read_joined

if TYPE_CHECKING:
    from d90.results.weight_change import Analysis


def analyze(
    tune: Annotated[str, typer.Argument(help="A tune written by 'd90 train', or a folder with a peft adapter.")],
    other: Annotated[str | None, typer.Argument(help="Another, to compare it with.")] = None,
    model: Annotated[str | None, typer.Option(help="The base of a peft adapter.")] = None,
    targets: Annotated[str, typer.Option(help="Which matrices: letters of qkvo, mlp, all, or names.")] = "all",
    ranks: Annotated[str, typer.Option(help="Ranks of the comparison with W, besides a LoRA's own.")] = "1,4,8",
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML page; the figures go beside it as JSON.")] = Path(
        "runs/analysis.html"
    ),
) -> None:
    """Analyse Delta W: spectrum, amplification, and the similarity of two tunes."""
    from d90.report.environment import write_page
    from d90.report.weight_change import analysis_page
    from d90.studies.weight_change import analyze as run

    chosen = read_joined("ranks", ranks)
    command = shlex.join(["d90", *sys.argv[1:]])
    result = run(tune, other, model=model, targets=targets, ranks=chosen, command=command)
    written = write_page(analysis_page(result), out)
    write_text(out.with_suffix(".json"), json.dumps(result.to_dict()) + "\n")
    _show(result)
    echo(f"page: {written}")


def _show(result: Analysis) -> None:
    from d90.report.claims import analysis_claims
    from d90.report.weight_change import TABLE7, means_by_role
    from d90.training.console import make_table, print_table

    for tune, method, rows in (
        (result.tune, result.method, result.rows),
        (result.other, result.other_method, result.other_rows),
    ):
        if not rows:
            continue
        table = make_table(f"{tune}: {method}, means over {len(rows)} matrices")
        for name in ("matrices", "r", "W", "Delta", "W in Delta's", "W in its own", "random", "factor"):
            table.add_column(name, justify="left" if name == "matrices" else "right")
        means = means_by_role(rows)
        for mean in means:
            for r, norms in mean.against:
                table.add_row(mean.role, str(r), *(f"{norms[key]:.3g}" for key in TABLE7))
        print_table(table)
        for mean in means:
            echo(
                f"{mean.role}: effective rank {mean.effective_rank:.1f}, 90 % of the square in {mean.energy_rank:.1f} "
                f"of {mean.full_rank} directions"
            )
    sides = defaultdict(list)
    for like in result.likeness:
        sides[like.role, like.side].append(like.distances[-1])
    for (role, side), values in sides.items():
        p, projection, geodesic = (statistics.fmean(column) for column in zip(*values, strict=True))
        echo(
            f"{role or 'other'}, {side}: spans of {p:g} directions: projection distance {projection:.3f}, geodesic {geodesic:.3f}"
        )
    for words, verdict in analysis_claims(result):
        echo(f"{words}: {verdict}")
