"""Of docs/results/README.md the studies: trajectories, families, few examples, analyses, each with whether the paper's claim holds.

Read from trajectory.sqlite, family.sqlite, lowdata.sqlite and analyze_*.json; the verdicts are `d90.report.claims`'s.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refit import refits, with_cells

from d90.report.claims import Claim, analysis_claims, lowdata_claims, series_claims
from d90.report.series import answered, interval
from d90.report.weight_change import TABLE7, means_by_role
from d90.report.words import base_name
from d90.results.compare import Entry
from d90.results.low_data import LowData
from d90.results.result import Read, stored_results
from d90.results.series import Series
from d90.results.weight_change import Analysis, WeightChangeRow
from d90.studies.generalization import generalization
from d90.trials.store import Store

__all__ = ["analyses", "lowdata", "series", "study_tables"]

CLAIMS = {
    "trajectory": "Aghajanyan et al. 2021, section 4.2: d90 falls as pretraining goes on. Here:",
    "family": "Aghajanyan et al. 2021, section 4.3: d90 falls with the number of weights. Here:",
    "lowdata": "Hu et al. 2021, table 16: with few examples LoRA is no worse than full fine-tuning, and prefixes are. Here:",
    "analyze": "Hu et al. 2021, section 7: two tunes share their top direction, phi(1, 1) > 0.5, and a smaller r amplifies more. Here:",
}
GAPS = ("mnist", "sst2_sentences", "mrpc")
TITLES = {"trajectory": "d90 along a pretraining run", "family": "d90 against the number of weights"}


def study_tables(folder: Path) -> list[str]:
    """Every line of the section; none where nothing was studied."""
    return [
        *gaps(folder),
        *series(folder, "trajectory"),
        *series(folder, "family"),
        *lowdata(folder),
        *analyses(folder),
    ]


def gaps(folder: Path) -> list[str]:
    """A row for each measurement whose tune at d90 was trained for its training accuracy."""
    stores = [path for name in GAPS for path in folder.glob(f"{name}.sqlite")]
    rows = [row for row in generalization(stores) if row.train is not None] if stores else []
    if not rows:
        return []
    parts = [
        "\n## d90 and generalization\n",
        "`benchmarks/studies.sh DATA gap`, [figures](gap.html). Gap: (training accuracy - validation accuracy) / (1 - validation accuracy) "
        "of the tune at d90; capacity: sqrt(d90 ln 3 / n). Aghajanyan et al. 2021, section 5: tasks of smaller d90 have smaller gaps.\n",
        "| task | method | rule | d90 | full | training | validation | gap | capacity |\n|-|-|-|-|-|-|-|-|-|",
    ]
    for row in sorted(rows, key=lambda row: (row.task, row.rule, row.d90)):
        full = "" if row.baseline is None else f"{row.baseline:.4f}"
        gap = "" if row.gap is None else f"{row.gap:+.3f}"
        numbers = f"{row.d90:,} | {full} | {row.train:.4f} | {row.evaluation:.4f} | {gap} | {row.capacity:.3f}"
        parts.append(f"| {row.task} | `{row.method.split(',scale')[0]}` | {row.rule} | {numbers} |")
    return parts


def series(folder: Path, kind: str) -> list[str]:
    """A table for each trajectory or family: a row for a task and target, a column for a model."""
    parts = []
    for stored in _stored(folder, kind, Series):
        study = with_cells(stored, refits(folder / f"{kind}.sqlite"))
        parts += _head(f"{TITLES[kind]}: {study.method.split('@')[0]}, {study.rule} rule", study.command)
        cells = {(c.task, c.target, c.model): c for c in study.cells}
        models = sorted({(c.x, c.model) for c in study.cells})
        rows = list(dict.fromkeys((c.task, c.target) for c in study.cells))
        parts.append(
            f"Columns: {study.xlabel}. d90 stands with its 90 % interval, refitted from the stored trials by today's rule.\n"
        )
        parts += _table(["task", "target", *(f"{x:,}" if x else os.path.basename(model) for x, model in models)])
        for task, target in rows:
            found = [cells[task, target, model] for _, model in models]
            threshold = next((f" {c.threshold:.4f}" for c in reversed(found) if c.threshold is not None), "")
            shown = [f"**{answered(c)}**{interval(c)}" if c.d90 is not None else answered(c) for c in found]
            parts.append(
                _row([base_name(task), f"the last one's,{threshold}" if target == "last" else "its own", *shown])
            )
        for task in dict.fromkeys(task for task, _ in rows):
            own = {c.model: c.score for c in study.cells if c.task == task and c.score is not None}
            if own:
                parts.append(_row([base_name(task), "full", *(f"{own[m]:.4f}" if m in own else "" for _, m in models)]))
        for task, giver in study.givers.items():
            last = [c.model for c in study.cells if c.task == task][-1]
            if giver != last:
                parts.append(
                    f"\n{last} could not be trained on {base_name(task)}: the target for all is that of {giver}."
                )
        for cell in {c.model: c for c in study.cells if c.error}.values():
            parts.append(f"\n{cell.model} failed: {cell.error}")
        parts += _said(kind, series_claims(study))
    return parts


def lowdata(folder: Path) -> list[str]:
    """A table for each study with few examples."""
    parts = []
    for study in _stored(folder, "lowdata", LowData):
        first = study.comparisons[0]
        parts += _head(f"Few examples of {base_name(study.task)}", study.command)
        many = "seeds" if first.seeds > 1 else "seed"
        parts.append(f"{study.model}: {first.split} {first.metric}, {first.seeds} {many}; chance {first.chance:.4f}.\n")
        parts += _table(["method", "stored", *(f"n = {n:,}" for n in study.counts)])
        for asked, entries in study.rows().items():
            shown = [_with_spread(entry) if entry else "none" for entry in entries]
            stored = next(entry.stored for entry in entries if entry)
            parts.append(_row([f"`{asked}`", f"{stored:,}", *shown]))
        parts += _said("lowdata", lowdata_claims(study))
    return parts


def _with_spread(entry: Entry) -> str:
    return f"{entry.mean:.4f}" + (f" ± {entry.spread:.4f}" if len(entry.scores) > 1 else "")


def analyses(folder: Path) -> list[str]:
    """Table 7 and the ranks of Delta W for each analysis, and phi where it is of two tunes."""
    parts = []
    for path in sorted(folder.glob("analyze_*.json")):
        found = Analysis.from_dict(json.loads(path.read_text(encoding="utf-8")))
        parts += _head(f"[{path.stem}]({path.with_suffix('.html').name})", found.command)
        parts.append("Means over the matrices of a role; norms are Frobenius'.\n")
        columns = ("norm of W", "norm of Delta W", "W in Delta W's", "W in its own", "W in random", "amplification")
        parts += _table(["tune", "matrices", "effective rank", "r", *columns])
        for name, rows in ((found.method, found.rows), (found.other_method, found.other_rows)):
            parts += _of_tune(name, rows)
        if found.likeness:
            parts.append("")
            parts += _table(
                ["matrices", "side", "p", "phi(p, p)", "random", "projection distance", "geodesic distance"]
            )
            sides = defaultdict(list)
            for one in found.likeness:
                sides[one.role or "other", one.side].append(one)
            for (role, side), ones in sides.items():
                for index, (p, _, _) in enumerate(ones[0].distances):
                    phi = statistics.fmean(one.phi[p - 1][p - 1] for one in ones)
                    null = statistics.fmean(one.null[p - 1][p - 1] for one in ones)
                    far = [f"{statistics.fmean(one.distances[index][k] for one in ones):.2f}" for k in (1, 2)]
                    parts.append(_row([role, side, p, f"{phi:.3f}", f"{null:.3f}", *far]))
        parts += _said("analyze", analysis_claims(found))
    return parts


def _of_tune(name: str, rows: Sequence[WeightChangeRow]) -> list[str]:
    parts = []
    for means in means_by_role(rows):
        rank = f"{means.effective_rank:.1f} of {means.full_rank}"
        for r, norms in means.against:
            shown = [f"{norms[key]:.3g}" for key in TABLE7]
            parts.append(_row([f"`{name}`", means.role, rank, r, *shown]))
    return parts


def _stored(folder: Path, kind: str, result: type[Read]) -> list[Read]:
    path = folder / f"{kind}.sqlite"
    if not path.exists():
        return []
    store = Store(path, write=False)
    try:
        return stored_results(store, result, kind)
    finally:
        store.close()


def _head(title: str, command: str) -> list[str]:
    return [f"\n## {title}\n", *([f"```\n{command}\n```\n"] if command else [])]


def _said(kind: str, claims: list[Claim]) -> list[str]:
    if not claims:
        return []
    return [f"\n{CLAIMS[kind]}\n", *(f"- {words}: **{verdict}**" for words, verdict in claims)]


def _table(names: list[str]) -> list[str]:
    return [_row(names), "|" + "-|" * len(names)]


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
