"""d90 from trials: which to make next, when it is enough, and what they say. Pure: it knows no model.

    next_trial(problem, observations, pending)   what to train next                      `d90.search.plan`
    summarise(problem, observations)             d90, its interval, what is not bounded  `d90.search.summary`
    Session(problem)                             ask, tell, result                       `d90.search.session`
    search(evaluate, problem)                    the same in a loop

Each is a function of the set of trials alone: killed and started again, a search goes on as it would have. The model of the curve is in
`d90.search.posterior`, the curves themselves in `d90.search.curves`.
"""

from typing import TYPE_CHECKING

from d90.registry import late_names

if TYPE_CHECKING:
    from d90.search.plan import next_trial
    from d90.search.problem import COVERAGE, NextTrial, Observation, SearchProblem, SearchResult, nearest_d, round_d
    from d90.search.search import search
    from d90.search.session import Session
    from d90.search.summary import summarise

__all__ = [
    "COVERAGE",
    "NextTrial",
    "Observation",
    "SearchProblem",
    "SearchResult",
    "Session",
    "nearest_d",
    "next_trial",
    "round_d",
    "search",
    "summarise",
]

_MODULES = {
    "next_trial": "plan",
    "search": "search",
    "Session": "session",
    "summarise": "summary",
    **dict.fromkeys(
        ("COVERAGE", "NextTrial", "Observation", "SearchProblem", "SearchResult", "nearest_d", "round_d"), "problem"
    ),
}


# tasks need d90.search.rules alone, and no scipy
__getattr__ = late_names("d90.search", _MODULES)
