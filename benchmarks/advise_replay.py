"""Advice and its rivals replayed on a grid that was trained (benchmarks/advise_grid.py): what each recommends, and what that costs.

    python benchmarks/advise_replay.py [--task e2e] [--draws 6]        (pip install optuna for the rival TPE + Hyperband)

A problem is a reference (r = 16 or 32), a margin (2.5, 5 or 10 % of the gain), which of the two seeds is the first, a first guess of the
rate (four rungs of factor sqrt 3), and 120 of the 160 validation examples. Rivals that search get the same runs as advice took on that
problem, and recommend the smallest rank whose best loss is within the margin of the reference's best. The truth is the mean over both
seeds and all examples. A row a method in advise_replay.json; the table is in docs/results/advise.md.

    regret   of the rate at the recommended rank, in nats: its mean loss less the best rate's of that rank
    size     the smallest sufficient rank, or its neighbour
    false    the recommended rank at its rate is worse than the reference's best by more than the margin
    cost     in whole runs, beside the grid's one seed
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from d90.search.advice import advise
from d90.search.advice_problem import AdviceProblem, Candidate, Family, Request, Run
from d90.trials.predictions import unpack

ROWS = Path(__file__).with_name("advise_grid.jsonl")
BASE, READING = 1e-3, 1 / 8
REFERENCES, MARGINS, GUESSES = (16, 32), (0.025, 0.05, 0.1), (1, 2, 3, 4)
Answer = tuple[int, int, float]  # rank, rung, runs spent


class Grid:
    """The rows of one task by rank, rung and seed."""

    def __init__(self, task: str) -> None:
        rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
        self.rows = {(row["r"], row["rung"], row["seed"]): row for row in rows if row["task"] == task}
        self.ranks = sorted({r for r, _, _ in self.rows})
        self.base = next(iter(self.rows.values()))["base"]
        self.losses = {
            place: unpack(base64.b64decode(row["losses"])).astype(float)
            for place, row in self.rows.items()
            if row.get("loss") is not None
        }
        self.truth = {
            (r, rung): float(numpy.mean([self.losses[r, rung, seed].mean() for seed in (0, 1)]))
            for r, rung, seed in self.losses
            if seed == 0 and (r, rung, 1) in self.losses
        }
        self.cells = len(self.truth)

    def rungs(self, r: int) -> list[int]:
        """Those that were trained to their end."""
        return sorted(rung for rank, rung in self.truth if rank == r)

    def best(self, r: int) -> float:
        """Of the truth, over rates."""
        return min(self.truth[r, rung] for rung in self.rungs(r))

    def smallest(self, reference: int, margin: float) -> int:
        """The smallest rank that is enough."""
        return next(r for r in self.ranks if self.best(r) <= self.best(reference) + margin)


@dataclass
class Replay:
    """One problem on a grid, as a `Bench`: seeds in an order, some of the examples."""

    grid: Grid
    reference: int
    share: float
    first: int
    guess: int
    seen: numpy.ndarray
    read: set[tuple[int, int, int]] = field(default_factory=set)

    @property
    def margin(self) -> float:
        """In nats, of the true gain."""
        return self.share * (self.grid.base - self.grid.best(self.reference))

    def rung(self, lr: float) -> int:
        return round(2 * math.log(lr / BASE, 3))

    def loss(self, r: int, rung: int, seed: int) -> float | None:
        """Of a whole run on the examples that are seen; None where the grid has none."""
        found = self.grid.losses.get((r, rung, (seed + self.first) % 2))
        return None if found is None else float(found[self.seen].mean())

    def reading(self, r: int, rung: int, seed: int) -> float | None:
        """After an eighth of the schedule; of the other seed where this one's is missing."""
        row = self.grid.rows.get((r, rung, (seed + self.first) % 2)) or self.grid.rows.get((r, rung, 0))
        return row["reading"] if row else None

    # --- as a bench ------------------------------------------------------------------------------------------------

    def run(self, requests: Sequence[Request]) -> list[Run]:
        found = []
        for request in requests:
            r, rung = int(request.candidate.size), self.rung(request.lr)
            place = (r, rung, request.seed)
            if request.until < 1:
                self.read.add(place)
                loss, cost = self.reading(*place), READING
            else:
                loss, cost = self.loss(*place), 1 - (READING if place in self.read else 0.0)
            found.append(Run(request, -math.inf if loss is None else -loss, loss, cost))
        return found

    def gap(self, runs: Sequence[Run], reference: Sequence[Run], goal: float | None) -> tuple[float, float]:
        mine, theirs = (numpy.mean([self.losses_of(one) for one in group], axis=0) for group in (runs, reference))
        difference = mine - theirs
        return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))

    def losses_of(self, run: Run) -> numpy.ndarray:
        """On the examples that are seen."""
        asked = run.request
        place = int(asked.candidate.size), self.rung(asked.lr), (asked.seed + self.first) % 2
        return self.grid.losses[place][self.seen]

    def tell(self, message: str) -> None:
        pass


