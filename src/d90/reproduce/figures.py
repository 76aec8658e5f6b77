"""Which figures a study gives: their names, what tells several apart, and how they are read from its result.

A row of `KINDS` for each command a recipe may name. Shares are figures in percent, as the papers print them.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from d90.errors import InputError
from d90.methods import parse
from d90.report.words import axis
from d90.reproduce.schema import Arguments, split
from d90.results.compare import Comparison, Entry
from d90.results.latency import Latency
from d90.results.low_data import LowData
from d90.results.measure import Measurement
from d90.results.series import Series
from d90.results.weight_change import Analysis
from d90.studies.pretrain import schedule
from d90.tasks.metrics import to_display
from d90.training.record import TuneRecord

if TYPE_CHECKING:
    from d90.certificates.classification import Certificate

__all__ = ["KINDS", "Figure", "Keys", "Kind", "canonical", "label"]

Keys = Mapping[str, str]


@dataclass(frozen=True)
class Figure:
    """One figure of ours.

    Attributes:
        of: its name.
        keys: which of several.
        value: None where there is none, and `word` says why.
        low, high: d90's interval; the lowest and the highest seed; 95 % of a latency. None where open or unknown.
        unit: "%", "ms" or "".
    """

    of: str
    keys: Keys
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    word: str = ""
    asked: str = ""  # a method as the recipe has it

    @property
    def label(self) -> str:
        """Its name and keys, as the table shows them."""
        return label(self.of, {**self.keys, **({"method": self.asked} if self.asked else {})})


@dataclass(frozen=True)
class Kind:
    """What a command gives.

    Attributes:
        of: the names of its figures, the main one first.
        keys: the keys of each of its main figures, known before it runs.
        free: names of further keys, whose values are known once it has run.
        read: figures from its result and its arguments.
    """

    of: tuple[str, ...]
    keys: Callable[[Arguments], list[dict[str, str]]]
    read: Callable[[Any, Arguments], Iterator[Figure]]
    free: tuple[str, ...] = ()


def label(of: str, keys: Keys) -> str:
    """A figure's name and keys: short ones with the key's name, as n = 100."""
    shown = [f"{key} = {value}" if key in ("n", "d", "r", "step") else value for key, value in keys.items()]
    return ", ".join([of, *shown] if of else shown)


def canonical(key: str, value: str) -> str:
    """A key's value in one form: methods as their canonical text."""
    return str(parse(value)) if key == "method" and value != "base" else value


def _methods(arguments: Arguments, name: str = "methods") -> list[str]:
    texts = split("methods", getattr(arguments, name))
    if not texts:
        raise InputError(f"got no {name}, expected at least one, as in: full lora:r=8")
    return [str(parse(text)) for text in texts]


def _share(
    of: str, keys: Keys, metric: str, values: list[float], value: float | None = None, asked: str = ""
) -> Figure:
    """A score: the mean of several seeds, from the lowest to the highest."""
    factor, label = axis(metric)
    mean = statistics.fmean(values) if value is None else value
    ends = sorted((factor * min(values), factor * max(values)))
    low, high = ends if len(values) > 1 else (None, None)
    return Figure(of, keys, factor * mean, low, high, "%" if "%" in label else "", asked=asked)


# --- measure -------------------------------------------------------------------------------------------------------


def _measure(result: Measurement, _: Arguments) -> Iterator[Figure]:
    yield Figure("d90", {}, result.d90, *result.interval, word=result.status)
    yield Figure("D", {}, result.D)
    yield _share("baseline", {}, result.metric, list(result.baseline_scores), result.baseline)
    yield _share("threshold", {}, result.metric, [result.threshold])
    yield _share("chance", {}, result.metric, [result.chance])
    scores = defaultdict(list)
    for point in result.curve:
        scores[point.d].append(point.score)
    for d, values in scores.items():
        yield _share("score", {"d": str(d)}, result.metric, values)


# --- trajectory, family --------------------------------------------------------------------------------------------


def _series_keys(arguments: Arguments) -> list[dict[str, str]]:
    targets = ("last", "own") if arguments.target == "both" else (arguments.target,)
    product = itertools.product(split("tasks", arguments.tasks), arguments.models, targets)
    return [{"model": model, "task": task, "target": target} for task, model, target in product]


def _series(result: Series, _: Arguments) -> Iterator[Figure]:
    for cell in result.cells:
        keys = {"model": cell.model, "task": cell.task, "target": cell.target}
        yield Figure("d90", keys, cell.d90, *cell.interval, word=cell.error or cell.status)
        yield Figure("x", keys, cell.x)
        if cell.score is not None:
            yield Figure("full", keys, to_display(cell.score, cell.metric))


# --- compare, lowdata ----------------------------------------------------------------------------------------------


def _compare_keys(arguments: Arguments) -> list[dict[str, str]]:
    return [{"method": method} for method in _methods(arguments)]


def _as_asked(entry: Entry) -> str:
    """The key of a method that was compared: of the text that was given, for what it leaves open is settled by the task."""
    return canonical("method", entry.asked or entry.method)


def _compare(result: Comparison, _: Arguments) -> Iterator[Figure]:
    for entry in result.entries:
        keys = {"method": _as_asked(entry)}
        yield _share("score", keys, result.metric, list(entry.scores), asked=entry.asked)
        numbers = {
            "trained": entry.trained,
            "stored": entry.stored,
            "head": entry.head,
            "added": entry.added,
            "lr": entry.lr,
        }
        for name, number in {**numbers, "without head": entry.stored - entry.head}.items():
            yield Figure(name, keys, number, asked=entry.asked)


