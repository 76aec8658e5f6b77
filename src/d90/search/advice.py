"""Which candidate is the smallest that is as good as a reference: rates by early readings, sizes by whole runs. Pure: it knows no model.

    1  rates     readings of the full schedule after an eighth of its steps, by factors of 3 until the best is bracketed; a parabola in
                 ln loss gives the half-step, a line over ln size (`d90.search.rate_line`) shares it between sizes, and where it is
                 known well enough no more is read
    2  reference whole runs at its two best rates: a badly tuned reference flatters every rival
    3  sizes     bisected on whole runs by the posterior of the gap (`d90.search.size_posterior`); readings do not choose sizes
    4  seeds     a second one of the reference, and of what is to be shown; a third, for both, where the gap is within 1.5 standard errors
                 of the margin
    5  shown     gap + z SE <= margin, from the best guess upward; a size's looks share alpha, and every larger size that ran must pass too
    6  others    families are searched only below the answer: their largest size that is smaller, then downward
    7  check     neighbouring rates at the answer; where runs tell what they forget, the lower one if it is shown as well and forgets less

Asked again with the same answers it asks the same: a killed search goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

from d90.search.advice_problem import Advice, AdviceProblem, Bench, Candidate, Family, Verdict
from d90.search.advice_runs import AdviceRuns, Spent
from d90.search.rate_line import best_rung
from d90.search.size_posterior import SizePosterior

__all__ = ["advise"]

NEAR = 1.5  # standard errors from the margin within which a second seed is run
UNLIKELY = 0.1  # a size that is enough with less probability is not tried


def advise(bench: Bench, problem: AdviceProblem) -> Advice:
    """Find the smallest candidate that is no worse than the reference by more than the margin.

    Args:
        bench: makes the runs.
        problem: what is asked.
    """
    plan = _Plan(bench, problem)
    try:
        plan.work()
        complete = True
    except Spent:
        complete = False
    return plan.answer(complete)


@dataclass
class _Plan(AdviceRuns):
    """What to run next, and what the runs show."""

    looks: int = 0
    shown: dict[str, bool] = field(default_factory=dict)  # what was tested last
    corrected: str = ""
    gentler: str = ""

    def work(self) -> None:
        """All of it, until the budget ends."""
        self.run_reference()
        if self.reference_failed:
            return
        for family in self.problem.families:
            answer = self.confirmed()
            ceiling = answer.stored if answer else None
            reference = self.problem.reference
            if ceiling is None and reference is not None:
                ceiling = reference.stored
            sizes = [one for one in family.candidates if ceiling is None or one.stored < ceiling]
            if sizes:
                self.search(family, sizes, first=family is self.problem.families[0])
        if (found := self.confirmed()) is not None:
            self.check_rate(found)
            self.forget_less(found)

    def run_reference(self) -> None:
        """The reference at its two best rates."""
        reference = self.problem.reference
        if reference is None:
            return
        rung, other = self.rungs(reference, 2)
        runs = self.whole(reference, [rung, other], self.problem.seed)
        if all(run.failed for run in runs):
            self.whole(reference, [min(rung, other) - 2], self.problem.seed)
        if self.at(reference) and self.problem.seeds > 1:
            self.whole(reference, [self.at_best(reference)[0]], self.problem.seed + 1)

    def search(self, family: Family, sizes: Sequence[Candidate], first: bool) -> None:
        """Bisect a family's sizes by whole runs, then show the best guess or the next larger one."""
        while (tried := self.next_size(family, sizes, first)) is not None:
            self.run_once(tried)
            self.report(family, sizes)
            if not first and self.likely(family, tried) < UNLIKELY and tried is sizes[-1]:
                return  # its largest that is smaller than the answer is worse: the others are too
        guess = self.best_guess(family, sizes)
        for candidate in sizes[sizes.index(guess) :] if guess else ():
            self.run_once(candidate)
            if self.show(candidate):
                return

    def next_size(self, family: Family, sizes: Sequence[Candidate], first: bool) -> Candidate | None:
        """The size to run next; None where the best guess and the one below it are known."""
        known = [one for one in sizes if self.best(one) is not None]
        if not known:
            if not first:
                return sizes[-1]
            chances = [abs(self.likely(family, one) - 0.5) for one in sizes]
            return sizes[chances.index(min(chances))]
        guess = self.best_guess(family, sizes)
        if guess is None:
            return sizes[-1] if self.best(sizes[-1]) is None and self.likely(family, sizes[-1]) > UNLIKELY else None
        if self.best(guess) is None:
            return guess
        below = sizes[: sizes.index(guess)]
        likely = [one for one in below if self.best(one) is None and self.likely(family, one) > UNLIKELY]
        return max(likely, key=lambda one: one.size) if likely else None

    def show(self, candidate: Candidate) -> bool:
        """Whether a candidate is shown to be no worse: with two seeds, or with more where the gap is near the margin.

        One seed tells nothing of what seeds do, and where they do much it is found wrong.
        """
        for count in range(min(2, self.problem.seeds), self.problem.seeds + 1):
            if count > 1:
                self.run_seed(candidate, self.problem.seed + count - 1)
            gap, error = self.gap(candidate)
            if abs(gap - self.margin) <= NEAR * error and count < self.problem.seeds:
                continue
            if self.look(candidate, gap, error):
                return True
            if gap > self.margin:
                return False
        return False

    def look(self, candidate: Candidate, gap: float, error: float) -> bool:
        """One test of "no worse". A size's looks share alpha; sizes need not: where a size is worse its smaller ones are, and a claim
        is made only where every larger size that ran passes as well."""
        self.looks += 1
        z = NormalDist().inv_cdf
        tests = max(1, self.problem.seeds - 1) * (2 if self.forgets else 1)
        found = gap + z(1 - self.problem.alpha / tests) * error <= self.margin
        family = self.families[candidate.family].candidates
        for other in family[family.index(candidate) + 1 :]:
            if found and self.best(other) is not None and not self.is_reference(other):
                larger, its = self.gap(other)
                found = larger + z(1 - self.problem.alpha) * its <= self.margin
        self.shown[candidate.method] = found
        return found

    def check_rate(self, candidate: Candidate) -> None:
        """Read the neighbouring rates at the answer; where the best one is another, run it too, and say so where it is better."""
        (rung, _), read = self.at_best(candidate), self.readings.get(candidate.method, {})
        missing = [one for one in (rung - 1, rung, rung + 1) if one not in read]
        self.read(candidate, missing)
        best, _ = best_rung(self.readings[candidate.method])
        if abs(best - rung) < 0.75:
            return
        other = rung + (1 if best > rung else -1)
        (before,) = self.whole(candidate, [rung], self.problem.seed)
        (after,) = self.whole(candidate, [other], self.problem.seed)
        if not after.failed and after.score - before.score > math.sqrt(2 * self.noise.variance):  # more than seeds do
            line = self.line(candidate)
            line.learn(candidate.size, other)
            self.corrected = (
                f"the rule gave {candidate.method} the learning rate {line.rate(rung):g}; its neighbour {line.rate(other):g} is better "
                f"by {after.score - before.score:.4f}, and the rule was corrected"
            )

    def forget_less(self, candidate: Candidate) -> None:
        """The next lower rate at the answer, where runs tell what they forget: taken where it is shown as well and forgets less."""
        if not self.forgets:
            return
        rung, runs = self.at_best(candidate)
        (lower,) = self.whole(candidate, [rung - 1], self.problem.seed)
        before, after = runs[0].forgotten, lower.forgotten
        if lower.failed or before is None or after is None or after >= before:
            return
        self.taken[candidate.method], self.shown[candidate.method] = rung - 1, False
        try:
            self.show(candidate)
        finally:  # the budget may have ended
            if not self.shown[candidate.method]:
                del self.taken[candidate.method]
                self.shown[candidate.method] = True
        if candidate.method in self.taken:
            line = self.line(candidate)
            self.gentler = (
                f"learning rate {line.rate(rung - 1):g} instead of {line.rate(rung):g}: no worse by the margin either, and it forgets "
                f"{after:.4f} instead of {before:.4f} nats a token"
            )

    def posterior(self, family: Family) -> SizePosterior:
        """Of a family's sizes."""
        seen = {one.size: self.gap(one) for one in family.candidates if self.best(one) is not None}
        reference = self.problem.reference
        own = reference.size if reference is not None and reference.family == family.name else None
        if own is not None:
            seen.pop(own, None)  # its gap is zero by definition
        return SizePosterior([one.size for one in family.candidates], seen, self.gain, own)

    def likely(self, family: Family, candidate: Candidate) -> float:
        """The probability that a candidate is enough."""
        return self.posterior(family).enough(candidate.size, self.margin)

    def best_guess(self, family: Family, sizes: Sequence[Candidate]) -> Candidate | None:
        """The smallest size that is more likely enough than not."""
        posterior = self.posterior(family)
        return next((one for one in sizes if posterior.enough(one.size, self.margin) >= 0.5), None)

    def confirmed(self) -> Candidate | None:
        """The smallest candidate that was shown to be no worse."""
        found = (self.candidates[method] for method, shown in self.shown.items() if shown)
        return min(found, key=lambda one: one.stored, default=None)

    def report(self, family: Family, sizes: Sequence[Candidate]) -> None:
        """Tell what is known so far, with a wide interval at first."""
        low, high = self.posterior(family).range_of_enough(self.margin)
        ends = f"{low if low is not None else sizes[-1].size:g} to {f'{high:g}' if high is not None else 'more'}"
        guess, shown = self.best_guess(family, sizes), self.confirmed()
        name = f"{guess.method} most likely (size {ends} with 90 %)" if guess else f"none of {family.name}"
        known = f"{shown.method} is shown to be enough; below it " if shown else ""
        self.bench.tell(f"so far: {known}{name}; {self.spent:.1f} of {self.problem.budget:.1f} runs")

    def answer(self, complete: bool) -> Advice:
        """What is known at the end."""
        reference, failed = self.problem.reference, self.reference_failed
        verdicts = (
            []
            if failed
            else [
                self.verdict(one)
                for one in self.candidates.values()
                if self.best(one) is not None and not self.is_reference(one)
            ]
        )
        verdicts.sort(key=lambda one: one.candidate.stored)
        shown = next((one for one in verdicts if one.shown), None)
        enough = [one for one in verdicts if one.gap <= self.margin]
        guess = next((one for one in enough if shown is None or one.candidate.stored <= shown.candidate.stored), shown)
        status = "shown" if shown else "guess" if guess else "reference" if reference is not None else "none"
        first = self.problem.families[0]
        return Advice(
            status="failed" if failed else status,
            shown=shown,
            guess=guess,
            reference=self.verdict(reference) if reference is not None and self.at(reference) else None,
            margin=self.margin,
            gain=self.gain,
            zero_score=self.problem.zero_score,
            verdicts=tuple(verdicts),
            rates=tuple((name, *line.fall, len(line.points)) for name, line in self.lines.items()),
            corrected=self.corrected,
            gentler=self.gentler,
            spent=self.spent,
            complete=complete,
            seed_deviation=math.sqrt(self.noise.variance),
            looks=self.looks,
            range=(None, None) if failed else self.posterior(first).range_of_enough(self.margin),
            readings=tuple(
                (method, self.lines[self.family_of(method)].rate(rung), loss)
                for method, read in self.readings.items()
                for rung, loss in sorted(read.items())
            ),
        )

    def family_of(self, method: str) -> str:
        """The family of a method that was read."""
        reference = self.problem.reference
        found = self.candidates.get(method) or reference
        assert found is not None
        return found.family

    def verdict(self, candidate: Candidate) -> Verdict:
        """A candidate beside the reference."""
        runs = self.best(candidate) or []
        if not runs:
            return Verdict(candidate, math.nan, (), math.inf, 0.0, worse=True)
        gap, error = self.gap(candidate) if not self.is_reference(candidate) else (0.0, 0.0)
        worse = gap - NormalDist().inv_cdf(0.95) * error > self.margin
        scores = tuple(run.score for run in runs)
        shown = self.shown.get(candidate.method, False)
        return replace(Verdict(candidate, runs[0].request.lr, scores, gap, error), shown=shown, worse=worse)