def advice(problem: Replay, shown: bool) -> Answer | None:
    """What d90 recommends: what was shown, or the best guess."""
    grid = problem.grid
    candidates = tuple(Candidate(f"lora:r={r}", "lora", r, r) for r in grid.ranks)
    family = Family("lora", candidates, BASE * 3 ** (problem.guess / 2), 0.5, 0.2)
    chosen = candidates[grid.ranks.index(problem.reference)]
    found = advise(
        problem,
        AdviceProblem(
            (family,), chosen, share=problem.share, zero_score=-grid.base, budget=100.0, seeds=2, seed_deviation=None
        ),
    )
    answer = (found.shown if shown else found.guess) or found.reference
    assert answer is not None
    return int(answer.candidate.size), problem.rung(answer.lr), found.spent


def smallest_within(problem: Replay, tried: dict[tuple[int, int], float], spent: float) -> Answer:
    """How a search without a rule for sizes is read: the smallest rank within the margin of the reference's best."""
    best = {r: min((loss, rung) for (rank, rung), loss in tried.items() if rank == r) for r in {r for r, _ in tried}}
    against = best.get(problem.reference, min(best.values()))[0]
    r = min(rank for rank, (loss, _) in best.items() if loss <= max(against, min(best.values())[0]) + problem.margin)
    return r, best[r][1], spent


def random_search(problem: Replay, budget: float, draw: numpy.random.Generator) -> Answer:
    """Whole runs at ranks and rates drawn at random."""
    cells = list(problem.grid.truth)
    chosen = [cells[i] for i in draw.permutation(len(cells))[: max(1, int(budget))]]
    tried = {cell: loss for cell in chosen if (loss := problem.loss(*cell, 0)) is not None}
    return smallest_within(problem, tried, float(len(chosen)))


def optuna_search(problem: Replay, budget: float, draw: numpy.random.Generator) -> Answer:
    """TPE over ln rank and ln rate with Hyperband's pruner, readings after an eighth of the schedule."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    grid, tried, spent = problem.grid, dict[tuple[int, int], float](), 0.0
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=int(draw.integers(1 << 30))),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=8, reduction_factor=2),
    )
    while spent < budget:
        trial = study.ask()
        r = grid.ranks[trial.suggest_int("rank", 0, len(grid.ranks) - 1)]
        rung = trial.suggest_int("rung", -1, 9)
        reading, whole = problem.reading(r, rung, 0), problem.loss(r, rung, 0)
        trial.report(99.0 if reading is None else reading, 1)
        spent += READING
        if whole is None or trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        spent += 1 - READING
        tried[r, rung] = whole
        study.tell(trial, whole)
    if not tried:
        return problem.reference, grid.rungs(problem.reference)[0], spent
    return smallest_within(problem, tried, spent)


def whole_grid(problem: Replay) -> Answer:
    """Every cell, one seed."""
    tried = {cell: loss for cell in problem.grid.truth if (loss := problem.loss(*cell, 0)) is not None}
    return smallest_within(problem, tried, float(problem.grid.cells))


def score(problem: Replay, answer: Answer) -> dict[str, float]:
    """An answer beside the truth."""
    grid, (r, rung, spent) = problem.grid, answer
    place, right = grid.ranks.index(r), grid.ranks.index(grid.smallest(problem.reference, problem.margin))
    loss = grid.truth.get((r, rung), math.inf)
    return {
        "regret": loss - grid.best(r),
        "right": place == right,
        "near": abs(place - right) <= 1,
        "false": loss > grid.best(problem.reference) + problem.margin + 1e-12,
        "cost": spent,
    }


def fixed(rank: Callable[[Grid], int]) -> Callable[[Replay], Answer]:
    """A rule that trains nothing: a rank, at the lowest rate that the grid has of it, the nearest to a guide's 2e-4."""

    def rule(problem: Replay) -> Answer:
        r = rank(problem.grid)
        return r, problem.grid.rungs(r)[0], 0.0

    return rule


