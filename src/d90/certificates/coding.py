"""Tunes as messages: trained in d numbers, made to take few values, written in bits, decoded, and measured as decoded.

What is measured on the decoded model (errors, or a language model's bits per token) is the caller's; the messages, what they
cost, and the store that keeps them are here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from d90.analysis import bounds, coding
from d90.certificates.certificate import parts
from d90.certificates.quantised import QuantisedSpace
from d90.errors import InputError
from d90.methods import AppliedMethod, Context, Full, Spec, apply, parse
from d90.models.loading import Model
from d90.subspace import layout
from d90.subspace.subspace import Subspace
from d90.tasks import Task
from d90.training.loop import Data, fit, open_model, open_task
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.trials.store import Store, digest

__all__ = ["check_sound", "coded_tunes", "decoded", "opened_again", "pay_for", "start_from"]

_One = TypeVar("_One")  # a dataclass: one coded tune and what was measured
_Said = TypeVar("_Said")  # a dataclass: a certificate


def check_sound(spec: Spec, dims: Sequence[int], levels: Sequence[int], prior: float, delta: float, tried: int) -> None:
    """Refuse what no message can be made of.

    Raises:
        InputError: which, and what was expected.
    """
    if spec.space is None:
        raise InputError(
            f"got '{spec}', expected a subspace behind '@', as in full@structure=said: only d numbers can be coded"
        )
    if spec.space.options.head == "outside":
        raise InputError(
            "head=outside trains the whole head beside theta, which the message does not hold; use head=inside"
        )
    if not dims or min(dims) < 1 or not levels or min(levels) < 1:
        raise InputError(f"got dims={list(dims)}, levels={list(levels)}, expected positive whole numbers")
    if not 0 <= prior < 1:
        raise InputError(f"got prior={prior}, expected a share of the training examples, 0 <= prior < 1")
    if tried < 1:
        raise InputError(f"got tried={tried}, expected at least 1, this one")
    bounds.nats(delta)


def opened_again(
    path: str | os.PathLike[str], certificate: Callable[..., _Said], candidate: Callable[..., Any],
    model: str | Model | None, task: str | Task | None, unit: str, needed: Sequence[str] = (),
) -> tuple[_Said, Data, Spec, Recipe]:  # fmt: skip
    """A certificate read back, and what it certifies: the examples that count, on the starting point it was made from.

    Args:
        certificate, candidate: the dataclasses its body and its messages are.
        model, task: where they lie now; None: under the names in the certificate.
        unit: what the bound counts, for the errors.
        needed: numbers that its definitions must have besides the prior.

    Raises:
        InputError: a file that is no such certificate, other examples, or another starting point.
    """
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
        body["best"] = candidate(**body["best"])
        body["candidates"] = tuple(candidate(**one) for one in body["candidates"])
        body["assumptions"] = tuple(body["assumptions"])
        said = certificate(**body)
        definitions, recipe = body["definitions"], Recipe(**{**body["recipe"], "method": body["method"]})
        prior, start, fingerprint = float(definitions["prior"]), definitions["start"], definitions["task"]
        for name in needed:
            float(definitions[name])
    except FileNotFoundError:
        raise InputError(f"no such file: '{path}'") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is not a certificate ({type(error).__name__}: {error}); write it again") from None
    whole = open_task(task if task is not None else recipe.task, recipe)
    if whole.fingerprint != fingerprint:
        raise InputError(
            f"'{path}' certifies another set of {unit}: fingerprint {fingerprint[:16]}, task '{whole.name}' has "
            f"{whole.fingerprint[:16]}. The bound holds for those {unit} alone; give the same data"
        )
    first, counted = parts(whole, prior)
    loaded = open_model(model if model is not None else recipe.model, whole, recipe)
    if first is not None:
        start_from(loaded, first, recipe, definitions["prior_epochs"], Progress())
    if layout.fingerprint(loaded.module.named_parameters()) != start:
        raise InputError(
            f"'{path}': the starting point is another one here; expected the base and the prior it was made from. A prior is trained "
            f"again for the check, and other threads or another processor round differently: it was made with "
            f"{definitions.get('threads')} threads on {definitions.get('machine')}, here are {torch.get_num_threads()}"
        )
    return said, Data(loaded, counted), parse(body["method"]), recipe


def pay_for(
    tried: int | None,
    store: Store,
    task: Task,
    model: Model,
    spec: Spec,
    recipe: Recipe,
    prior: float,
    prior_epochs: float,
) -> tuple[int, tuple[str, ...]]:
    """(number of alternatives outside the message to pay for, what the store shows about it, in words).

    The decoder needs seed, structure, projection and prior beside the message; a choice among several of them that looked at these
    examples costs log2 of their number. Learning rates and epochs cost nothing: the bound holds for every message.

    Raises:
        InputError: the store shows alternatives, and how many to pay for was not said.
    """
    mine = _decoder(str(spec), asdict(recipe), prior, prior_epochs)
    shown, rates = {mine}, set()
    for row in store.trials():
        if (row.context.get("task"), row.context.get("base")) == (
            task.fingerprint,
            model.fingerprint,
        ) and row.d is not None:
            shown.add(_decoder(str(row.recipe["method"]), row.recipe, 0.0, 0.0))
            rates.add(row.outcome["lr"])
    for kind in ("certify", "certify language"):
        for body in store.studies(kind):
            known = body["definitions"]
            if (known["task"], known["base"]) == (task.fingerprint, model.fingerprint):
                shown.add(_decoder(body["method"], body["recipe"], known["prior"], known["prior_epochs"]))
                rates.add(body["recipe"]["lr"])
    if tried is None and len(shown) > 1:
        raise InputError(
            f"'{store.path}' shows {len(shown)} alternatives on these examples (seeds, structures, projections, priors; this one "
            f"included), expected tried to say how many this one was chosen from: an unpaid choice voids the bound. Give "
            f"tried={len(shown)} (--tried), or 1 where it was fixed before any of them"
        )
    lines = []
    if tried is not None and tried < len(shown):
        lines.append(
            f"{len(shown)} alternatives on these examples are in the store, and this one was chosen from {tried} of them"
        )
    if len(rates) > 1:
        lines.append(
            f"{len(rates)} learning rates in the store cost nothing: the message is paid in full, whatever chose it"
        )
    return tried or 1, tuple(lines)


def _decoder(method: str, recipe: dict[str, Any], prior: float, prior_epochs: float) -> str:
    """What a decoder must know: two messages with the same need no bit to be told apart."""
    keys = ["seed", "max_length", "precision"] + (
        ["batch_size", "warmup", "weight_decay", "train_limit"] if prior else []
    )
    with contextlib.suppress(InputError):  # a method that this version does not have is an alternative all the same
        method = str(parse(method).at(1))
    return str([method, prior, prior_epochs if prior else 0, *(recipe[key] for key in keys)])


def start_from(model: Model, first: Task, recipe: Recipe, epochs: float, progress: Progress) -> None:
    """Train the starting point in full on the prior's part; the model is left with it.

    Without a test split the validation split is what is reported on, so nothing is chosen there: the last weights are kept.
    """
    evaluations = recipe.evaluations if first.test is not None else 1
    start = replace(recipe, method="full", lr=None, epochs=epochs, evaluations=evaluations)
    fit(Data(model, first), Spec(Full()), start, progress=progress, keep_best=True)[1].merge()


def coded_tunes(
    data: Data,
    spec: Spec,
    recipe: Recipe,
    dims: Sequence[int],
    levels: Sequence[int],
    epochs: float,
    *,
    tried: int,
    prior: bool,
    flag: bool,
    store: Store,
    progress: Progress,
    counted: Callable[[int, int, str, dict[str, float]], _One],
    read: Callable[[dict[str, Any]], _One],
    given: Tensor | None = None,
    also: Sequence[Any] = (),
) -> Iterator[_One]:
    """Every d with every number of levels.

    Args:
        epochs: of the training with few values; 0 for plain k-means.
        flag: the message begins with a bit that says whether anything changes.
        counted: makes the record of (d, levels, message in hex, bits by part); the model carries the decoded message then.
        read: makes it again from the store.
        given: theta, in place of training.
        also: what else decides a record, for its key in the store.
    """
    extra = bounds.choice_bits([tried])
    start = layout.fingerprint(data.model.module.named_parameters())
    known = {_key(body["key"]): body["candidate"] for body in store.studies("certify candidate")}
    for d in dims:
        trial = replace(recipe, method=str(spec.at(d)))
        asked = [trial.key(data.task.fingerprint, start), epochs, tried, prior, *also]
        if given is not None:
            asked.append(hashlib.sha256(given.numpy().tobytes()).hexdigest())
        applied_method: AppliedMethod | None = None
        try:
            if any(_key([*asked, count]) not in known for count in levels):
                applied_method = apply(spec.at(d), data.model.module, trial.seed, Context(step_rule=trial.step_rule))
                if given is None:
                    fit(data, spec.at(d), trial, progress=progress, applied_method=applied_method)
                assert isinstance(applied_method.trained, Subspace)
                theta = applied_method.trained.theta.detach().clone() if given is None else given
                if not bool(torch.isfinite(theta).all()):
                    raise InputError(
                        f"training at d = {d} ended with numbers that are not finite, expected finite ones to code. Likely cause: "
                        "too high a rate; lower lr"
                    )
            for count in levels:
                key = [*asked, count]
                if _key(key) in known:
                    yield read(known[_key(key)])
                    continue
                assert applied_method is not None
                space = applied_method.trained
                assert isinstance(space, Subspace)
                _write(space, theta)
                coded = _quantise(data, spec.at(d), trial, applied_method, space, count, epochs, progress)
                _write(space, coding.decode(coded.payload).vector())
                lengths = {
                    "header": float(coded.header),
                    "codebook": float(coded.codebook),
                    "numbers": float(coded.symbols),
                    "tried": extra,
                }
                lengths |= {"change or none": 1.0} if flag else {}
                found = counted(d, count, coded.payload.hex(), lengths)
                store.put_study(
                    digest(key),
                    "certify candidate",
                    {"key": key, "candidate": asdict(found)},  # type: ignore[call-overload]
                )
                yield found
        finally:
            if applied_method is not None:
                applied_method.release()


@contextlib.contextmanager
def decoded(data: Data, spec: Spec, recipe: Recipe, d: int, payload: str) -> Iterator[None]:
    """The data's model with a message laid on it; as it was afterwards. An empty message changes nothing.

    Raises:
        InputError: a message that is not sound.
    """
    if not payload:
        yield
        return
    applied_method = apply(spec.at(d), data.model.module, recipe.seed, Context(step_rule=recipe.step_rule))
    try:
        assert isinstance(applied_method.trained, Subspace)
        _write(applied_method.trained, coding.decode(bytes.fromhex(payload), d).vector())
        yield
    finally:
        applied_method.release()


def _quantise(
    data: Data,
    spec: Spec,
    recipe: Recipe,
    applied_method: AppliedMethod,
    space: Subspace,
    levels: int,
    epochs: float,
    progress: Progress,
) -> coding.Coded:
    """Train with `levels` values from the theta that is there; plain k-means where nothing is trained."""
    few = QuantisedSpace(space, levels)
    if epochs > 0:
        usual = recipe.lr if recipe.lr is not None else 5e-3 if data.task.is_text else 5e-2
        # a tenth of the rate: the numbers must settle among few values (docs/decisions.md)
        again = replace(recipe, lr=usual / 10, epochs=epochs, evaluations=1)
        fit(data, spec, again, progress=progress, applied_method=AppliedMethod(spec, applied_method.applied, few))
    return coding.encode(few.quantised())


@torch.no_grad()
def _write(space: Subspace, theta: Tensor) -> None:
    space.theta.copy_(theta)
    space.flush()


def _key(asked: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(part) if isinstance(part, list) else part for part in asked)
