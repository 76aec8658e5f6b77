"""Whether the interval of d90 holds what it says: 5,400 searches of simulated worlds whose d90 is known.

    python benchmarks/search.py [--worlds 200] [--rows FILE] [--out benchmarks/search.json] [--figure benchmarks/search.svg]

A cell is a noise (0.5, 1, 2 points), a first d (256, 4,096, 65,536) and a budget (5, 7, 12); 200 worlds each, of the seventeen shapes of
`search_worlds.SHAPES`. The search is `d90.search.search`, its expectation of the noise `d90.search.noise.expected_noise`, what it learns of
a trial `Observation.of`: what `d90.measure` calls. With --rows a line is written for each search as it ends, and searches that
have a line are not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from search_worlds import HIGH, LOW, SHAPES, TUNED, World

from d90.search import NextTrial, Observation, SearchProblem, SearchResult, search
from d90.search.noise import expected_noise

NOISES, STARTS, BUDGETS = (0.005, 0.01, 0.02), (256, 4096, 65_536), (5, 7, 12)
CELLS = tuple(itertools.product(NOISES, STARTS, BUDGETS))
Row = dict[str, Any]


def run_search(world: World, start: int, budget: float) -> tuple[SearchResult, list[float]]:
    """One search, and the scores of its baselines."""
    metric = "loss" if world.shape == "loss" else "accuracy"
    noise = expected_noise(metric, world.examples, world.full, world.chance)
    problem = SearchProblem(world.goal, LOW, HIGH, world.chance, noise, start=start, budget=budget)
    scores, earlier = list[float](), list[list[float]]()

    def evaluate(asked: NextTrial) -> Observation:
        d, p, t = asked.d, asked.projection_seed, asked.training_seed
        level = world.goal.at(statistics.fmean(scores)) if scores else math.inf
        status, score, cost = world.trial(d, p, t, level, asked.whole, earlier, noise)
        if d is None:
            scores.append(score)
        return Observation.of(asked, status, score, level, cost)

    return search(evaluate, problem), scores


def searched(world: World, start: int, budget: float) -> Row:
    """One search, as it is stored."""
    began = time.process_time()
    found, _ = run_search(world, start, budget)
    seconds = time.process_time() - began
    low, high = found.interval
    return {
        "shape": world.shape,
        "status": found.status,
        "truth": world.d90,
        "d90": found.d90,
        "low": low,
        "high": high,
        "cost": found.spent,
        "trials": len(found.trials),
        "failed": len(found.failed),
        "sure": found.sure,
        "decision": seconds / (len(found.trials) + 1),
        "tried": sorted(trial.d for trial in found.trials if trial.d is not None),
    }


def run(job: tuple[int, int, bool]) -> Row:
    """Job: the cell's index, the world's number, whether of the tuned shapes."""
    cell, number, tuned = job
    noise, start, budget = CELLS[cell]
    return {"cell": cell, "number": number, **searched(World(number, noise, tuned), start, budget)}


def holds(row: Row) -> bool:
    """Whether d90 lies in the interval; an end that is not bounded holds everything on its side."""
    return bool((row["low"] or 0) <= row["truth"] <= (row["high"] or math.inf))


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Of some searches."""
    closed = [row["high"] / max(1, row["low"]) for row in rows if row["low"] is not None and row["high"] is not None]
    opened = [row for row in rows if row["low"] is None or row["high"] is None]
    errors = [abs(math.log(row["d90"] / row["truth"])) if row["d90"] else math.inf for row in rows]
    quartiles = statistics.quantiles(closed, n=4) if len(closed) > 1 else [math.nan] * 3
    return {
        "searches": len(rows),
        "holds": round(statistics.fmean(map(holds, rows)), 3),
        "ratio of closed ends": round(quartiles[1], 2),
        "upper quartile": round(quartiles[2], 2),
        "open ends": round(len(opened) / len(rows), 3),
        "open ends true": round(statistics.fmean(map(holds, opened)), 3) if opened else None,
        "median error of ln d90": round(statistics.median(errors), 3),
        "cost": round(statistics.fmean(row["cost"] for row in rows), 2),
        "seconds a decision": round(statistics.fmean(row["decision"] for row in rows), 3),
    }


def tables(rows: Sequence[Row]) -> dict[str, Any]:
    """Over all, and by cell, noise, start, budget and shape."""
    found: dict[str, Any] = {"all": summary(rows)}
    parts: Iterable[tuple[str, Any]] = [
        *((f"noise {100 * noise:g}", lambda cell, n=noise: cell[0] == n) for noise in NOISES),
        *((f"start {start}", lambda cell, s=start: cell[1] == s) for start in STARTS),
        *((f"budget {budget}", lambda cell, b=budget: cell[2] == b) for budget in BUDGETS),
        *((f"noise {100 * n:g}, start {s}, budget {b}", lambda cell, c=(n, s, b): cell == c) for n, s, b in CELLS),
    ]
    for name, of_cell in parts:
        chosen = [row for row in rows if of_cell(CELLS[row["cell"]])]
        if chosen:
            found[name] = summary(chosen)
    for shape in dict.fromkeys(row["shape"] for row in rows):
        found[shape] = summary([row for row in rows if row["shape"] == shape])
    return found


def shown(found: dict[str, Any]) -> str:
    """The tables as text."""
    keys = list(found["all"])
    lines = ["| | " + " | ".join(keys) + " |", "|-" * (len(keys) + 1) + "|"]
    for name, values in found.items():
        lines.append(
            f"| {name} | " + " | ".join("" if values[key] is None else str(values[key]) for key in keys) + " |"
        )
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Coverage by cell and by shape, each with two standard errors."""
    from matplotlib.figure import Figure

    names = (
        [name for name in found if name.count(",") == 2]
        + [name for name in (*SHAPES, *TUNED) if name in found]
        + ["all"]
    )
    figure = Figure(figsize=(7, 0.19 * len(names) + 1), layout="constrained")
    axes = figure.add_subplot()
    for place, name in enumerate(reversed(names)):
        share, count = found[name]["holds"], found[name]["searches"]
        axes.errorbar(share, place, xerr=2 * math.sqrt(share * (1 - share) / count), fmt="o", ms=4, color="C0", lw=1)
    axes.axvline(0.9, color="0.4", lw=1, ls="--")
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=7)
    axes.set_xlim(0.6, 1.01)
    axes.set_xlabel("share of 90 % intervals that hold d90 (bars: two standard errors)")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=200, help="in each of the 27 cells")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--tuned", action="store_true", help="the shapes that the search was tuned on")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    numbers = range(given.first, given.first + given.worlds)
    # a cell has worlds of its own: 27 times as many worlds as one alone
    jobs = [(cell, number * len(CELLS) + cell, given.tuned) for number in numbers for cell in range(len(CELLS))]
    lines = given.rows.read_text().splitlines() if given.rows and given.rows.exists() else []
    made = {(row["cell"], row["number"]): row for row in map(json.loads, lines)}
    missing = [job for job in jobs if job[:2] not in made]
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        for row in pool.imap(run, missing, chunksize=4):
            made[row["cell"], row["number"]] = row
            if given.rows:
                with open(given.rows, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    found = tables([made[job[:2]] for job in jobs])
    print(shown(found))
    if given.out:
        command = f"python benchmarks/search.py --worlds {given.worlds}{' --tuned' if given.tuned else ''}"
        given.out.write_text(json.dumps({"command": command, **found}, indent=1) + "\n")
    if given.figure:
        draw(found, given.figure)


if __name__ == "__main__":
    main()
