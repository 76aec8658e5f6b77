"""The search: ask for trials, tell their scores, until it is enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from d90.search.problem import NextTrial, Observation, SearchProblem, SearchResult
from d90.search.session import Session

__all__ = ["search"]


def search(
    evaluate: Callable[[NextTrial], Observation],
    problem: SearchProblem,
    own: Sequence[Observation] = (),
    known: Sequence[Observation] = (),
    progress: Callable[[str], None] = lambda message: None,
    prefetch: Callable[[Sequence[NextTrial]], None] = lambda coming: None,
) -> SearchResult:
    """Find d90.

    Args:
        evaluate: makes a trial.
        problem: what is searched.
        own: trials of this search that are finished; what they cost is spent.
        known: trials of others; they cost nothing.
        progress: receives what comes next.
        prefetch: receives trials that will all be asked for: they may be made at once.

    Raises:
        InputError: an empty range, or a value outside it.
    """
    session, seen = Session(problem, own, known), set[Observation]()
    while coming := session.ask_several():
        for asked in coming:
            progress(asked.why)
        if len(coming) > 1:
            prefetch(coming)
        for asked in coming:
            session.tell(asked, evaluate(asked))
        if all(trial.d is None for trial in session.own):
            continue
        for trial in session.result().failed:
            if trial not in seen:
                seen.add(trial)
                progress(
                    f"d = {trial.d:,}, seed {trial.training_seed}: its training most likely failed; it says nothing of d90"
                )
    return session.result()
