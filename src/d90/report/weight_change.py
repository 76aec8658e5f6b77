"""The page of `d90 analyze`: spectra, Delta W against W, distances, and heat maps of phi beside those of random subspaces."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from d90.report.claims import analysis_claims, ratio_of_means
from d90.report.environment import render
from d90.report.svg import COLOURS, WIDTH, for_page, log_ticks, new_axes, own_style, rendered
from d90.results.weight_change import Analysis, Likeness, WeightChangeRow

__all__ = ["TABLE7", "RoleMeans", "analysis_page", "maps_figure", "means_by_role", "spectra_figure"]

TABLE7 = ("weight", "delta", "own", "top", "random", "factor")  # its norms, and the amplification
NAMES = {"q": "W_q", "k": "W_k", "v": "W_v", "o": "W_o", "qkv": "W_qkv", "mlp_in": "MLP in", "mlp_out": "MLP out"}


@dataclass(frozen=True)
class RoleMeans:
    """Means over the matrices of a role: of table 7's rows and of the ranks of Delta W.

    Attributes:
        count, full_rank: how many matrices, and how many singular values each has at least.
        against: (r, the values of `TABLE7`) for each rank.
    """

    role: str
    count: int
    full_rank: int
    against: tuple[tuple[int, dict[str, float]], ...]
    stable_rank: float
    effective_rank: float
    energy_rank: float


def analysis_page(analysis: Analysis) -> str:
    """The page as text; equal analyses give equal bytes."""
    from markupsafe import Markup

    tunes = [(analysis.tune, analysis.method, analysis.rows)]
    if analysis.other_rows:
        tunes.append((analysis.other, analysis.other_method, analysis.other_rows))
    return render(
        "analysed.html",
        analysis=analysis,
        spectra=Markup(spectra_figure([rows for _, _, rows in tunes])),
        maps=Markup(maps_figure(analysis.likeness)) if analysis.likeness else "",
        tables=[(name, how, means_by_role(rows)) for name, how, rows in tunes],
        distances=_distances(analysis.likeness),
        claims=analysis_claims(analysis),
    )


def _by_role(rows: Sequence[WeightChangeRow]) -> dict[str, list[WeightChangeRow]]:
    found: dict[str, list[WeightChangeRow]] = defaultdict(list)
    for row in rows:
        found[NAMES.get(row.role, row.role or "other")].append(row)
    return found


def means_by_role(rows: Sequence[WeightChangeRow]) -> list[RoleMeans]:
    """Table 7: means over the matrices of each role, of their ranks too."""
    return [_means(role, ones) for role, ones in _by_role(rows).items()]


def _means(role: str, rows: Sequence[WeightChangeRow]) -> RoleMeans:
    against = []
    for index in range(min(len(row.against) for row in rows)):
        ones = [row.against[index] for row in rows]
        means = {key: statistics.fmean(getattr(one, key) for one in ones) for key in TABLE7[:-1]}
        against.append((ones[0].r, {**means, "factor": ratio_of_means(ones)}))
    return RoleMeans(
        role,
        len(rows),
        full_rank=min(len(row.spectrum.values) for row in rows),
        against=tuple(against),
        stable_rank=statistics.fmean(row.spectrum.stable_rank for row in rows),
        effective_rank=statistics.fmean(row.spectrum.effective_rank for row in rows),
        energy_rank=statistics.fmean(row.spectrum.energy_rank for row in rows),
    )


def _sides(likeness: Sequence[Likeness]) -> dict[tuple[str, str], list[Likeness]]:
    groups: dict[tuple[str, str], list[Likeness]] = defaultdict(list)
    for one in likeness:
        groups[NAMES.get(one.role, one.role or "other"), one.side].append(one)
    return groups


def _distances(likeness: Sequence[Likeness]) -> list[dict[str, object]]:
    """A row for each role, side and p: means over the matrices, beside what random spans have and the most there is."""
    found: list[dict[str, object]] = []
    for (role, side), ones in _sides(likeness).items():
        for index in range(min(len(one.distances) for one in ones)):
            p = ones[0].distances[index][0]
            phi = statistics.fmean(one.phi[p - 1][p - 1] for one in ones)
            null = statistics.fmean(one.null[p - 1][p - 1] for one in ones)
            projection, geodesic = (statistics.fmean(one.distances[index][k] for one in ones) for k in (1, 2))
            found.append(
                {
                    "role": role, "side": side, "p": p, "phi": phi, "null": null, "projection": projection, "geodesic": geodesic,
                    "random": math.sqrt(p * (1 - null)), "most": math.sqrt(p), "farthest": math.sqrt(p) * math.pi / 2,
                }
            )  # fmt: skip
    return found


def spectra_figure(given: Sequence[Sequence[WeightChangeRow]]) -> str:
    """Singular values of the matrices of one tune or two: a line a role, the second tune's broken."""
    tunes = [_by_role(rows) for rows in given]
    colours = {role: COLOURS[i % len(COLOURS)] for i, role in enumerate({role: 0 for roles in tunes for role in roles})}
    with own_style():
        figure, axes = new_axes(3.7)
        for roles, dash, more in zip(tunes, ("-", "--"), ("", ", the other"), strict=False):
            for role, rows in roles.items():
                length = min(len(row.spectrum.values) for row in rows)
                top = [max(row.spectrum.values[0], 1e-300) for row in rows]
                values = [
                    statistics.fmean(row.spectrum.values[n] / first for row, first in zip(rows, top, strict=True))
                    for n in range(length)
                ]
                kept = [(n, value) for n, value in enumerate(values, 1) if value > 1e-6]
                axes.plot(
                    *zip(*kept, strict=True), dash, color=colours[role], linewidth=1.3, label=f"{role}{more}",
                    marker="o", markersize=3.5 if len(kept) < 12 else 0,
                )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            log_ticks(axis, lambda value: f"{value:g}")
        axes.set_xlabel("singular value's number (log scale)")
        axes.set_ylabel("over the largest (log scale)")
        figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8.5, columnspacing=1.5)
        return for_page(rendered(figure), ["Spectrum of Delta W, mean over the matrices of a role"], {}, "s")


