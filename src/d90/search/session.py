"""A search that is under way: what was asked for and not told yet, and what was told."""

from __future__ import annotations

import math
from collections.abc import Sequence

from d90.errors import InputError
from d90.search.plan import next_trial
from d90.search.problem import NextTrial, Observation, SearchProblem, SearchResult
from d90.search.summary import summarise

__all__ = ["Session"]


class Session:
    """Ask for a trial, tell its score, until `ask` gives None; several may be open at once.

    Args:
        problem: what is searched.
        own: trials of this search that are finished; what they cost is spent.
        known: trials of others; they cost nothing.

    Raises:
        InputError: an empty range, or a value of `first` outside it.
    """

    def __init__(
        self, problem: SearchProblem, own: Sequence[Observation] = (), known: Sequence[Observation] = ()
    ) -> None:
        _check(problem)
        self.problem, self.own, self.known = problem, list(own), tuple(known)
        self.pending: list[NextTrial] = []

    @property
    def observations(self) -> list[Observation]:
        """Everything that was told, by whomever."""
        return [*self.known, *self.own]

    @property
    def spent(self) -> float:
        """What the search's own trials cost, in full fine-tunings."""
        return math.fsum(trial.cost for trial in self.own)

    def ask(self) -> NextTrial | None:
        """The next trial; None where it is enough, or where what is pending must be told first."""
        asked = next_trial(self.problem, self.observations, self.pending, self.spent)
        if asked is not None:
            self.pending.append(asked)
        return asked

    def ask_several(self) -> list[NextTrial]:
        """The trials to make at once: all of `first`, else as many as run in parallel."""
        found: list[NextTrial] = []
        while len(found) < max(self.problem.parallel, len(self.problem.first)):
            asked = next_trial(self.problem, self.observations, self.pending, self.spent)
            if asked is None or (len(found) >= self.problem.parallel and asked.d not in self.problem.first):
                break
            self.pending.append(asked)
            found.append(asked)
        return found

    def tell(self, asked: NextTrial, observation: Observation) -> None:
        """What a trial gave.

        Raises:
            InputError: it was not asked for, or was told before.
        """
        if asked not in self.pending:
            raise InputError(
                f"got the score of {asked.why or asked}, which is not open; expected a trial that was asked for"
            )
        self.pending.remove(asked)
        self.own.append(observation)

    def result(self) -> SearchResult:
        """What the trials say so far."""
        return summarise(self.problem, self.observations, self.spent)


def _check(problem: SearchProblem) -> None:
    if not 1 <= problem.low <= problem.high:
        raise InputError(
            f"got a range of d from {problem.low} to {problem.high}, expected 1 <= low <= high; the model may be too small for it"
        )
    outside = next((d for d in problem.first if not problem.low <= d <= problem.high), None)
    if outside is not None:
        raise InputError(f"got d={outside} to try, outside the range {problem.low} ... {problem.high}")
