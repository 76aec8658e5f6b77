"""The search where the truth is known: simulated accuracy curves, beside bisection and a grid.

    python benchmarks/search.py [searches=600] [--out benchmarks/search.json] [--rows FILE]

Curves of several shapes rise from chance to the full score; a score scatters about them over seeds (half of the variance P's,
half training's), and a trial's evaluations approach it as those of minilm on SST-2 sentences did (docs/results): a trial
stops at the first that reaches the threshold, and costs what it ran. True d90: where the curve reaches 90 % of the full score
(or of the gain), between 60 and 40,000. Noise: the scatter of single trials in docs/results lies between 0.4 and 1.2 points.

Bisection is the search that d90 had before: bracket by a factor of 4 from 256, then bisect to a ratio of 1.1, a d passing when
more than half of its seeds do. The grid takes 25 values of d, and the first of its isotonic fit at the threshold.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy
from scipy import optimize

from d90.search import Asked, SearchProblem, Trial, round_d, search
from d90.search.pruning import hopeless
from d90.search.rules import goal

PROGRESS = (0.25, 0.80, 0.93, 0.96, 0.99, 1.0)  # of the way to the final score, at each of six evaluations
SCATTER = (0.10, 0.04, 0.02, 0.015, 0.008, 0.0)
LOW, HIGH = 1, 22_700_000
EXPECTED = 0.01  # the noise the search is told to expect, whatever it is


class World:
    """One simulated model and task."""

    def __init__(self, number: int) -> None:
        draw = random.Random(number)
        self.seed = number
        self.shape = number % 5
        self.noise = (0.005, 0.01, 0.02)[number // 5 % 3]
        self.gain_rule = number // 15 % 2 == 1
        self.chance, self.full = draw.choice([(0.5, 0.885), (0.5, 0.93), (0.32, 0.80), (0.684, 0.80)])
        # 90 % of the score is below chance + a little where chance is high: there the gain rule is the one in use
        self.rule = "gain" if self.gain_rule or 0.9 * self.full < self.chance + 0.05 else "paper"
        self.goal = goal(self.rule, self.chance, 0.9)
        self.level = self.goal.at(self.full)
        self.width = draw.uniform(0.25, 0.5)
        self.d90 = math.exp(draw.uniform(math.log(60), math.log(40_000)))
        share = (self.level - self.chance) / (self.full - self.chance)
        self.centre = optimize.brentq(lambda c: self.rise(math.log10(self.d90) - c) - share, -30, 30)

    def rise(self, z: float) -> float:
        """The curve, from 0 to 1, z decades of d beyond its centre."""
        z = max(-25.0, min(25.0, z))
        if self.shape == 0:
            return 1 / (1 + math.exp(-z / (0.6 * self.width)))
        if self.shape == 1:  # a tail: a power of d
            return 1 - (1 + 10**z) ** (-0.6 - self.width)
        if self.shape == 2:  # saturation, d / (d + c)
            return 10**z / (10**z + 1)
        if self.shape == 3:  # two steps
            return 0.6 / (1 + math.exp(-(z + 1) / 0.25)) + 0.4 / (1 + math.exp(-z / 0.25))
        return math.exp(-(10 ** (-z * 0.9)))  # Gompertz

    def mean(self, d: float) -> float:
        return self.chance + (self.full - self.chance) * self.rise(math.log10(d) - self.centre)

    def _normal(self, *key: object) -> float:
        return random.Random(f"{self.seed}|{key}").gauss(0, 1)

    def final(self, d: int | None, p: int, t: int) -> float:
        part = self.noise * math.sqrt(0.5)
        if d is None:
            return self.full + self.noise * math.sqrt(0.5) * self._normal("full", t)
        return self.mean(d) + part * (self._normal("p", p, d) + self._normal("t", t, p, d))

    def curve(self, d: int | None, p: int, t: int) -> list[float]:
        """The best of the evaluations so far, at each of them."""
        end = self.final(d, p, t)
        draw = random.Random(f"{self.seed}|curve|{d}|{p}|{t}")
        way = [min(1.0, g + s * draw.gauss(0, 1)) for g, s in zip(PROGRESS, SCATTER, strict=True)]
        best = numpy.maximum.accumulate([self.chance + (end - self.chance) * g for g in way])
        return [float(v) for v in best]

    def trial(
        self, d: int | None, p: int, t: int, level: float, whole: bool, earlier: list[list[float]] | None = None
    ) -> Trial:
        """Stopped at the first evaluation that reaches the level, or says that none will, unless it must run to its end."""
        curve = self.curve(d, p, t)
        for i, score in enumerate(curve[:-1], 1):
            if not whole and score >= level:
                return Trial(d, p, t, score, math.inf, i / len(curve))
            if not whole and earlier is not None and hopeless(curve[:i], earlier, len(curve), level, EXPECTED):
                return Trial(d, p, t, score, level, i / len(curve))
        if earlier is not None and d is not None:
            earlier.append(curve)
        return Trial(d, p, t, curve[-1], curve[-1], 1.0)


def ours(world: World, gives_up: bool = True, start: int = 16384) -> dict[str, float]:
    """The search of this package, baseline included."""
    scores: list[float] = []
    earlier: list[list[float]] | None = [] if gives_up else None

    def evaluate(asked: Asked) -> Trial:
        level = world.goal.at(statistics.fmean(scores)) if scores else 0.0
        trial = world.trial(asked.d, asked.p, asked.t, level, asked.whole, earlier)
        if asked.d is None:
            scores.append(trial.low)
        return trial

    problem = SearchProblem(world.goal, LOW, HIGH, world.full - world.chance, EXPECTED, start=start)
    found = search(evaluate, problem)
    low, high = found.interval
    inside = found.status == "found" and (low or 0) <= world.d90 <= (high or math.inf)
    return {
        **_error(world, found.d90),
        "inside": float(inside),
        "ratio": (high or HIGH) / max(1, low or 1),
        "cost": found.spent,
        "trials": len(found.trials),
        "confirmed": float(found.confirmed),
        "given up": sum(math.isfinite(t.high) and not t.exact for t in found.trials),
    }


def bisection(world: World, seeds: int) -> dict[str, float]:
    """The search that was here before, baselines included."""
    costs: list[float] = [1.0] * seeds
    level = world.goal.at(statistics.fmean(world.final(None, s, s) for s in range(seeds)))
    known: dict[int, bool] = {}

    def passes(d: int) -> bool:
        if d not in known:
            won = 0
            for s in range(seeds):
                trial = world.trial(d, s, s, level, False)
                costs.append(trial.cost)
                won += trial.low >= level
                if 2 * won > seeds or 2 * (s + 1 - won) >= seeds:
                    break
            known[d] = 2 * won > seeds
        return known[d]

    def done(d: int | None, low: float) -> dict[str, float]:
        return {
            **_error(world, d),
            "inside": float(d is not None and low < world.d90 <= d),
            "ratio": (d or HIGH) / max(1, low),
            "cost": sum(costs),
            "trials": len(costs),
            "confirmed": 0.0,
        }

    d = 256
    if passes(d):
        good, bad = d, None
        while bad is None:
            d = max(LOW, round_d(good / 4))
            good, bad = (d, bad) if passes(d) else (good, d)
            if good == LOW:
                return done(LOW, 0)
    else:
        good, bad = None, d
        while good is None:
            if bad == HIGH:
                return done(None, HIGH)
            d = min(HIGH, round_d(bad * 4))
            good, bad = (d, bad) if passes(d) else (None, d)
    while good > bad * 1.1:
        d = round_d(math.sqrt(good * bad))
        if not bad < d < good:
            break
        good, bad = (d, bad) if passes(d) else (good, d)
    return done(good, bad)


def table(world: World) -> dict[str, float]:
    """25 values of d from 30 to 100,000, three seeds each, run to their ends."""
    level = world.goal.at(statistics.fmean(world.final(None, s, s) for s in range(3)))
    ds = numpy.geomspace(30, 100_000, 25)
    means = [statistics.fmean(world.final(int(d), s, s) for s in range(3)) for d in ds]
    fit = optimize.isotonic_regression(means).x
    if fit[-1] < level or fit[0] >= level:
        return {**_error(world, None), "inside": 0.0, "ratio": math.inf, "cost": 78.0, "trials": 78, "confirmed": 0.0}
    i = int(numpy.argmax(fit >= level))
    share = (level - fit[i - 1]) / (fit[i] - fit[i - 1])
    d = math.exp(math.log(ds[i - 1]) + share * math.log(ds[i] / ds[i - 1]))
    inside = float(ds[i - 1] < world.d90 <= ds[i])
    return {
        **_error(world, d),
        "inside": inside,
        "ratio": ds[i] / ds[i - 1],
        "cost": 78.0,
        "trials": 78,
        "confirmed": 0.0,
    }


def _error(world: World, d: float | None) -> dict[str, float]:
    off = abs(math.log(d / world.d90)) if d else math.inf
    return {"error": math.expm1(off) if off < 50 else math.inf, "hit": float(off <= math.log(1.1))}


WAYS: dict[str, Callable[[World], dict[str, float]]] = {
    "search": ours,
    "search, none given up": lambda world: ours(world, gives_up=False),
    "search from d = 256": lambda world: ours(world, start=256),
    "bisection, 1 seed": lambda world: bisection(world, 1),
    "bisection, 3 seeds": lambda world: bisection(world, 3),
    "grid of 25, 3 seeds": table,
}


def run(number: int) -> dict[str, dict[str, float]]:
    world = World(number)
    return {name: way(world) for name, way in WAYS.items()}


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    def middle(key: str) -> float:
        return round(statistics.median(row[key] for row in rows), 3)

    def share(key: str) -> float:
        return round(statistics.fmean(row.get(key, 0.0) for row in rows), 3)

    return {
        "interval or bracket holds the truth": share("inside"),
        "within 10 %": share("hit"),
        "median error": middle("error"),
        "median ratio of the ends": middle("ratio"),
        "median cost in full fine-tunings": middle("cost"),
        "median trials": middle("trials"),
        "confirmed": share("confirmed"),
        "trials given up, mean": share("given up"),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("searches", type=int, nargs="?", default=600)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--rows", type=Path, help="a line a curve is added here; curves that have one are not run again"
    )
    given = parser.parse_args()
    began = time.monotonic()
    numbers = range(given.first, given.first + given.searches)
    stored = (
        [json.loads(line) for line in given.rows.read_text().splitlines()] if given.rows and given.rows.exists() else []
    )
    made = {row["number"]: row["found"] for row in stored}
    missing = [number for number in numbers if number not in made]
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        for number, row in zip(missing, pool.imap(run, missing, chunksize=5), strict=True):
            made[number] = row
            if given.rows:
                with open(given.rows, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"number": number, "found": row}) + "\n")
    rows = [made[number] for number in numbers]
    found: dict[str, object] = {"searches": given.searches, "seconds": round(time.monotonic() - began)}
    found["all"] = {name: summary([row[name] for row in rows]) for name in WAYS}
    for way in ("search", "search from d = 256"):
        for points, part in ((0.5, 0), (1.0, 1), (2.0, 2)):
            chosen = [row[way] for number, row in zip(numbers, rows, strict=True) if number // 5 % 3 == part]
            found[f"{way}, noise {points} points"] = summary(chosen)
    for shape, name in enumerate(("logistic", "power tail", "saturation", "two steps", "Gompertz")):
        chosen = [row["search"] for number, row in zip(numbers, rows, strict=True) if number % 5 == shape]
        found[f"search, {name}"] = summary(chosen)
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
