"""How much of the interval's width is what nobody knows beforehand: the same trials, read by one who knows the curve and the noise.

    python benchmarks/search_oracle.py [--worlds 10] [--rows FILE]

Searches of benchmarks/search.py, `--worlds` in each of its 27 cells. The oracle knows the world's curve, the scores' deviation and how
often trainings fail; not the full score, of which it has the same baselines, and not d90. Its posterior is summed over a grid of both. It
reads trials that were chosen without its knowledge, so its own would be narrower still.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import special
from search_worlds import World

from d90.search import Observation
from search import CELLS, run_search

FULLS, POINTS, REACH = 21, 801, 5.0  # of the full score; of ln d90, so far on both sides of the truth
TABLE = numpy.linspace(-60, 60, 6001)  # the curve's coordinate
Array = NDArray[Any]


def oracle_interval(world: World, trials: tuple[Observation, ...], baselines: list[float]) -> tuple[float, float]:
    """The 5 and 95 % quantiles of d90."""
    error = world.noise * math.sqrt((1 - world.spread_of_p) / len(baselines))
    normal = special.ndtri((numpy.arange(FULLS) + 0.5) / FULLS)
    c = numpy.linspace(math.log(world.d90) - REACH, math.log(world.d90) + REACH, POINTS)
    curve = numpy.array([world.curve_of(z, world) for z in TABLE])
    logs = numpy.full((FULLS, POINTS), -numpy.inf)
    for row, full in enumerate(statistics.fmean(baselines) + error * normal):
        gain, level = full - world.chance, world.goal.at(full)
        crossing = int(numpy.argmax(curve >= (level - world.chance) / gain))
        logs[row] = 0.0
        for trial in trials:
            if trial.d is not None:
                f = world.chance + gain * numpy.interp(TABLE[crossing] + math.log(trial.d) - c, TABLE, curve)
                logs[row] += numpy.log(numpy.maximum(_likelihood(world, trial, f, level), 1e-30))
    weight = numpy.exp(logs - logs.max()).sum(0)
    share = numpy.cumsum(weight) / weight.sum()
    low, high = (math.exp(float(numpy.interp(q, share, c))) for q in (0.05, 0.95))
    return low, high


def _likelihood(world: World, trial: Observation, f: Array, level: float) -> Array:
    """Of a trial's score, or of the interval it is known to lie in, where the mean score is f."""
    uneven = world.shape == "uneven noise"
    sigma = numpy.where(uneven & (f < level - 0.01), 2.0, 1.0) * world.noise
    if trial.exact:
        right = numpy.exp(-0.5 * ((trial.low - f) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        near = abs(trial.low - world.chance) < 0.2 * (world.full - world.chance)
        return numpy.asarray((1 - world.fails) * right + world.fails * (5.0 if near else 0.0))
    upper = special.ndtr((trial.high - f) / sigma) if math.isfinite(trial.high) else 1.0
    return numpy.asarray((1 - world.fails) * (upper - special.ndtr((trial.low - f) / sigma)))


def row_of(cell: int, number: int) -> dict[str, Any]:
    """One search beside the oracle."""
    noise, start, budget = CELLS[cell]
    world = World(number, noise)
    found, baselines = run_search(world, start, budget)
    low, high = oracle_interval(world, found.trials, baselines)
    own = found.interval
    return {"cell": cell, "number": number, "shape": world.shape, "truth": world.d90, "oracle": (low, high), "own": own}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=10, help="in each of the 27 cells")
    parser.add_argument("--rows", type=Path, help="a line a search; those that are there are not made again")
    given = parser.parse_args()
    lines = given.rows.read_text().splitlines() if given.rows and given.rows.exists() else []
    made = {(row["cell"], row["number"]): row for row in map(json.loads, lines)}
    for job in ((cell, i * len(CELLS) + cell) for i in range(given.worlds) for cell in range(len(CELLS))):
        if job not in made:
            made[job] = row_of(*job)
            if given.rows:
                with open(given.rows, "a", encoding="utf-8") as file:
                    file.write(json.dumps(made[job]) + "\n")
    print("| budget | searches | oracle: holds d90 | ratio of its ends | ours, where closed |\n|-|-|-|-|-|")
    for budget in (5, 7, 12):
        rows = [row for row in made.values() if CELLS[row["cell"]][2] == budget]
        holds = statistics.fmean(row["oracle"][0] <= row["truth"] <= row["oracle"][1] for row in rows)
        ratio = statistics.median(row["oracle"][1] / row["oracle"][0] for row in rows)
        own = [row["own"][1] / max(1, row["own"][0]) for row in rows if None not in row["own"]]
        print(f"| {budget} | {len(rows)} | {holds:.1%} | {ratio:.2f} | {statistics.median(own):.2f} |")


if __name__ == "__main__":
    main()
