"""d90 from trials: which to make next, when it is enough, and what they say. Pure: it knows no model.

    next_trial(problem, observations, pending)   what to train next                      `d90.search.plan`
    summarise(problem, observations)             d90, its interval, what is not bounded  `d90.search.search`
    search(evaluate, problem)                    both in a loop

Each is a function of the set of trials alone: killed and started again, a search goes on as it would have. The model of the curve is in
`d90.search.posterior`, the curves themselves in `d90.search.curves`.
"""

from d90.search.plan import next_trial
from d90.search.problem import COVERAGE, NextTrial, Observation, SearchProblem, SearchResult, round_d
from d90.search.search import search, summarise

__all__ = [
    "COVERAGE",
    "NextTrial",
    "Observation",
    "SearchProblem",
    "SearchResult",
    "next_trial",
    "round_d",
    "search",
    "summarise",
]
