"""What advice is asked, what it asks for, and what it answers: plain data, which can be stored and simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Advice", "AdviceProblem", "Bench", "Candidate", "Family", "Request", "Run", "Verdict"]


@dataclass(frozen=True)
class Candidate:
    """A method that may be the answer.

    Attributes:
        method: its text in the grammar.
        family: the name of the family it belongs to.
        size: what grows in its family: a rank, d, or a number of layers.
        stored: the numbers a file of it holds.
    """

    method: str
    family: str
    size: float
    stored: int


@dataclass(frozen=True)
class Family:
    """Candidates that differ in their size alone.

    Attributes:
        name: as in "lora on all matrices".
        candidates: the smallest first.
        guess: a learning rate to begin with, at the middle size.
        exponent, deviation: how the best rate falls with the size, before anything is read (`d90.search.rate_line`).
    """

    name: str
    candidates: tuple[Candidate, ...]
    guess: float
    exponent: float = 0.0
    deviation: float = 0.1

    @property
    def pivot(self) -> float:
        """The middle size."""
        return self.candidates[len(self.candidates) // 2].size


@dataclass(frozen=True)
class AdviceProblem:
    """What is asked.

    Attributes:
        families: the candidates; the first is searched first, the others only below its answer.
        reference: what the answer is held against; None where `min_score` is asked for instead. It may be of a family of its own.
        home: the reference's family, where it is none of `families`.
        margin: how much worse is good enough, in the unit of scores; None for `share` of the reference's gain.
        share: of the gain from the untrained model to the reference.
        min_score: a score to reach, instead of a reference's less a margin.
        zero_score: of the untrained model.
        seed_deviation: of a score over seeds, before any repeat; a share of the gain, `SEEDS`, where it is None.
        budget: in whole runs.
        reading: the share of the schedule after which rates are compared.
        seeds: a candidate's runs at most.
        seed: the first.
        alpha: the probability of one false "no worse", all looks together.
    """

    families: tuple[Family, ...]
    reference: Candidate | None
    home: Family | None = None
    margin: float | None = None
    share: float = 0.02
    min_score: float | None = None
    zero_score: float = 0.0
    seed_deviation: float | None = None
    budget: float = 10.0
    reading: float = 1 / 8
    seeds: int = 3
    seed: int = 0
    alpha: float = 0.05


@dataclass(frozen=True)
class Request:
    """A run that is wanted: to its end, or to a reading of its schedule."""

    candidate: Candidate
    lr: float
    seed: int
    until: float = 1.0


@dataclass(frozen=True)
class Run:
    """What a run gave: larger scores are better; `loss` is the validation loss at its end, None where it failed.

    `cost` is in whole runs: what it took beyond the reading that it went on from. `forgotten` is in nats a token, None where that was
    not measured.
    """

    request: Request
    score: float
    loss: float | None
    cost: float
    forgotten: float | None = None

    @property
    def failed(self) -> bool:
        """Whether it says nothing of its candidate."""
        return self.loss is None


class Bench(Protocol):
    """Makes the runs, and compares them example by example."""

    def run(self, requests: Sequence[Request]) -> Sequence[Run]:
        """Runs that do not depend on one another."""

    def gap(self, runs: Sequence[Run], reference: Sequence[Run], goal: float | None) -> tuple[float, float]:
        """(how much worse `runs` are, its standard error over the examples): than `reference`, or than the score `goal`."""

    def tell(self, message: str) -> None:
        """What is known so far, in a line."""


@dataclass(frozen=True)
class Verdict:
    """A candidate that ran to its end.

    Attributes:
        lr: its best rate; `scores`, one a seed at that rate.
        gap, error: how much worse than the reference, and the standard error of that, seeds included.
        shown: whether "no worse" was tested and shown; `worse`, whether the opposite is clear.
    """

    candidate: Candidate
    lr: float
    scores: tuple[float, ...]
    gap: float
    error: float
    shown: bool = False
    worse: bool = False


@dataclass(frozen=True)
class Advice:
    """The answer.

    Attributes:
        status: "shown"; "guess": nothing was shown within the budget; "reference": no smaller candidate is enough; "none": no
            candidate reaches what was asked; "failed": the reference did not train.
        shown: the smallest candidate shown to be no worse.
        guess: the smallest that most likely is; the same as `shown`, or smaller.
        reference: its runs; None where a score was asked for.
        margin, gain, zero_score: in the unit of scores.
        verdicts: every candidate that ran to its end, by stored numbers.
        rates: (family, exponent of its best rate, its deviation, how many sizes were read).
        corrected: a line where the neighbouring rate was better at the answer.
        gentler: a line where a lower rate was taken because it forgets less.
        spent: in whole runs; `complete`: whether the plan ended before the budget did.
        seed_deviation: of one run's score, as estimated.
        looks: how many tests of "no worse" were made.
        range: the sizes of the first family between which the smallest that is enough lies, at 90 %.
        readings: (method, rate, loss or None) of every reading.
    """

    status: str
    shown: Verdict | None
    guess: Verdict | None
    reference: Verdict | None
    margin: float
    gain: float
    zero_score: float
    verdicts: tuple[Verdict, ...]
    rates: tuple[tuple[str, float, float, int], ...]
    corrected: str
    gentler: str
    spent: float
    complete: bool
    seed_deviation: float
    looks: int
    range: tuple[float | None, float | None]
    readings: tuple[tuple[str, float, float | None], ...]
