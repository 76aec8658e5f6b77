"""Simulated models and tasks whose d90 is known: curves of many shapes, scores that scatter about them, trainings that fail.

The shapes in TUNED are those that the search was tuned on; those in SHAPES were written apart, and none of them is a curve of
`d90.search.curves`. A world's number decides everything about it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from scipy import optimize, special

from d90.search.pruning import will_fail
from d90.search.rules import goal

PROGRESS = (0.25, 0.80, 0.93, 0.96, 0.99, 1.0)  # of the way to the final score, at each of six evaluations
SCATTER = (0.10, 0.04, 0.02, 0.015, 0.008, 0.0)
LOW, HIGH = 1, 22_700_000
LN10 = math.log(10)
Curve = Callable[[float, "World"], float]  # of ln d less the centre: from 0, chance, to 1, the full score


def probit(z: float, w: World) -> float:
    return float(special.ndtr(z / (0.8 + 1.4 * w.width)))


def arctan(z: float, w: World) -> float:
    return 0.5 + math.atan(z / (0.25 + 0.45 * w.width)) / math.pi


def root(z: float, w: World) -> float:
    x = z / (0.8 + 1.1 * w.width)
    return 0.5 + 0.5 * x / math.sqrt(1 + x * x)


def stretched(z: float, w: World) -> float:
    return -math.expm1(-math.exp(min(z * (0.25 + 0.6 * w.width), 50)))


def kinked(z: float, w: World) -> float:
    """Two straight lines: quick up to 70 %, slow from there."""
    slow = 0.3 / (2.5 + 5 * w.width)
    return min(1.0, max(0.0, 0.7 + (z * 0.35 if z < 0 else z * slow)))


def sharp(z: float, w: World) -> float:
    return float(special.ndtr(z / (0.12 + 0.3 * w.width)))


def near_plateau(z: float, w: World) -> float:
    """A decade or more that lies 1 to 4 points under the threshold."""
    under = w.share - (0.01 + 0.03 * w.width) / (w.full - w.chance)
    gap = LN10 * (1.0 + w.second)
    return under * float(special.ndtr((z + gap) / 0.7)) + (1 - under) * float(special.ndtr(z / 0.5))


def far_plateau(z: float, w: World) -> float:
    """Two steps, the first of them up to half of the way."""
    gap = LN10 * (1.0 + 1.5 * w.second)
    return 0.5 * float(special.ndtr((z + gap) / 0.6)) + 0.5 * float(special.ndtr(z / 0.8))


def dips(z: float, w: World) -> float:
    """A rise that falls back by some points a decade or two beyond the threshold, and recovers."""
    return probit(z, w) - (0.03 + 0.05 * w.width) * math.exp(-0.5 * ((z - 4 - 2 * w.second) / 0.8) ** 2)


def decline(z: float, w: World) -> float:
    """A rise, and from its end on a slow fall: the larger d, the worse it trains."""
    top = 3.5 + 2 * w.second
    return root(z, w) - (0.012 + 0.02 * w.width) * max(0.0, z - top)


def overshoot(z: float, w: World) -> float:
    """Better than full fine-tuning for a while."""
    return probit(z, w) + (0.03 + 0.06 * w.width) * math.exp(-0.5 * ((z - 3.5) / 1.5) ** 2)


def uneven(z: float, w: World) -> float:
    """Several small steps."""
    steps = ((0.25, -5.0), (0.2, -3.2), (0.25, -1.4), (0.3, 0.6))
    return sum(share * float(special.ndtr((z - at * (0.6 + w.width)) / 0.45)) for share, at in steps)


SHAPES: dict[str, Curve] = {
    "probit": probit, "arctan": arctan, "root": root, "stretched exponential": stretched, "kinked line": kinked, "sharp": sharp,
    "plateau under the threshold": near_plateau, "plateau half way": far_plateau, "dip": dips, "decline": decline,
    "overshoot": overshoot, "small steps": uneven, "failing trainings": probit, "uneven noise": arctan, "heavy tails": root,
    "300 examples": probit, "loss": root,
}  # fmt: skip


def logistic(z: float, w: World) -> float:
    return float(special.expit(z / (0.5 + 0.9 * w.width)))


def power(z: float, w: World) -> float:
    return 1 - math.exp(-(0.35 + 0.6 * w.width) * math.log1p(math.exp(min(z, 500))))


def saturation(z: float, w: World) -> float:
    return float(special.expit(z))


def two_steps(z: float, w: World) -> float:
    return 0.6 * float(special.expit((z + LN10) / 0.6)) + 0.4 * float(special.expit(z / 0.6))


def gompertz(z: float, w: World) -> float:
    return math.exp(-math.exp(min(-0.9 * z, 50)))


def close_step(z: float, w: World) -> float:
    under = w.share - (0.008 + 0.04 * w.width) / (w.full - w.chance)
    return under * float(special.expit((z + LN10 * (1 + w.second)) / 0.5)) + (1 - under) * float(special.expit(z / 0.4))


def falling(z: float, w: World) -> float:
    return logistic(z, w) - 0.05 * float(special.expit((z - 5) / 0.8))


TUNED: dict[str, Curve] = {
    "logistic": logistic, "power tail": power, "saturation": saturation, "two steps": two_steps, "Gompertz": gompertz,
    "step close to the threshold": close_step, "fall": falling, "failures": logistic,
}  # fmt: skip


@dataclass
class World:
    """One simulated model and task.

    Attributes:
        number, noise: decide it; `tuned` takes the shapes that the search was tuned on.
        noise: the standard deviation of a score, as a share of 1 (of a loss, of what there is to gain).
    """

    number: int
    noise: float
    tuned: bool = False
    shape: str = field(init=False)

    def __post_init__(self) -> None:
        shapes = TUNED if self.tuned else SHAPES
        self.shape = list(shapes)[self.number % len(shapes)]
        self.curve_of = shapes[self.shape]
        draw = random.Random(f"{'tuned' if self.tuned else 'world'} {self.number}")
        self.chance, self.full = draw.choice([(0.5, 0.885), (0.5, 0.93), (0.32, 0.80), (0.684, 0.80), (0.1, 0.97)])
        self.examples = draw.choice([300, 872, 2000, 10_000])
        if self.shape == "loss":
            self.chance, self.full = -4.2, -1.9
            self.noise *= self.full - self.chance
        # where chance is high 90 % of the score lies at chance: there the gain rule is the one in use
        gains = draw.random() < 0.5 or 0.9 * self.full < self.chance + 0.05 or self.shape == "loss"
        self.goal = goal("gain" if gains else "paper", self.chance, 0.9)
        self.level = self.goal.at(self.full)
        self.share = (self.level - self.chance) / (self.full - self.chance)
        self.width, self.second = draw.random(), draw.random()
        self.d90 = math.exp(draw.uniform(math.log(60), math.log(40_000)))
        self.fails = draw.uniform(0.08, 0.25) if self.shape in ("failing trainings", "failures") else 0.0
        self.spread_of_p = draw.uniform(0.2, 0.8)
        self.centre = self._first()

    def _first(self) -> float:
        """The curve's coordinate at d90: where it first reaches the share."""
        z = -40.0
        while self.curve_of(z, self) < self.share:
            z += 0.02
            if z > 60:
                raise ValueError(f"{self.shape} never reaches {self.share}")
        return float(optimize.brentq(lambda x: self.curve_of(x, self) - self.share, z - 0.02, z))

    def mean(self, d: float) -> float:
        z = self.centre + math.log(d / self.d90)
        return self.chance + (self.full - self.chance) * self.curve_of(z, self)

    def _draw(self, *key: object) -> random.Random:
        return random.Random(f"{self.number}|{self.tuned}|{self.noise}|{key}")

    def _normal(self, *key: object) -> float:
        draw = self._draw(*key)
        if self.shape == "heavy tails":  # Student's t with 3 degrees of freedom, to the same standard deviation
            square = sum(draw.gauss(0, 1) ** 2 for _ in range(3)) / 3
            return draw.gauss(0, 1) / math.sqrt(square) / math.sqrt(3)
        return draw.gauss(0, 1)

    def final(self, d: int | None, p: int, t: int) -> float:
        if d is None:
            score = self.full + self.noise * math.sqrt(1 - self.spread_of_p) * self._normal("full", t)
        else:
            mean = self.mean(d)
            if self._draw("fails", d, p, t).random() < self.fails * (d > 0.3 * self.d90):
                return self.chance + (self.full - self.chance) * abs(0.05 * self._draw("how", d, p, t).gauss(0, 1))
            own = self.noise * (2.0 if self.shape == "uneven noise" and mean < self.level - 0.01 else 1.0)
            of_p, of_t = math.sqrt(self.spread_of_p), math.sqrt(1 - self.spread_of_p)
            score = mean + own * (of_p * self._normal("p", p, d) + of_t * self._normal("t", t, p, d))
        return round(score * 300) / 300 if self.shape == "300 examples" else score

    def trial(
        self, d: int | None, p: int, t: int, level: float, whole: bool, earlier: list[list[float]], noise: float
    ) -> tuple[str, float, float]:
        """(status, score, cost): stopped at the first evaluation that reaches the level, or says that none will, unless `whole`."""
        end = self.final(d, p, t)
        draw = self._draw("curve", d, p, t)
        gain = self.full - self.chance
        best, curve = -math.inf, list[float]()
        for way, scatter in zip(PROGRESS, SCATTER, strict=True):
            score = self.chance + (end - self.chance) * min(1.0, way + scatter * draw.gauss(0, 1))
            best = max(best, score) if way < 1 else max(min(best, end + 0.003 * gain), end)
            curve.append(best)
        for i, score in enumerate(curve[:-1], 1):
            if not whole and score >= level:
                return "passed", score, i / len(curve)
            if not whole and will_fail(curve[:i], earlier, len(curve), level, noise):
                return "hopeless", score, i / len(curve)
        if d is not None:
            earlier.append(curve)
        return "finished", curve[-1], 1.0
