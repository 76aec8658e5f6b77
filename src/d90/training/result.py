"""What a trial gave: the one shape of it that a run, a worker, the store and the studies share."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, fields

from d90.errors import InputError
from d90.files import Json
from d90.search.problem import FAILED
from d90.tasks.metrics import rises, to_display
from d90.training.recipe import check_types

__all__ = ["Evaluation", "Forgotten", "TrialContext", "TrialResult"]


@dataclass(frozen=True)
class Evaluation:
    """One look at the validation split: after `step` optimizer steps, its score and loss.

    `forgets` is what was lost of the text to be kept, where a limit decides (`Recipe.forget_at_most`): beyond it the score is that of
    the untrained model.
    """

    step: int
    score: float
    loss: float
    forgets: float | None = None

    def to_dict(self) -> Json:
        """As it is stored."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, found: Json) -> Evaluation:
        """From what was stored.

        Raises:
            KeyError, TypeError, ValueError: something else.
        """
        if not isinstance(found, Mapping):
            raise TypeError(f"a look at the validation split is {found!r:.40}, expected an object")
        forgets = found.get("forgets")
        return cls(
            int(found["step"]),
            float(found["score"]),
            float(found["loss"]),
            None if forgets is None else float(forgets),
        )


@dataclass(frozen=True)
class Forgotten:
    """Nats a token that a tune lost against the plain base on `count` examples, with the standard error of the mean.

    Attributes:
        on: the examples: the base's own text, or a task.
        digest: of them.
    """

    on: str
    mean: float
    error: float
    count: int
    digest: str


@dataclass(frozen=True)
class TrialContext:
    """Where a trial ran: fingerprints of its data and base, versions, and the machine; "" or 0 where it is not known."""

    task: str = ""
    base: str = ""
    d90: str = ""
    torch: str = ""
    numpy: str = ""
    python: str = ""
    machine: str = ""
    threads: int = 0
    device: str = ""

    def of(self, task: str, bases: Container[str]) -> bool:
        """Whether it is of this task and one of these bases, by their fingerprints."""
        return self.task == task and self.base in bases

    def to_dict(self) -> Json:
        """As it is stored: what is known."""
        return {key: value for key, value in asdict(self).items() if value}

    @classmethod
    def from_dict(cls, found: Json) -> TrialContext:
        """From what was stored, by this version or another.

        Raises:
            InputError: a field of another type.
        """
        known = {name: found[name] for name in cls.__dataclass_fields__ if name in found}
        check_types(cls, known, "the context of a trial")
        return cls(**known)


@dataclass(frozen=True)
class TrialResult:
    """What a trial gave.

    Of a trial that d90 did not train itself (`d90.Study`) only score, status, steps and seconds are known.

    Attributes:
        score: the best of the evaluations, the untrained model's among them, and that of the weights which are kept.
        status: "finished", "passed" (stopped at the threshold: the score is a lower bound), "hopeless" (pruned: it would have stayed
            below the threshold), "read" (ended early as its recipe says, `Recipe.until`), "diverged" (the loss was not finite at
            step `steps`) or "failed" (memory did not suffice, as `error` says; it is never stored).
        zero_score: that of the untrained model.
        curve: the evaluations, the first of them before any step.
        steps: of the optimizer; of an objective that d90 does not train its cost, a baseline's being 1.
        train_loss: the mean of the last losses.
        trained, D, lambdas, layers: numbers trained, weights moved, numbers that scale layers, the definition of a layer that was used.
        truncated: examples that were cut to fit the model.
        test: the best evaluation's score on the test split, where it was asked for.
        forgetting: by the kept weights, where it was asked for.
        context: where it ran; known of trials that the runner made and of stored ones.
        predictions: those of the best evaluation, packed (`d90.trials.predictions`); empty where they were not kept or not read.
    """

    score: float = math.nan
    status: str = "finished"
    zero_score: float = math.nan
    curve: tuple[Evaluation, ...] = ()
    steps: float = 0
    seconds: float = 0.0
    train_loss: float = math.nan
    trained: int = 0
    D: int = 0
    lambdas: int = 0
    layers: str = ""
    truncated: int = 0
    lr: float = math.nan
    precision: str = "fp32"
    test: float | None = None
    forgetting: tuple[Forgotten, ...] = ()
    error: str = ""
    context: TrialContext = field(default=TrialContext(), kw_only=True)
    predictions: bytes = field(default=b"", kw_only=True, repr=False)

    @property
    def best(self) -> Evaluation:
        """The evaluation whose weights are kept: the first of those with the best score."""
        return max(self.curve, key=lambda look: look.score)

    @property
    def improved(self) -> bool:
        """Whether training ever beat the untrained model."""
        return self.score > self.zero_score

    @property
    def failed(self) -> bool:
        """Whether it diverged or memory did not suffice: it says nothing of what it tried."""
        return self.status in FAILED

    @property
    def lasting(self) -> bool:
        """Whether the same trial would give the same again: not where memory did not suffice."""
        return self.status != "failed"

    @property
    def last_loss(self) -> float | None:
        """The validation loss of the last evaluation; None where the trial failed."""
        return None if self.failed or not self.curve else self.curve[-1].loss

    def describe(self, metric: str) -> str:
        """Its score, how it ended, what it took, and what it forgot where that was measured, in a line."""
        if not self.lasting:
            return f"failed after {self.seconds:.0f} s: memory was exhausted ({self.error}); not stored"
        score, took = f"{to_display(self.score, metric):.4f}", f" in {self.seconds:.0f} s"
        if self.status == "diverged":
            return f"diverged at step {self.steps} (loss not finite), best before {score}{took}"
        sign = {"passed": f"at {'least' if rises(metric) else 'most'} ", "hopeless": "given up at "}.get(
            self.status, ""
        )
        lost = "".join(f", forgets {one.mean:.3f} nats of {one.on}" for one in self.forgetting)
        return f"{sign}{score}{took}{lost}"

    def to_dict(self) -> Json:
        """As it is stored, without its context and predictions, which have columns of their own."""
        body = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("context", "predictions")}
        body |= {"curve": [look.to_dict() for look in self.curve], "forgetting": list(map(asdict, self.forgetting))}
        kept = body if self.curve else {name: value for name, value in body.items() if _says(name, value)}
        return {name: value for name, value in kept.items() if value or name not in ("forgetting", "error")}

    @classmethod
    def from_dict(cls, found: Json, context: TrialContext = TrialContext(), predictions: bytes = b"") -> TrialResult:
        """From what was stored, by this version or another: an unknown field is left out, a missing one says nothing.

        Raises:
            InputError: a field of another type, or a curve of something else.
        """
        known = {one.name: found[one.name] for one in fields(cls) if one.name in found}
        known = {name: value for name, value in known.items() if name not in ("context", "predictions")}
        check_types(cls, known, "what a trial gave")
        try:
            curve = tuple(map(Evaluation.from_dict, known.pop("curve", ())))
            forgetting = tuple(Forgotten(**one) for one in known.pop("forgetting", ()))
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"got a learning curve that cannot be read ({type(error).__name__}: {error}), expected evaluations"
            ) from None
        return cls(**known, curve=curve, forgetting=forgetting, context=context, predictions=predictions)


def _says(name: str, value: object) -> bool:
    """Whether a field says something: it is no part of every trial, or differs from its default."""
    if name in ("score", "status", "steps", "seconds"):
        return True
    unsaid = TrialResult.__dataclass_fields__[name].default
    return bool(value) and value != unsaid and value == value
