"""Tunes as messages: trained in d numbers, made to take few values, written in bits, decoded, and measured as decoded.

What is measured on the decoded model (errors, or a language model's bits per token) is the caller's; the messages, what they
cost, and the store that keeps them are here.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from d90.analysis import coding
from d90.certificates.certificate import CodedTune
from d90.certificates.choices import first_example
from d90.certificates.preparation import Preparation
from d90.certificates.quantised import QuantisedSpace
from d90.certificates.starting_point import StartingPoint, steady
from d90.errors import InputError
from d90.methods import AppliedMethod, Context, Spec, apply
from d90.subspace.fingerprint import NO_PART
from d90.subspace.subspace import Subspace
from d90.training.loop import Data, fit
from d90.training.progress import Progress
from d90.training.recipe import Recipe, default_lr, trial_key
from d90.trials.store import digest

__all__ = ["Measure", "candidate_key", "coded_tunes", "copy_with_subspace", "decoded", "stored_key", "write"]

_Tune = TypeVar("_Tune", bound=CodedTune)


@dataclass(frozen=True)
class Measure(Generic[_Tune]):
    """How a kind of certificate measures a decoded model.

    Attributes:
        tune_type: the record of a message.
        measure: makes a record of a message, by what is counted on the model that carries it.
        no_change: whether the unchanged starting point is a message too; a first bit then says which.
        parts: what the record pays besides, by name.
        key: what else decides a record, for its key in the store.
    """

    tune_type: type[_Tune]
    measure: Callable[[Data, CodedTune], _Tune]
    no_change: bool
    parts: dict[str, float] = field(default_factory=dict)
    key: tuple[Any, ...] = ()

    def record(self, data: Data, d: int, levels: int, payload: str, lengths: dict[str, float]) -> _Tune:
        """The record of a message that lies on the data's model; its bound is not known yet."""
        paid = {**lengths, **self.parts}
        message = CodedTune(d=d, levels=levels, bits=sum(paid.values()), bound=1.0, payload=payload, parts=paid)
        return self.measure(data, message)


def coded_tunes(
    ground: Preparation, measure: Measure[_Tune], progress: Progress, given: Tensor | None = None
) -> Iterator[_Tune]:
    """No change where that is a message, then every d with every number of levels, each from the store if it is there.

    Args:
        given: theta, in place of training.
    """
    extra = ground.tried.bits
    if measure.no_change:
        with decoded(ground.data, ground.start, ground.spec, ground.recipe, 0, "") as fresh:
            yield measure.record(fresh, 0, 0, "", {"no change": 1.0, "tried": extra})
    known = {stored_key(body["key"]): body["candidate"] for body in ground.store.studies("certify candidate")}
    for d in ground.options.dims or ():
        trial = replace(ground.recipe, method=str(ground.spec.at(d)))
        asked = candidate_key(ground, trial, measure.key, given)
        tuned: _Tuned | None = None
        try:
            for count in ground.options.levels or ():
                key = [*asked, count]
                if stored_key(key) in known:
                    yield measure.tune_type.from_dict(known[stored_key(key)])
                    continue
                tuned = tuned or _trained(ground, d, trial, progress, given)
                coded = _quantised(ground, tuned, count, progress)
                lengths = {
                    "header": float(coded.header), "codebook": float(coded.codebook), "numbers": float(coded.symbols), "tried": extra,
                }  # fmt: skip
                lengths |= {"change or none": 1.0} if measure.no_change else {}
                with decoded(ground.data, ground.start, ground.spec, trial, d, coded.payload.hex()) as fresh:
                    found = measure.record(fresh, d, count, coded.payload.hex(), lengths)
                body = {"key": key, "candidate": asdict(found), "first_example": first_example(ground.whole.train)}
                ground.store.put_study(digest(key), "certify candidate", body)
                yield found
        finally:
            if tuned is not None:
                tuned.applied.release()


@contextlib.contextmanager
def decoded(data: Data, start: StartingPoint, spec: Spec, recipe: Recipe, d: int, payload: str) -> Iterator[Data]:
    """The same examples for a copy of the starting point with a message applied to it; an empty message changes nothing.

    Raises:
        InputError: a message that is not sound, or a model that does not hold still while it is evaluated.
    """
    fresh, space = copy_with_subspace(data, start, spec, recipe, d if payload else 0)
    if space is not None:
        write(space, coding.decode(_bytes(payload), d).vector())
    with steady(fresh):
        yield fresh