def _lowdata_keys(arguments: Arguments) -> list[dict[str, str]]:
    product = itertools.product(_methods(arguments), split("counts", arguments.counts))
    return [{"method": method, "n": n} for method, n in product]


def _lowdata(result: LowData, arguments: Arguments) -> Iterator[Figure]:
    found = dict(zip(result.counts, result.comparisons, strict=True))
    whole = max(found)
    for n in split("counts", arguments.counts):
        comparison = found[whole if n == "all" else min(int(n), whole)]
        for entry in comparison.entries:
            keys = {"method": _as_asked(entry), "n": n}
            yield _share("score", keys, comparison.metric, list(entry.scores), asked=entry.asked)


# --- latency -------------------------------------------------------------------------------------------------------


def _latency_keys(arguments: Arguments) -> list[dict[str, str]]:
    from d90.studies.latency import usual_methods

    asked = arguments.methods
    usual = [str(parse(text)) for text in usual_methods([int(r) for r in split("r", arguments.r)], arguments.prefix)]
    methods = ["base", *(usual if asked is None else _methods(arguments))]
    return [{"method": method, "size": size} for method in methods for size in split("pairs", arguments.pairs)]


def _latency(result: Latency, _: Arguments) -> Iterator[Figure]:
    for row in sorted(result.rows, key=lambda row: row.method != "base"):
        keys = {"method": row.method, "size": f"{row.batch}x{row.length}"}
        if row.method != "base":
            yield Figure("added", keys, 100 * row.added, 100 * row.low, 100 * row.high, "%", asked=row.asked)
        yield Figure("ms", keys, row.milliseconds, unit="ms", asked=row.asked)


# --- certify, analyze, train, pretrain -----------------------------------------------------------------------------


def _certify(result: Certificate, _: Arguments) -> Iterator[Figure]:
    yield Figure("bound", {}, 100 * result.bound, unit="%")
    shares = {
        "training error": result.error,
        "test error": result.test_error,
        "holdout": result.holdout,
        "majority": result.majority,
    }
    for name, value in shares.items():
        yield Figure(name, {}, 100 * value, unit="%")
    yield Figure("bits", {}, result.bits)
    yield Figure("d", {}, result.best.d)
    yield Figure("gap", {}, result.gap, word="not defined: no test error")


def _analyze(result: Analysis, _: Arguments) -> Iterator[Figure]:
    groups = defaultdict(list)
    for row in result.rows:
        for one in row.against:
            groups[str(one.r)].append(one)
    for r, ones in groups.items():
        for name in ("factor", "delta", "weight", "own", "top", "random"):
            yield Figure(name, {"r": r}, statistics.fmean(getattr(one, name) for one in ones))
    sides = defaultdict(list)
    for like in result.likeness:
        sides[like.side].append(like)
    for side, likes in sides.items():
        means = {
            "phi": [like.phi[-1][-1] for like in likes],
            "phi of random": [like.null[-1][-1] for like in likes],
            "phi(1, 1)": [like.phi[0][0] for like in likes],
            "projection distance": [like.distances[-1][1] for like in likes],
            "geodesic distance": [like.distances[-1][2] for like in likes],
        }
        for name, values in means.items():
            yield Figure(name, {"side": side}, statistics.fmean(values))


def _ranks(arguments: Arguments) -> list[dict[str, str]]:
    return [{"r": r} for r in split("ranks", arguments.ranks)]


def _train(tune: TuneRecord, _: Arguments) -> Iterator[Figure]:
    yield _share("score", {}, tune.task.metric, [tune.outcome.score])
    yield Figure("trained", {}, tune.outcome.trained)


def _pretrain_keys(arguments: Arguments) -> list[dict[str, str]]:
    return [{"step": str(step)} for step in schedule(arguments.steps, arguments.checkpoints)]


def _pretrain(losses: Sequence[tuple[int, float | None]], _: Arguments) -> Iterator[Figure]:
    for step, loss in losses:
        yield Figure("masked loss", {"step": str(step)}, loss, word="" if loss is not None else "no validation text")


def _single(arguments: Arguments) -> list[dict[str, str]]:
    return [{}]


_MEASURE = ("d90", "D", "baseline", "threshold", "chance", "score")
_CERTIFY = ("bound", "training error", "test error", "gap", "holdout", "majority", "bits", "d")
_ANALYZE = (
    *("factor", "delta", "weight", "own", "top", "random"),
    *("phi", "phi of random", "phi(1, 1)", "projection distance", "geodesic distance"),
)
_COMPARE = ("score", "trained", "stored", "without head", "head", "added", "lr")

KINDS: dict[str, Kind] = {
    "measure": Kind(_MEASURE, _single, _measure, free=("d",)),
    "trajectory": Kind(("d90", "x", "full"), _series_keys, _series),
    "family": Kind(("d90", "x", "full"), _series_keys, _series),
    "compare": Kind(_COMPARE, _compare_keys, _compare),
    "lowdata": Kind(("score",), _lowdata_keys, _lowdata),
    "latency": Kind(("added", "ms"), _latency_keys, _latency),
    "certify": Kind(_CERTIFY, _single, _certify),
    "analyze": Kind(_ANALYZE, _ranks, _analyze, free=("side",)),
    "train": Kind(("score", "trained"), _single, _train),
    "pretrain": Kind(("masked loss",), _pretrain_keys, _pretrain),
}
