"""The page of `d90 analyze`: spectra, Delta W against W, and heat maps of phi beside those of random subspaces."""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d90.report.environment import environment
from d90.report.svg import COLOURS, STYLE, for_page, rendered

__all__ = ["analysis_page", "write_analysis"]

NAMES = {"q": "W_q", "k": "W_k", "v": "W_v", "o": "W_o", "qkv": "W_qkv", "mlp_in": "MLP in", "mlp_out": "MLP out"}


def write_analysis(analysis: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page of one analysis, `asdict(Analysis)`."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(analysis_page(analysis), encoding="utf-8", errors="replace", newline="\n")
    return target


def analysis_page(analysis: dict[str, Any]) -> str:
    """The page as text; equal analyses give equal bytes."""
    from markupsafe import Markup

    roles = _by_role(analysis["rows"])
    return (
        environment()
        .get_template("analysed.html")
        .render(
            **analysis,
            spectra=Markup(_spectra(roles)),
            maps=Markup(_maps(analysis["likeness"])) if analysis["likeness"] else "",
            table=[_mean(role, rows) for role, rows in roles.items()],
        )
    )


def _by_role(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[NAMES.get(row["role"], row["role"] or "other")].append(row)
    return found


def _mean(role: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Table 7 for a role: means over its matrices."""
    against = []
    for index in range(min(len(row["against"]) for row in rows)):
        ones = [row["against"][index] for row in rows]
        means = {key: statistics.fmean(one[key] for one in ones) for key in ("weight", "delta", "own", "top", "random")}
        factors = [one["delta"] / one["own"] for one in ones if one["own"] > 0]
        against.append({"r": ones[0]["r"], **means, "factor": statistics.fmean(factors) if factors else float("inf")})
    ranks = {
        key: statistics.fmean(row["spectrum"][key] for row in rows)
        for key in ("stable_rank", "effective_rank", "energy_rank")
    }
    return {"role": role, "count": len(rows), "against": against, **ranks}


def _spectra(roles: dict[str, list[dict[str, Any]]]) -> str:
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        for i, (role, rows) in enumerate(roles.items()):
            length = min(len(row["spectrum"]["values"]) for row in rows)
            top = [max(row["spectrum"]["values"][0], 1e-300) for row in rows]
            values = [
                statistics.fmean(row["spectrum"]["values"][n] / first for row, first in zip(rows, top, strict=True))
                for n in range(length)
            ]
            kept = [(n, value) for n, value in enumerate(values, 1) if value > 1e-6]
            axes.plot(
                [n for n, _ in kept], [v for _, v in kept], color=COLOURS[i % len(COLOURS)], linewidth=1.3, label=role
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title("TITLE0", loc="left", fontsize=10)
        axes.set_xlabel("singular value's number")
        axes.set_ylabel("over the largest")
        axes.legend(frameon=False, fontsize=8)
        return for_page(rendered(figure), ["Spectrum of Delta W, mean over the matrices of a role"], {}, "s")


def _maps(likeness: Sequence[dict[str, Any]]) -> str:
    """A row a role and side: phi, mean over the layers, and the random null on the same scale."""
    import matplotlib.style
    from matplotlib.figure import Figure

    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for one in likeness:
        groups[NAMES.get(one["role"], one["role"]), one["side"]].append(one)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6.4, 2.1 * len(groups)), layout="constrained")
        grid = figure.subplots(len(groups), 2, squeeze=False)
        for row, ((role, side), ones) in zip(grid, groups.items(), strict=True):
            for axes, key, title in ((row[0], "phi", f"{role}, {side}"), (row[1], "null", "random")):
                mean = [
                    [statistics.fmean(one[key][i][j] for one in ones) for j in range(len(ones[0][key][0]))]
                    for i in range(len(ones[0][key]))
                ]
                shown = axes.imshow(
                    mean, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower", interpolation="nearest",
                    extent=(0.5, len(mean[0]) + 0.5, 0.5, len(mean) + 0.5),
                )  # fmt: skip
                axes.set_title(title, fontsize=9, loc="left")
                axes.set_xlabel("j")
                axes.set_ylabel("i")
            figure.colorbar(shown, ax=list(row), fraction=0.04)
        return for_page(rendered(figure), [], {}, "m")
