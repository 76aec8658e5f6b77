"""Worlds whose every candidate's score is known: a loss that falls with the size and saturates, a best rate that falls as c r^-a, a cliff
above it, noise of seeds and of examples. Advice is simulated on them; nothing of them is taken from the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from d90.search.advice_problem import AdviceProblem, Candidate, Family, Request, Run

__all__ = ["SIZES", "World", "draw_world", "problem_of"]

SIZES = (1, 2, 4, 8, 16, 32, 64)
RUNGS = range(-14, 15)


@dataclass
class World:
    """One world and its answers, as a `Bench`.

    Attributes:
        gain: of the best there is over the untrained model, in nats.
        amplitude, power: of what a size lacks, amplitude gain (s^-power - 64^-power).
        peak, fall: ln of the best rate is peak - fall ln s, about which sizes scatter (`bumps`).
        curvature: what a factor e from the best rate costs, as a share of the gain.
        seed_deviation, example_deviation: noise of one run, and of the difference of two runs on one example.
        early_shift: of the best rate of early readings.
    """

    number: int
    gain: float
    amplitude: float
    power: float
    peak: float
    fall: float
    bumps: dict[float, float]
    curvature: float
    cliff: float
    seed_deviation: float
    example_deviation: float
    early_shift: float
    examples: int
    guess: float

    def __post_init__(self) -> None:
        self.made: dict[tuple[float, float, int, float], tuple[float, numpy.ndarray]] = {}
        self.asked: list[Request] = []
        self.messages: list[str] = []

    # --- truth -----------------------------------------------------------------------------------------------------

    def loss(self, size: float, lr: float) -> float:
        """The held-out loss of a whole run, without noise."""
        lacks = self.amplitude * self.gain * (size**-self.power - SIZES[-1] ** -self.power)
        x = math.log(lr) - (self.peak - self.fall * math.log(size) + self.bumps[size])
        off = self.curvature * x * x + (3.0 * (x - self.cliff) if x > self.cliff else 0.0)
        return 1.0 + min(lacks + self.gain * off, self.gain)

    def best(self, size: float) -> float:
        """At the best rate of the ladder."""
        return min(self.loss(size, self.guess * 3 ** (rung / 2)) for rung in RUNGS)

    def smallest(self, reference: float, margin: float) -> float:
        """The smallest size that is enough."""
        goal = self.best(reference) + margin
        return next(size for size in SIZES if self.best(size) <= goal + 1e-12)

    # --- the bench -------------------------------------------------------------------------------------------------

    def run(self, requests: Sequence[Request]) -> list[Run]:
        return [self._run(request) for request in requests]

    def _run(self, request: Request) -> Run:
        size, lr, early = request.candidate.size, request.lr, request.until < 1
        self.asked.append(request)
        place = (size, lr, request.seed, request.until)
        if place not in self.made:
            draw = numpy.random.default_rng([self.number, round(size), round(1e9 * lr), request.seed, int(early)])
            true = self.loss(size, lr * math.exp(self.early_shift) if early else lr)
            if early:  # a reading has learnt less, and sizes differ less
                true = 1.0 + self.gain * (0.45 + 0.55 * (true - 1.0) / self.gain)
            scale = self.seed_deviation * (0.5 if early else 1.0)
            own = draw.normal(0.0, self.example_deviation / math.sqrt(2), self.examples)
            self.made[place] = true + scale * draw.normal(), own
        mean, own = self.made[place]
        read = any(
            one.candidate == request.candidate and one.lr == lr and one.seed == request.seed and one.until < 1
            for one in self.asked[:-1]
        )
        cost = request.until if early else 1.0 - (0.125 if read else 0.0)
        loss = mean + float(own.mean())
        return Run(request, -loss, loss, cost)

    def gap(self, runs: Sequence[Run], reference: Sequence[Run], goal: float | None) -> tuple[float, float]:
        mine, theirs = (self._losses(group) for group in (runs, reference))
        difference = mine - (theirs if goal is None else -goal)
        return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(self.examples))

    def _losses(self, runs: Sequence[Run]) -> numpy.ndarray:
        rows = [
            mean + own
            for mean, own in (
                self.made[one.request.candidate.size, one.request.lr, one.request.seed, one.request.until]
                for one in runs
            )
        ]
        return numpy.mean(rows, axis=0) if rows else numpy.zeros(self.examples)

    def tell(self, message: str) -> None:
        self.messages.append(message)


def draw_world(number: int, examples: int = 400) -> World:
    """A world by its number."""
    draw = numpy.random.default_rng([77, number])
    gain = float(numpy.exp(draw.uniform(math.log(0.3), math.log(3.0))))
    peak = float(draw.normal(math.log(0.02), 0.6))
    return World(
        number, gain,
        amplitude=float(numpy.exp(draw.uniform(math.log(0.01), math.log(0.6)))),
        power=float(draw.uniform(0.2, 1.2)),
        peak=peak,
        fall=float(draw.uniform(0.35, 0.65)),
        bumps={size: float(draw.normal(0.0, 0.12)) for size in SIZES},
        curvature=float(draw.uniform(0.02, 0.1)),
        cliff=float(draw.uniform(0.9, 1.8)),
        seed_deviation=gain * float(numpy.exp(draw.uniform(math.log(0.001), math.log(0.015)))),
        example_deviation=gain * float(numpy.exp(draw.uniform(math.log(0.02), math.log(0.15)))),
        early_shift=float(draw.normal(0.0, 0.15)),
        examples=examples,
        guess=float(numpy.exp(peak - 0.5 * math.log(8) + draw.normal(0.0, 1.0))),
    )  # fmt: skip


def problem_of(
    world: World, reference: int = 16, share: float = 0.02, budget: float = 100.0, **more: object
) -> AdviceProblem:
    """Ranks 1 ... 64, held against one of them."""
    candidates = tuple(Candidate(f"lora:r={size}", "lora", size, 100 * size) for size in SIZES)
    family = Family("lora", candidates, world.guess, 0.5, 0.2)
    chosen = candidates[SIZES.index(reference)]
    return AdviceProblem(
        (family,), chosen, share=share, budget=budget, zero_score=-(1.0 + world.gain), **more,  # type: ignore[arg-type]
    )  # fmt: skip
