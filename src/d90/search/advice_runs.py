"""The runs of a plan of advice, made once each within the budget, at rates that sizes share; `d90.search.advice` plans them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from d90.search.advice_problem import AdviceProblem, Bench, Candidate, Request, Run
from d90.search.rate_line import RateLine, best_rung
from d90.search.size_posterior import SeedNoise

__all__ = ["AdviceRuns", "Spent"]

SEEDS = 0.006  # the deviation of a score over seeds that is expected, as a share of the gain
KNOWN = 0.8  # rungs: a line that is known so well needs no readings
MAX_READINGS = 7


class Spent(Exception):
    """The budget does not suffice for what comes next."""


@dataclass
class AdviceRuns:
    """What was read and run so far.

    Attributes:
        bench: makes the runs.
        problem: what is asked.
        lines: each family's rates.
        readings: of a method, by rung; None where it diverged.
        runs: whole ones, by method, rung and seed.
        spent: in whole runs.
        taken: a method's rung where it is not that of the best score.
    """

    bench: Bench
    problem: AdviceProblem
    lines: dict[str, RateLine] = field(default_factory=dict)
    readings: dict[str, dict[int, float | None]] = field(default_factory=dict)
    runs: dict[tuple[str, int, int], Run] = field(default_factory=dict)
    spent: float = 0.0
    taken: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.families = {family.name: family for family in self.problem.families}
        self.candidates = {one.method: one for family in self.problem.families for one in family.candidates}

    def line(self, candidate: Candidate) -> RateLine:
        """The rates of a candidate's family; a reference of none has its own."""
        if candidate.family not in self.lines:
            family = self.families.get(candidate.family) or self.problem.home
            assert family is not None
            self.lines[candidate.family] = RateLine(family.guess, family.pivot, family.exponent, family.deviation)
        return self.lines[candidate.family]

    def rungs(self, candidate: Candidate, count: int = 1) -> list[int]:
        """The best rungs of a candidate, the best first: readings by factors of 3 until bracketed, then the half-step nearest to them and
        to the line."""
        line = self.line(candidate)
        expected, deviation = line.at(candidate.size)
        low = math.floor(expected)
        if count == 1 and deviation < KNOWN and len(line.points) > 1:
            return [round(expected)]  # two sizes have taught what this one needs
        scan = [low - 1, low + 1] if deviation < 1.5 else [round(expected) - 2, round(expected), round(expected) + 2]
        self.read(candidate, scan)
        read = self.readings[candidate.method]
        while len(read) < MAX_READINGS:
            sound = [rung for rung in read if read[rung] is not None]
            if not sound:
                self.read(candidate, [min(read) - 2])
                continue
            best = min(sound, key=lambda rung: (read[rung] or 0.0, abs(rung)))
            if min(read) < best < max(read):
                break
            self.read(candidate, [best - 2 if best == min(read) else best + 2])
        if not any(loss is not None for loss in read.values()):
            return [min(read) - 2 - i for i in range(count)]
        seen, _ = best_rung(read)
        line.learn(candidate.size, seen)
        centre = (seen + line.at(candidate.size)[0]) / 2
        first = round(centre)
        second = first + (1 if centre > first else -1)
        return [first, second][:count]

    def read(self, candidate: Candidate, rungs: Sequence[int]) -> None:
        """Early readings that are not there yet."""
        read = self.readings.setdefault(candidate.method, {})
        rungs = [rung for rung in rungs if rung not in read]
        line, share = self.line(candidate), self.problem.reading
        asked = [Request(candidate, line.rate(rung), self.problem.seed, share) for rung in rungs]
        first = not self.spent
        for rung, run in zip(rungs, self.made(asked, share), strict=True):
            read[rung] = run.loss
        if first:
            self.bench.tell(
                f"learning rates of {candidate.method} are read; {self.spent:.1f} of {self.problem.budget:.1f} runs"
            )

    def run_once(self, candidate: Candidate) -> None:
        """The whole run of a candidate, at its rate; a lower one where that failed."""
        if self.best(candidate) is None:
            (rung,) = self.rungs(candidate)
            (run,) = self.whole(candidate, [rung], self.problem.seed)
            if run.failed:
                self.whole(candidate, [rung - 2], self.problem.seed)

    def run_seed(self, candidate: Candidate, seed: int) -> None:
        """A further seed of a candidate, and of the reference."""
        rung, _ = self.at_best(candidate)
        self.whole(candidate, [rung], seed)
        reference = self.problem.reference
        if reference is not None:
            self.whole(reference, [self.at_best(reference)[0]], seed)

    def whole(self, candidate: Candidate, rungs: Sequence[int], seed: int) -> list[Run]:
        """Whole runs, each made once."""
        line = self.line(candidate)
        lacking = [rung for rung in rungs if (candidate.method, rung, seed) not in self.runs]
        read = self.readings.get(candidate.method, {})
        asked = [Request(candidate, line.rate(rung), seed) for rung in lacking]
        saved = self.problem.reading if seed == self.problem.seed and any(rung in read for rung in lacking) else 0.0
        for rung, run in zip(lacking, self.made(asked, 1.0 - saved), strict=True):
            self.runs[candidate.method, rung, seed] = run
        return [self.runs[candidate.method, rung, seed] for rung in rungs]

    def made(self, asked: Sequence[Request], cost: float) -> Sequence[Run]:
        """Runs, where the budget suffices.

        Raises:
            Spent: it does not.
        """
        if not asked:
            return []
        if self.spent + cost * len(asked) > self.problem.budget + 1e-9:
            raise Spent
        found = self.bench.run(asked)
        self.spent += math.fsum(run.cost for run in found)
        return found

    def at(self, candidate: Candidate) -> dict[int, list[Run]]:
        """A candidate's whole runs that did not fail, by rung."""
        found: dict[int, list[Run]] = {}
        for (method, rung, _), run in self.runs.items():
            if method == candidate.method and not run.failed:
                found.setdefault(rung, []).append(run)
        return found

    def at_best(self, candidate: Candidate) -> tuple[int, list[Run]]:
        """(the rung of the best first-seed score, or the one that was taken, its runs)."""
        at = self.at(candidate)
        if candidate.method in self.taken:
            return self.taken[candidate.method], at[self.taken[candidate.method]]
        rung = max(at, key=lambda one: (at[one][0].score, -one))
        return rung, at[rung]

    def best(self, candidate: Candidate) -> list[Run] | None:
        """Its runs at its best rate: none where all failed; None where none was made."""
        if not any(method == candidate.method for method, _, _ in self.runs):
            return None
        return self.at_best(candidate)[1] if self.at(candidate) else []

    @property
    def reference_failed(self) -> bool:
        """Whether the reference is nothing to be held against."""
        one = self.problem.reference
        return one is not None and not (self.at(one) and self.gain > 0)

    @property
    def gain(self) -> float:
        """Of the reference over the untrained model, or of the score asked for."""
        if self.problem.min_score is not None:
            return max(self.problem.min_score - self.problem.zero_score, 1e-12)
        reference = self.problem.reference
        if reference is None or not self.at(reference):
            return 0.0
        runs = self.at_best(reference)[1]
        return math.fsum(run.score for run in runs) / len(runs) - self.problem.zero_score

    @property
    def margin(self) -> float:
        """How much worse is good enough, in the unit of scores."""
        if self.problem.min_score is not None:
            return 0.0
        return self.problem.margin if self.problem.margin is not None else self.problem.share * max(self.gain, 0.0)

    @property
    def noise(self) -> SeedNoise:
        """Over seeds, of everything that was repeated."""
        groups: dict[tuple[str, int], list[float]] = {}
        for (method, rung, _), run in self.runs.items():
            if not run.failed:
                groups.setdefault((method, rung), []).append(run.score)
        expected = self.problem.seed_deviation
        return SeedNoise.of(
            expected if expected is not None else SEEDS * self.gain, [g for g in groups.values() if len(g) > 1]
        )

    def gap(self, candidate: Candidate) -> tuple[float, float]:
        """(how much worse a candidate is than the reference, the standard error of that)."""
        runs = self.best(candidate)
        if not runs:
            return math.inf, 0.0
        reference = self.problem.reference
        against = self.at_best(reference)[1] if reference is not None else []
        gap, error = self.bench.gap(runs, against, self.problem.min_score)
        seeds = 1 / len(runs) + (1 / len(against) if against else 0.0)
        return gap, math.sqrt(error**2 + self.noise.variance * seeds)

    @property
    def forgets(self) -> bool:
        """Whether runs tell what they forget."""
        return any(run.forgotten is not None for run in self.runs.values())

    def is_reference(self, candidate: Candidate) -> bool:
        """Whether a candidate is what the others are held against."""
        return self.problem.reference is not None and self.problem.reference.method == candidate.method
