"""The page of `d90 analyze`: spectra, Delta W against W, distances, and heat maps of phi beside those of random subspaces."""

from __future__ import annotations

import math
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d90.files import write_text
from d90.report.claims import analysis_claims, ratio_of_means
from d90.report.environment import environment
from d90.report.svg import COLOURS, INK, STYLE, for_page, rendered

__all__ = ["TABLE7", "analysis_page", "means_by_role", "write_analysis"]

TABLE7 = ("weight", "delta", "own", "top", "random", "factor")  # its norms, and the amplification
NAMES = {"q": "W_q", "k": "W_k", "v": "W_v", "o": "W_o", "qkv": "W_qkv", "mlp_in": "MLP in", "mlp_out": "MLP out"}


def write_analysis(analysis: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page of one analysis, `asdict(Analysis)`."""
    return write_text(path, analysis_page(analysis))


def analysis_page(analysis: dict[str, Any]) -> str:
    """The page as text; equal analyses give equal bytes."""
    from markupsafe import Markup

    tunes = [(analysis["tune"], analysis["method"], analysis["rows"])]
    if analysis["other_rows"]:
        tunes.append((analysis["other"], analysis["other_method"], analysis["other_rows"]))
    return (
        environment()
        .get_template("analysed.html")
        .render(
            **analysis,
            spectra=Markup(_spectra([_by_role(rows) for _, _, rows in tunes])),
            maps=Markup(_maps(analysis["likeness"])) if analysis["likeness"] else "",
            tables=[(name, how, means_by_role(rows)) for name, how, rows in tunes],
            distances=_distances(analysis["likeness"]),
            claims=analysis_claims(analysis),
        )
    )


def _by_role(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[NAMES.get(row["role"], row["role"] or "other")].append(row)
    return found


def means_by_role(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Table 7, a dict a role: means over its matrices, of their ranks too."""
    return [_means(role, ones) for role, ones in _by_role(rows).items()]


def _means(role: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    against = []
    for index in range(min(len(row["against"]) for row in rows)):
        ones = [row["against"][index] for row in rows]
        means = {key: statistics.fmean(one[key] for one in ones) for key in TABLE7[:-1]}
        against.append({"r": ones[0]["r"], **means, "factor": ratio_of_means(ones)})
    ranks = {
        key: statistics.fmean(row["spectrum"][key] for row in rows)
        for key in ("stable_rank", "effective_rank", "energy_rank")
    }
    full = min(len(row["spectrum"]["values"]) for row in rows)
    return {"role": role, "count": len(rows), "full_rank": full, "against": against, **ranks}


def _sides(likeness: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for one in likeness:
        groups[NAMES.get(one["role"], one["role"] or "other"), one["side"]].append(one)
    return groups


def _distances(likeness: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each role, side and p: means over the matrices, beside what random spans have and the most there is."""
    found = []
    for (role, side), ones in _sides(likeness).items():
        for index in range(min(len(one["distances"]) for one in ones)):
            p = ones[0]["distances"][index][0]
            phi, null = (statistics.fmean(one[key][p - 1][p - 1] for one in ones) for key in ("phi", "null"))
            projection, geodesic = (statistics.fmean(one["distances"][index][k] for one in ones) for k in (1, 2))
            found.append(
                {
                    "role": role, "side": side, "p": p, "phi": phi, "null": null, "projection": projection, "geodesic": geodesic,
                    "random": math.sqrt(p * (1 - null)), "most": math.sqrt(p), "farthest": math.sqrt(p) * math.pi / 2,
                }
            )  # fmt: skip
    return found


def _spectra(tunes: Sequence[dict[str, list[dict[str, Any]]]]) -> str:
    """A line a role, the second tune's broken."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    colours = {role: COLOURS[i % len(COLOURS)] for i, role in enumerate({role: 0 for roles in tunes for role in roles})}
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6.4, 3.7), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.12, color=INK, lw=0.8)
        for roles, dash, more in zip(tunes, ("-", "--"), ("", ", the other"), strict=False):
            for role, rows in roles.items():
                length = min(len(row["spectrum"]["values"]) for row in rows)
                top = [max(row["spectrum"]["values"][0], 1e-300) for row in rows]
                values = [
                    statistics.fmean(row["spectrum"]["values"][n] / first for row, first in zip(rows, top, strict=True))
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
            axis.set_minor_formatter(NullFormatter())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title("TITLE0", loc="left", fontsize=10)
        axes.set_xlabel("singular value's number (log scale)")
        axes.set_ylabel("over the largest (log scale)")
        figure.legend(loc="outside lower left", ncols=4, frameon=False, fontsize=8.5, columnspacing=1.5)
        return for_page(rendered(figure), ["Spectrum of Delta W, mean over the matrices of a role"], {}, "s")


def _maps(likeness: Sequence[dict[str, Any]]) -> str:
    """A row a role and side: phi, mean over the layers, and the random null on the same scale."""
    import matplotlib.style
    from matplotlib.figure import Figure

    groups = _sides(likeness)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6.4, 0.4 + 1.9 * len(groups)), layout="constrained")
        grid = figure.subplots(len(groups), 2, squeeze=False)
        for row, ((role, side), ones) in zip(grid, groups.items(), strict=True):
            for axes, key, title in ((row[0], "phi", f"{role}, {side}"), (row[1], "null", "two random subspaces")):
                height = min(len(one[key]) for one in ones)
                width = min(len(one[key][0]) for one in ones)
                mean = [[statistics.fmean(one[key][i][j] for one in ones) for j in range(width)] for i in range(height)]
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
