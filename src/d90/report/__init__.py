"""The page: reads stored runs alone, and writes one HTML file that opens offline."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.report.figure import curve_svg
from d90.sweep.store import Store

__all__ = ["page", "write_report"]

Study = dict[str, Any]


def write_report(store: Store, path: str | os.PathLike[str]) -> Path:
    """Write the page of every measurement in a store.

    Raises:
        InputError: nothing was measured yet.
    """
    studies = store.studies()
    if not studies:
        raise InputError(f"no measurement in '{store.path}'; run 'd90 measure' first")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(studies), encoding="utf-8")
    return target


def page(studies: list[Study]) -> str:
    """The page as text; equal studies give equal bytes."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("d90.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    groups: dict[tuple[str, str, str, float], list[Study]] = defaultdict(list)
    for study in studies:
        # one overlay for what shares its axes and its baseline
        groups[study["model"], study["task"], study["metric"], round(study["baseline"], 6)].append(study)
    overlays = [
        {"title": f"{key[0]} on {key[1]}", "svg": Markup(curve_svg(group, [_short(s) for s in group]))}
        for key, group in groups.items()
        if len(group) > 1
    ]
    shown = [
        {
            **study,
            "short": _short(study),
            "headline": headline(study),
            "svg": Markup(curve_svg([study], [_short(study)])),
            "trials": sorted(study["curve"], key=lambda p: (p["d"], p["seed"])),
            "recipe_text": json.dumps(study["recipe"], indent=1, sort_keys=True),
            "definition_text": json.dumps(study["definitions"], indent=1, sort_keys=True),
        }
        for study in studies
    ]
    return environment.get_template("page.html").render(studies=shown, overlays=overlays)


def headline(study: Study) -> str:
    """The answer in a sentence; never a number where there is none."""
    score = f"{study['fraction']:.0%} of " + ("the score" if study["rule"] == "paper" else "the gain over chance")
    if study["status"] == "found":
        low, _ = study["interval"]
        return (
            f"d90 = {study['d90']:,} of {study['D']:,} weights: the smallest d found that reaches {score} of full fine-tuning "
            f"(d = {low:,} fails)."
        )
    if study["status"] == "floor":
        return f"d90 is at most {study['d90']:,}, the lowest d possible here: it already reaches {score} of full fine-tuning."
    if study["status"] == "trivial":
        return f"No d90: the threshold {study['threshold']:.4f} is not above chance, so every d would pass. The gain rule may say more."
    return f"No d90 found: the highest d tried, {study['interval'][0]:,}, does not reach {score} of full fine-tuning."


def _short(study: Study) -> str:
    """What tells a study from its neighbours: its method, less what is usual, and its rule."""
    method, _, space = study["method"].partition("@")
    usual = {"layer=block", "head=inside", "scale=tensor"}
    kept = [part.partition("=")[2] for part in space.split(",") if part and part not in usual]
    return f"{' '.join([method, *kept])}, {study['rule']} rule"