def copy_with_subspace(
    data: Data, start: StartingPoint, spec: Spec, recipe: Recipe, d: int
) -> tuple[Data, Subspace | None]:
    """The same examples for a copy of the starting point, and the d numbers that change it; none where d is 0."""
    fresh = data.for_model(start.fresh())
    if not d:
        return fresh, None
    applied = apply(spec.at(d), fresh.model.module, recipe.seed, Context(step_rule=recipe.step_rule))
    assert isinstance(applied.trained, Subspace)
    return fresh, applied.trained


@torch.no_grad()
def write(space: Subspace, theta: Tensor) -> None:
    """Lay theta on the model."""
    space.theta.copy_(theta)
    space.flush()


# --- steps -------------------------------------------------------------------------------------------------------------


def candidate_key(ground: Preparation, trial: Recipe, also: Sequence[Any], given: Tensor | None = None) -> list[Any]:
    """What decides a record, as the store keeps it."""
    options = ground.options
    asked = [
        trial_key(trial, ground.data.task, ground.data.model, ground.start.weights),
        options.quantise_epochs, ground.tried.count, bool(options.prior),
        *also,
    ]  # fmt: skip
    if options.posterior == "message" and options.codebook != "own":
        asked.append(f"codebook {options.codebook}")
    if ground.start.base.buffers != NO_PART:
        asked.append(f"buffers {ground.start.base.buffers}")
    if given is not None:
        asked.append(hashlib.sha256(given.numpy().tobytes()).hexdigest())
    return asked


@dataclass(frozen=True)
class _Tuned:
    """A tune before its numbers are coded: its recipe, the method on the model that is trained, and theta."""

    recipe: Recipe
    applied: AppliedMethod
    theta: Tensor


def _trained(ground: Preparation, d: int, trial: Recipe, progress: Progress, given: Tensor | None) -> _Tuned:
    """Train in d numbers, or take those that are given.

    Raises:
        InputError: numbers that are not finite.
    """
    data, spec = ground.data, ground.spec.at(d)
    applied = apply(spec, data.model.module, trial.seed, Context(step_rule=trial.step_rule))
    if given is None:
        fit(data, spec, trial, progress=progress, applied_method=applied)
    assert isinstance(applied.trained, Subspace)
    theta = applied.trained.theta.detach().clone() if given is None else given
    if not bool(torch.isfinite(theta).all()):
        applied.release()
        raise InputError(
            f"training at d = {d} ended with numbers that are not finite, expected finite ones to code. Likely cause: too high a "
            "rate; lower lr"
        )
    return _Tuned(trial, applied, theta)


def _quantised(ground: Preparation, tuned: _Tuned, levels: int, progress: Progress) -> coding.Coded:
    """Train with `levels` values from theta; plain k-means where nothing is trained."""
    trial, applied, epochs = tuned.recipe, tuned.applied, ground.options.quantise_epochs or 0.0
    space, spec = applied.trained, applied.spec
    assert isinstance(space, Subspace)
    write(space, tuned.theta)
    few = QuantisedSpace(space, levels, ground.options.codebook)
    if epochs > 0:
        usual = trial.lr if trial.lr is not None else default_lr(spec, ground.data.task.kind)
        # a tenth of the rate: the numbers must settle among few values (docs/decisions.md)
        again = replace(trial, lr=usual / 10, epochs=epochs, evaluations=1)
        fit(ground.data, spec, again, progress=progress, applied_method=AppliedMethod(spec, applied.applied, few))
    return coding.encode(few.quantised())


def _bytes(payload: str) -> bytes:
    try:
        return bytes.fromhex(payload)
    except ValueError:
        raise InputError("the message is not written in hex; likely cause: an altered file, copy it again") from None


def stored_key(asked: Sequence[Any]) -> tuple[Any, ...]:
    """The same, to compare: JSON has no tuples."""
    return tuple(tuple(part) if isinstance(part, list) else part for part in asked)
