"""Whether a paper's claim holds in a stored study: computed from its numbers, said in a sentence, and plainly where it does not.

    trajectory   d90 falls as pretraining goes on           (Aghajanyan et al. 2021, section 4.2)
    family       d90 falls with the number of weights       (section 4.3)
    lowdata      LoRA is no worse than full fine-tuning with few examples, prefixes are     (Hu et al. 2021, table 16)
    analyze      the top directions agree, phi(1, 1) > 0.5; a smaller r amplifies more      (section 7.2, table 7)

A sentence is (words, verdict); the verdict is "holds", "points that way, not shown", "holds in part", "points the other way, not
shown", "does not hold" or "not to be told". A claim that compares numbers holds, or does not, only where some of their intervals are apart.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from d90.analysis.amplification import Amplification
from d90.analysis.score_interval import indistinct
from d90.report.words import base_name
from d90.results.compare import Entry
from d90.results.low_data import LowData
from d90.results.series import Series
from d90.results.weight_change import Analysis, WeightChangeRow
from d90.tasks.metrics import to_display

__all__ = ["Claim", "amplified", "analysis_claims", "lowdata_claims", "ratio_of_means", "series_claims"]

Claim = tuple[str, str]

HOLDS, PART, FAILS, OPEN = "holds", "holds in part", "does not hold", "not to be told"
HINTS, AGAINST = "points that way, not shown", "points the other way, not shown"
MOST = 0.75  # of the pairs: so many must fall for a claim to hold
HALF = 0.5  # phi above which the paper calls directions shared


def series_claims(study: Series) -> list[Claim]:
    """Does d90 fall along the run, or with size? A sentence for each task and target.

    A model whose target no d reached counts as above every d; one that failed, or whose target is no better than chance, is left
    out. How many pairs have intervals that do not overlap is said beside.
    """
    found = []
    along = "along the run" if study.kind == "trajectory" else "with the number of weights"
    groups: dict[tuple[str, str], list[_Point]] = defaultdict(list)
    for cell in study.cells:
        points = groups[cell.task, cell.target]
        if cell.d90 is not None or cell.status == "unreachable":
            d90 = math.inf if cell.d90 is None else float(cell.d90)
            low, high = cell.interval
            points.append(_Point(cell.x, d90, low or 0.0, math.inf if high is None else float(high)))
    for (task, target), points in groups.items():
        points.sort(key=lambda point: point.x)
        whose = "the last model's" if target == "last" else "its own"
        head = f"{base_name(task)}, {whose} target"
        pairs = [(a, b) for a, b in itertools.combinations(points, 2) if a.x < b.x and a.d90 != b.d90]
        if not pairs:
            found.append((f"{head}: {len(points)} models have a d90, and none differ", OPEN))
            continue
        falls = sum(b.d90 < a.d90 for a, b in pairs)
        apart = sum(a.high < b.low or b.high < a.low for a, b in pairs)
        first, last = points[0], points[-1]
        verdict = PART if apart else HINTS
        if falls >= MOST * len(pairs) and last.d90 < first.d90:
            verdict = HOLDS if apart else HINTS
        elif falls <= len(pairs) / 2:
            verdict = FAILS if apart else AGAINST
        words = (
            f"{head}: from {first.words()} at {first.x:,} to {last.words()} at {last.x:,}; it falls {along} in {falls} of "
            f"{len(pairs)} pairs; the intervals of {apart} of them are apart"
        )
        found.append((words, verdict))
    return found


@dataclass(frozen=True)
class _Point:
    """d90 of a model, infinite where no d reached the target, and its interval."""

    x: int
    d90: float
    low: float
    high: float

    def words(self) -> str:
        if math.isfinite(self.d90):
            return f"{self.d90:,.0f}"
        return f"above {self.low:,.0f}" if self.low else "above every d tried"


def lowdata_claims(study: LowData) -> list[Claim]:
    """Is LoRA no worse than full fine-tuning, and are prefixes worse, at each number of examples?"""
    found = []
    for n, comparison in zip(study.counts, study.comparisons, strict=True):
        entries = {entry.asked: entry for entry in comparison.entries}
        scores = {asked: entry.mean for asked, entry in entries.items()}
        shown = {name: f"{to_display(value, comparison.metric):.4f}" for name, value in scores.items()}
        if "full" not in scores:
            continue
        full, best = scores["full"], max(scores, key=scores.__getitem__)
        loras = [name for name in scores if name.startswith("lora") and "@" not in name]
        prefixes = [name for name in scores if name.startswith(("preembed", "prelayer"))]
        head = f"n = {n:,}: best {best} ({shown[best]}), full {shown['full']}"
        if loras:
            lora = max(loras, key=scores.__getitem__)
            words = f"{head}, LoRA {shown[lora]}: LoRA is no worse than full"
            found.append((words, _shown(scores[lora] >= full, [_apart(entries[lora], entries["full"])])))
        if prefixes:
            words = f"n = {n:,}: prefixes {', '.join(shown[name] for name in prefixes)}: they are worse than full"
            worse = [scores[name] < full for name in prefixes]
            apart = [_apart(entries[name], entries["full"]) for name in prefixes]
            found.append((words, _shown(2 * sum(worse) > len(worse), apart, PART if not all(worse) else HOLDS)))
    return found


def analysis_claims(analysis: Analysis) -> list[Claim]:
    """Do the top directions of two LoRA tunes agree, and does the one of smaller rank amplify more?

    The paper says it of LoRA of different ranks or seeds; of other methods it claims nothing, and nothing is judged.
    """
    if not all(is_lora(method) for method in (analysis.method, analysis.other_method)):
        return []
    if analysis.tune == analysis.other:
        return []
    found = []
    sides = defaultdict(list)
    for one in analysis.likeness:
        sides[one.role or "other", one.side].append(one)
    for (role, side), ones in sides.items():
        tops = [one.phi[0][0] for one in ones]
        ends = [one.phi[-1][-1] for one in ones]
        null, whole = ones[0].null[0][0], statistics.fmean(one.null[-1][-1] for one in ones)
        words = (
            f"{role}, {side}: phi(1, 1) = {statistics.fmean(tops):.3f} (random {null:.4f}), above {HALF} in "
            f"{sum(t > HALF for t in tops)} of {len(tops)} matrices; at full rank {statistics.fmean(ends):.3f} (random {whole:.3f})"
        )
        found.append((words, _verdict([top > HALF for top in tops])))
    mine, theirs = (amplified(rows) for rows in (analysis.rows, analysis.other_rows))
    for role in (name for name in mine if name in theirs):
        (r, factor), (s, other) = sorted((mine[role], theirs[role]))
        if r < s:
            words = f"{role}: amplification {factor:.3g} at r = {r}, {other:.3g} at r = {s}: larger at the smaller r"
            found.append((words, _verdict([factor > other])))
    return found


def is_lora(method: str) -> bool:
    """Whether a method, as an analysis names it, is LoRA alone: of d90's, without a subspace, or of peft's."""
    name = method.strip().lower()
    return name == "peft lora" or (name.split(":")[0] == "lora" and "@" not in name and "+" not in name)


def amplified(rows: Sequence[WeightChangeRow]) -> dict[str, tuple[int, float]]:
    """{role: (r, amplification at the largest rank that all its matrices have)}."""
    roles = defaultdict(list)
    for row in rows:
        roles[row.role or "other"].append({one.r: one for one in row.against})
    found = {}
    for role, tables in roles.items():
        common = set.intersection(*(set(table) for table in tables))
        if common:
            r = max(common)
            found[role] = (r, ratio_of_means([table[r] for table in tables]))
    return found


def ratio_of_means(ones: Sequence[Amplification]) -> float:
    """Amplification over several matrices: the mean norm of Delta W over the mean part of W in its directions.

    Not the mean of their factors: one matrix whose part of W is all but zero decides that (1,116 where the other five have 11 to 52).
    """
    own = sum(one.own for one in ones)
    return sum(one.delta for one in ones) / own if own > 0 else math.inf


def _apart(one: Entry, other: Entry) -> bool:
    """Whether the difference of two methods is more than noise; not where an interval is not known."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return not indistinct(one.mean, (one.high - one.low) / 2, other.mean, (other.high - other.low) / 2)


def _shown(points: bool, apart: Sequence[bool], holds: str = HOLDS) -> str:
    """The verdict of a claim that the numbers point to or not: `holds` where all of them are apart, and it fails where any is."""
    if points:
        return holds if all(apart) else HINTS
    return FAILS if any(apart) else AGAINST


def _verdict(each: Sequence[bool]) -> str:
    return HOLDS if all(each) else PART if 2 * sum(each) > len(each) else FAILS