def by_tokens(grid: Grid) -> int:
    """The smallest rank with at least as many parameters as the training set has completion tokens, some 55 of each of 512."""
    trained = {r: row["trained"] for (r, _, _), row in grid.rows.items()}
    return next((r for r in grid.ranks if trained[r] >= 512 * 55), grid.ranks[-1])


def main() -> None:
    """Replay, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="e2e")
    parser.add_argument("--draws", type=int, default=6)
    given = parser.parse_args()
    grid, draw = Grid(given.task), numpy.random.default_rng(0)
    found: dict[str, list[dict[str, float]]] = {}
    for reference, share, first, guess, _ in itertools.product(
        REFERENCES, MARGINS, (0, 1), GUESSES, range(given.draws)
    ):
        seen = draw.permutation(len(next(iter(grid.losses.values()))))[:120]
        problem = Replay(grid, reference, share, first, guess, seen)
        shown = advice(problem, True)
        problem.read.clear()
        assert shown is not None
        answers = {
            "d90 advise, shown": shown,
            "d90 advise, best guess": advice(problem, False),
            "the whole grid, one seed": whole_grid(problem),
            "random search, same budget": random_search(problem, shown[2], draw),
            "TPE + Hyperband, same budget": optuna_search(problem, shown[2], draw),
            "table by sample count (r = 8)": fixed(lambda grid: 8)(problem),
            "parameters >= completion tokens": fixed(by_tokens)(problem),
            "r = 16 untuned": fixed(lambda grid: 16)(problem),
        }
        for name, answer in answers.items():
            if answer is not None:
                found.setdefault(name, []).append(score(problem, answer))
    table = {name: summary(rows, grid) for name, rows in found.items()}
    body: dict[str, Any] = {
        "task": given.task,
        "cells": grid.cells,
        "replays": len(next(iter(found.values()))),
        "methods": table,
    }
    ROWS.with_name("advise_replay.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(
        "| method | regret <= .01 | <= .05 | median regret | size right / or neighbour | false | cost, of a one-seed grid |"
    )
    print("|-|-|-|-|-|-|-|")
    for name, row in table.items():
        print(
            f"| {name} | {row['regret <= .01']:.2f} | {row['regret <= .05']:.2f} | {row['median regret']:.3f} | "
            f"{row['size right']:.2f} / {row['or neighbour']:.2f} | {row['false']:.2f} | {row['cost']:.0%} |"
        )


def summary(rows: Sequence[dict[str, float]], grid: Grid) -> dict[str, float]:
    """Shares over replays."""

    def mean(values: Sequence[float]) -> float:
        return round(float(numpy.mean(values)), 4)

    return {
        "regret <= .01": mean([row["regret"] <= 0.01 for row in rows]),
        "regret <= .05": mean([row["regret"] <= 0.05 for row in rows]),
        "median regret": round(float(numpy.median([row["regret"] for row in rows])), 4),
        "size right": mean([row["right"] for row in rows]),
        "or neighbour": mean([row["near"] for row in rows]),
        "false": mean([row["false"] for row in rows]),
        "cost": round(mean([row["cost"] for row in rows]) / grid.cells, 4),
    }


if __name__ == "__main__":
    main()
