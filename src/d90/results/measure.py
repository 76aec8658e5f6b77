"""What a measurement gives: the answer with everything needed to judge and repeat it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from d90.display import Display
from d90.files import Json
from d90.results.result import Result
from d90.search.problem import FAILED
from d90.search.summary import ends_in_words, seeds_in_words
from d90.search.variance import Shares
from d90.tasks.metrics import to_display
from d90.training.recipe import Recipe

__all__ = ["Measurement", "Point"]


@dataclass(frozen=True)
class Point(Result):
    """One trial on the accuracy-against-d curve.

    `at_least` marks a trial that stopped once it passed, `below` one that was given up: its score is known to lie below the
    threshold it was given up for. `stop_at` is that threshold, or the one a trial stopped at; None where it is not known. `seed`
    is training's, `p_seed` P's. `lower` is the bound on the difference from the reference, under the margin rule.
    """

    d: int
    seed: int
    score: float
    at_least: bool
    status: str
    seconds: float
    p_seed: int
    below: bool = False
    lower: float | None = None
    stop_at: float | None = None

    @classmethod
    def upgrade(cls, body: Json) -> Json:
        """P had the seed of training before it had its own."""
        return body if "p_seed" in body else {**body, "p_seed": body["seed"]}


@dataclass(frozen=True)
class Measurement(Result, Display):
    """The answer.

    Example:
        >>> found = d90.measure(model, task, rule="gain", lr=0.01, epochs=1, budget=2, start=32)
        >>> d90.Measurement.from_dict(found.to_dict()) == found
        True

    Attributes:
        model, task, method, metric: names as given, the canonical text of the method, and what scores the task.
        rule, fraction: how the threshold is made.
        D, lambdas: how many weights the space moves, and how many numbers scale layers.
        baseline_method: what counts as full, or "a given number".
        command: the command line that asked.
        status: "found"; "floor": no d tried fails, so d90 is at most `d90`; "unreachable": none reaches the threshold, so it is above
            the lower end; "unknown": the trials bound it on no side; "trivial": the threshold is not above chance, so no d would
            mean anything.
        d90: where the mean score over seeds reaches the threshold, the middle of what the trials leave possible; None where
            the status is trivial, unreachable or unknown.
        interval: holds it with probability `coverage`, on this validation split; an end that the trials do not bound is None. Where
            `coverage` is None, as in studies of before the search had a posterior: the largest d that failed, and `d90`.
        sure: the smallest d whose mean score passes with a probability of 90 %; None where no trial tells.
        noise: the standard deviation of a score over seeds, as the search estimates it.
        failed: (d, P's seed, training's) of trials whose training most likely failed: nothing of d90 is learned from them.
        baseline: mean score of full fine-tuning over `baseline_scores`, a seed each.
        majority, zero: the score of the most frequent class (of a constant guess where there are no classes), and of the untrained model;
            chance is the larger.
        within: points of the margin rule.
        spent, spent_seconds: what the trials of this measurement cost, in steps and in seconds of a full fine-tuning.
        variance: P's share of the variance over seeds where trials tell.
        band: (d, mean, low, high) of the fitted curve and its pointwise band.
        test, baseline_test: scores on the test split, at d90 and of the baseline, where they were asked for.
        open_ends: whether an end that the trials do not bound is None, and `sure` is given; False in studies of earlier versions.
        line: the command that trains the smallest d that passed; `tune`, where its tune lies, empty where there is none.
        other: the smallest other space in the store whose trial passes the same threshold, in words.
        curve: the trials behind the answer.
        recipe: of every trial but for d, lr and seed.
        definitions: what was counted as a layer, the scale, the rule, the versions.
    """

    model: str
    task: str
    method: str
    metric: str
    rule: str
    fraction: float
    status: str
    d90: int | None
    interval: tuple[int | None, int | None]
    D: int
    lambdas: int
    baseline: float
    baseline_scores: tuple[float, ...]
    baseline_method: str
    majority: float
    zero: float
    threshold: float
    curve: tuple[Point, ...]
    recipe: Json
    definitions: Json
    seconds: float
    command: str = ""
    coverage: float | None = 0.9
    sure: int | None = None
    noise: float | None = None
    failed: tuple[tuple[int, int, int], ...] = ()
    within: float | None = None
    spent: float = 0.0
    spent_seconds: float | None = None
    variance: Shares | None = None
    band: tuple[tuple[float, float, float, float], ...] = ()
    test: float | None = None
    baseline_test: float | None = None
    open_ends: bool = True
    line: str = ""
    tune: str = ""
    other: str = ""

    @classmethod
    def upgrade(cls, body: Json) -> Json:
        """A bracket had no probability; then intervals had one, and ends that no trial bounded."""
        return {"coverage": None, "open_ends": "sure" in body, **body}

    @property
    def chance(self) -> float:
        """The better of the constant guess and the untrained model."""
        return max(self.majority, self.zero)

    @property
    def passed(self) -> list[int]:
        """The d of every trial that reached the threshold by itself."""
        return [point.d for point in self.curve if self.reached(point)]

    def reached(self, point: Point) -> bool | None:
        """Whether one trial reached the threshold; under the margin rule, whether the bound on its difference did.

        None where it is not known: of a trial that failed; of one that stopped at a lower threshold, or was given up for a
        higher one, and may have reached this one had it gone on.
        """
        if point.status in FAILED:
            return None
        if point.lower is not None:
            return point.lower >= -(self.within or 0.0) / 100
        if point.score >= self.threshold:
            return True
        given_up_early = point.below and point.stop_at is not None and point.stop_at > self.threshold
        return None if point.at_least or given_up_early else False

    @property
    def trained_there(self) -> str:
        """What training at d90 itself gave."""
        ended = [p for p in self.curve if p.d == self.d90 and p.status == "finished"]
        if not ended:
            return f"d = {self.d90} itself was not trained to its end"
        mean = to_display(math.fsum(p.score for p in ended) / len(ended), self.metric)
        seeds = seeds_in_words([p.p_seed for p in ended])
        return f"d = {self.d90} was trained with {seeds}: mean {mean:.4f}, threshold {to_display(self.threshold, self.metric):.4f}"

    @property
    def settings(self) -> Recipe:
        """The recipe that its trials have in common, as a dataclass."""
        return Recipe.from_dict(self.recipe)

    @property
    def task_fingerprint(self) -> str | None:
        """Of the examples; None in studies of the first versions."""
        return self.definitions.get("task")

    @property
    def base_fingerprint(self) -> str | None:
        """Of the base model; None in studies of the first versions."""
        return self.definitions.get("base")

    @property
    def first_seed(self) -> int:
        """The smallest seed of its trials."""
        return min(self.definitions.get("seeds") or [0])

    @property
    def validation_examples(self) -> int | None:
        """How many examples scored a trial; None in studies of the first versions."""
        return self.definitions.get("validation")

    @property
    def shipped(self) -> str:
        """What someone who ships a tune wants to know."""
        if self.sure is None:
            return "no d passes with a probability of 90 % by these trials"
        return f"d = {self.sure} passes with a probability of 90 %"

    @property
    def more(self) -> str:
        """How to go on where the budget ended the search before the interval was as narrow as was asked; empty where it was not."""
        low, high = self.interval
        closed = low is not None and high is not None and high <= self.definitions.get("resolution", math.inf) * low
        if self.status == "trivial" or closed or "budget" not in self.definitions:
            return ""
        return (
            f"the budget ended the search: the same command with --budget {math.ceil(self.spent) + 4} goes on from here"
        )

    def _tried(self) -> str:
        ds = sorted({point.d for point in self.curve})
        if not ds:
            return "the budget was spent before any d was tried"
        return (
            f"{len(self.curve)} trials of d = {ds[0]:,} to {ds[-1]:,}"
            if len(ds) > 1
            else f"d = {ds[0]:,} alone was tried"
        )

    def __str__(self) -> str:
        low, high = self.interval
        known = "bracket" if self.coverage is None else f"{self.coverage:.0%} interval"
        found = {
            "found": f"d90 = {self.d90}, {known} {ends_in_words(low, high)}",
            "floor": f"d90 is at most {self.d90}: not bounded below by these trials, none of which falls short",
            "unknown": f"d90 is not bounded by these trials: {self._tried()}",
            "trivial": "d90 has no meaning here: the threshold is not above chance (try rule='gain')",
            "unreachable": f"d90 is above {low}: not bounded above by these trials, none of which reaches the threshold"
            if not self.passed
            else f"d90 is above {low}, though d = {max(self.passed)} passed once; not bounded above by these trials",
        }[self.status]
        baseline, threshold, chance, test, baseline_test = (
            None if value is None else f"{to_display(value, self.metric):.4f}"
            for value in (self.baseline, self.threshold, self.chance, self.test, self.baseline_test)
        )
        goal = {
            "paper": f"paper rule: {self.metric} {threshold} = {self.fraction:g} of {baseline}",
            "gain": f"gain rule: {self.metric} {threshold} = {self.fraction:g} of the way from chance to {baseline}",
            "margin": f"within {self.within or 0:g} points of {self.baseline_method}'s {baseline}",
        }[self.rule]
        tested = "" if test is None else f"; test {self.metric} {test}, baseline's {baseline_test}"
        return (
            f"{found}  ({self.method}; {goal}, chance {chance}; D = {self.D:,}; {len(self.curve)} trials, "
            f"{self.spent:.1f} full fine-tunings of steps{tested})"
        )