def maps_figure(likeness: Sequence[Likeness]) -> str:
    """A row a role and side: phi, mean over the layers, and the random null on the same scale."""
    from matplotlib.figure import Figure

    groups = _sides(likeness)
    with own_style():
        figure = Figure(figsize=(WIDTH, 0.4 + 1.9 * len(groups)), layout="constrained")
        grid = figure.subplots(len(groups), 2, squeeze=False)
        for row, ((role, side), ones) in zip(grid, groups.items(), strict=True):
            phis, nulls = [one.phi for one in ones], [one.null for one in ones]
            for axes, tables, title in ((row[0], phis, f"{role}, {side}"), (row[1], nulls, "two random subspaces")):
                height, width = min(map(len, tables)), min(len(table[0]) for table in tables)
                mean = [[statistics.fmean(one[i][j] for one in tables) for j in range(width)] for i in range(height)]
                shown = axes.imshow(
                    mean, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower", interpolation="nearest",
                    extent=(0.5, width + 0.5, 0.5, height + 0.5),
                )  # fmt: skip
                for axis, size in ((axes.xaxis, width), (axes.yaxis, height)):
                    axis.set_ticks(sorted({1, size // 2, size} - {0}))
                axes.set_title(title, fontsize=9, loc="left")
                axes.set_xlabel("j", labelpad=0)
                axes.set_ylabel("i", rotation=0)
        figure.colorbar(shown, ax=grid.ravel().tolist(), fraction=0.03, aspect=12 * len(groups), label="phi(i, j)")
        return for_page(rendered(figure), [], {}, "m")
