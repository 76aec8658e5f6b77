"""certify(model, task) -> Certificate: an upper bound on the true error from the training examples alone.

A tune is trained in a subspace, its d numbers are made to take L values and written by an arithmetic coder. With K the
length of that self-delimiting message and e errors of the DECODED model on n training examples, with probability 1 - delta

    true error <= sup{p : Pr[Binomial(n, p) <= e] >= delta 2^-K}              (Langford 2005, theorem 4.6)

at once for every message, so whatever chose the message (rate, epochs, levels, d) costs nothing beside its bits. What the
decoder needs and the message does not hold (seed, structure, projection) is fixed beforehand or paid for (`tried`).

With a prior, a first part of the training examples, chosen beforehand, trains the starting point at no cost; the message
describes the change learned on the rest, and the bound counts the rest alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d90 import layout
from d90.analysis import bounds, coding
from d90.errors import InputError
from d90.lab import versions
from d90.methods import Full, Laid, Spec, lay, parse
from d90.models import Model
from d90.progress import Progress
from d90.projections.philox import words
from d90.quantised import QuantisedSpace
from d90.recipe import Recipe, make_recipe
from d90.subspace import Subspace
from d90.sweep.store import Store, hashed
from d90.tasks import Split, Task
from d90.training import Data, fit, open_model, open_task, precision_of, predict

__all__ = ["Candidate", "Certificate", "certify", "check"]


@dataclass(frozen=True)
class Candidate:
    """One coded tune: `payload` is the message in hex, "" for no change at all."""

    d: int
    levels: int
    bits: float
    errors: int
    bound: float
    payload: str
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """What is guaranteed, with everything needed to check it again.

    Attributes:
        n, errors: the examples the bound counts, and how many the decoded model gets wrong.
        bits, parts: description length, and where it goes.
        bound: on the true error, at confidence 1 - delta; `kl_bound` by inverting the relative entropy.
        test_error, test_count, split: on examples no choice has seen.
        majority: the error of always giving the most frequent class.
        holdout: what holding out a tenth of the same examples would have certified at this test error.
        tighter: the bound if one thing were better, by name.
        assumptions: what the guarantee rests on, and what was found about it.
    """

    model: str
    task: str
    method: str
    n: int
    errors: int
    bits: float
    parts: dict[str, float]
    delta: float
    bound: float
    kl_bound: float
    test_error: float
    test_count: int
    split: str
    majority: float
    holdout: float
    prior: int
    best: Candidate
    candidates: tuple[Candidate, ...]
    tighter: dict[str, float]
    assumptions: tuple[str, ...]
    recipe: dict[str, Any]
    definitions: dict[str, Any]
    command: str = ""

    @property
    def error(self) -> float:
        """Training error of the decoded model on the examples that count."""
        return self.errors / self.n

    def __str__(self) -> str:
        worth = "" if self.bound < self.majority else ", which says nothing: the majority class errs no more"
        return (
            f"true error <= {self.bound:.2%} with probability {1 - self.delta:.0%}{worth} (training error {self.error:.2%} on {self.n:,}, "
            f"{self.bits:.0f} bits, {self.split} error {self.test_error:.2%}; a hold-out of a tenth: {self.holdout:.2%})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; `check` reads it back and counts the errors again."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def certify(
    model: str | Model,
    task: str | Task,
    method: str | Spec = "full@structure=did",
    *,
    dims: Sequence[int] = (100, 200, 400),
    levels: Sequence[int] = (3, 5, 9),
    prior: float = 0.0,
    delta: float = 0.05,
    tried: int = 1,
    prior_epochs: float = 3,
    quantise_epochs: float = 2,
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    progress: Progress | None = None,
    command: str = "",
    **options: Any,
) -> Certificate:
    """Search d and the number of levels for the smallest bound.

    Args:
        model, task: as for `d90.train`; classification alone.
        method: with a subspace; its d comes from `dims`.
        dims, levels: what is tried; the message says which was taken.
        prior: share of the training examples that trains the starting point, 0 for none.
        delta: 1 - confidence.
        tried: how many alternatives outside the message (seeds, structures, projections) were tried before; log2 of it is added.
        prior_epochs, quantise_epochs: passes of the starting point's training, and of training with few values.
        store: coded tunes are kept there; none is trained twice.
        options: fields of `Recipe`.

    Raises:
        InputError: a regression, too few examples, or numbers out of range.
    """
    told = progress or Progress()
    spec = parse(method) if isinstance(method, str) else method
    _sound(spec, dims, levels, prior, delta, tried)
    recipe = make_recipe(model, task, spec, options)
    whole = open_task(task, recipe)
    if whole.kind != "classification":
        raise InputError(f"task '{whole.name}' is a regression; a bound on the error rate needs classes")
    first, counted = _parts(whole, prior)
    loaded = open_model(model, whole, recipe)
    keep = store if isinstance(store, Store) else Store(store)
    told.search_started(f"certificate of {recipe.model} on {recipe.task}, {spec}, n = {len(counted.train):,}")
    if first is not None:
        told.search_planned(f"starting point from {len(first.train):,} examples")
        start = replace(recipe, method="full", lr=None, epochs=prior_epochs)
        fit(Data(loaded, first), Spec(Full()), start, progress=told, keep_best=True)[1].merge()
    data = Data(loaded, counted)
    candidates = list(_candidates(data, spec, recipe, dims, levels, quantise_epochs, delta, tried, prior, keep, told))
    best = min(candidates, key=lambda candidate: candidate.bound)
    split = "test" if counted.test is not None else "validation"
    with _decoded(data, spec, recipe, best):
        wrong, seen = _errors(data, split, recipe)
    result = Certificate(
        model=recipe.model,
        task=recipe.task,
        method=str(spec.at(best.d)) if best.d else str(spec),
        n=len(counted.train),
        errors=best.errors,
        bits=best.bits,
        parts=best.parts,
        delta=delta,
        bound=best.bound,
        kl_bound=bounds.occam_kl(best.errors / len(counted.train), len(counted.train), delta, best.bits),
        test_error=wrong / seen,
        test_count=seen,
        split=split,
        majority=_majority(counted, split),
        holdout=bounds.holdout_of_the_same_data(wrong / seen, len(whole.train), 0.1, delta),
        prior=len(first.train) if first is not None else 0,
        best=best,
        candidates=tuple(candidates),
        tighter=_tighter(best, len(counted.train), delta),
        assumptions=_assumptions(counted, first),
        recipe={key: value for key, value in asdict(recipe).items() if key != "method"},
        definitions={
            "dims": list(dims), "levels": list(levels), "prior": prior, "tried": tried, "prior_epochs": prior_epochs,
            "quantise_epochs": quantise_epochs, "task": whole.fingerprint, "base": loaded.fingerprint,
            "start": layout.fingerprint(loaded.module.named_parameters()), **versions(),
        },
        command=command,
    )  # fmt: skip
    keep.put_study(
        hashed([str(spec), result.recipe, list(dims), list(levels), prior, delta, tried, prior_epochs]),
        "certify",
        asdict(result),
    )
    told.search_ended(str(result))
    return result


def _candidates(
    data: Data, spec: Spec, recipe: Recipe, dims: Sequence[int], levels: Sequence[int], epochs: float,
    delta: float, tried: int, prior: float, store: Store, told: Progress,
) -> Iterator[Candidate]:  # fmt: skip
    n = len(data.train)
    extra = bounds.choice_bits([tried])
    start = layout.fingerprint(data.model.module.named_parameters())
    if prior:
        errors = _errors(data, "train", recipe)[0]
        yield _bounded(Candidate(0, 0, 1 + extra, errors, 1.0, "", {"no change": 1.0, "tried": extra}), n, delta)
    known = {tuple(body["key"]): body["candidate"] for body in store.studies("certify candidate")}
    for d in dims:
        trial = replace(recipe, method=str(spec.at(d)))
        asked = [trial.key(data.task.fingerprint, start), epochs, tried, bool(prior)]
        left = [count for count in levels if (*asked, count) not in known]
        laid: Laid | None = None
        try:
            if left:
                laid = fit(data, spec.at(d), trial, progress=told)[1]
                assert isinstance(laid.trained, Subspace)
                theta = laid.trained.theta.detach().clone()
            for count in levels:
                key = [*asked, count]
                if tuple(key) in known:
                    found = Candidate(**known[tuple(key)])
                else:
                    assert laid is not None
                    space = laid.trained
                    assert isinstance(space, Subspace)
                    with torch.no_grad():
                        space.theta.copy_(theta)
                    coded = _quantise(data, spec.at(d), trial, laid, space, count, epochs, told)
                    with torch.no_grad():
                        space.theta.copy_(coding.decode(coded.payload).vector())
                    space.flush()
                    parts = {
                        "header": coded.header,
                        "codebook": coded.codebook,
                        "numbers": coded.symbols,
                        "tried": extra,
                    }
                    parts |= {"change or none": 1.0} if prior else {}
                    errors, bits = _errors(data, "train", recipe)[0], sum(parts.values())
                    found = Candidate(d, count, bits, errors, 1.0, coded.payload.hex(), dict(parts))
                    store.put_study(hashed(key), "certify candidate", {"key": key, "candidate": asdict(found)})
                found = _bounded(found, n, delta)
                told.trial_ended(
                    f"d = {d}, {count} levels",
                    f"{found.errors / n:.2%} training error, {found.bits:.0f} bits, bound {found.bound:.2%}",
                )
                yield found
        finally:
            if laid is not None:
                laid.release()


def _quantise(
    data: Data, spec: Spec, recipe: Recipe, laid: Laid, space: Subspace, levels: int, epochs: float, told: Progress
) -> coding.Coded:
    """Train with `levels` values from the theta that is there; the shorter of that and plain k-means where nothing is trained."""
    few = QuantisedSpace(space, levels)
    if epochs > 0:
        usual = recipe.lr if recipe.lr is not None else 5e-3 if data.task.is_text else 5e-2
        # a third of the rate: the numbers must settle among few values
        again = replace(recipe, lr=usual / 3, epochs=epochs, evaluations=1)
        fit(data, spec, again, progress=told, laid=Laid(spec, laid.applied, few))
    return coding.encode(few.quantised())


class _decoded:
    """The data's model with a candidate's message laid on it; as it was afterwards."""

    def __init__(self, data: Data, spec: Spec, recipe: Recipe, candidate: Candidate) -> None:
        self._data, self._spec, self._recipe, self._candidate = data, spec, recipe, candidate
        self._laid: Laid | None = None

    def __enter__(self) -> None:
        if not self._candidate.payload:
            return
        self._laid = lay(self._spec.at(self._candidate.d), self._data.model.module, self._recipe.seed)
        space = self._laid.trained
        assert isinstance(space, Subspace)
        with torch.no_grad():
            space.theta.copy_(coding.decode(bytes.fromhex(self._candidate.payload), self._candidate.d).vector())
        space.flush()

    def __exit__(self, *_: object) -> None:
        if self._laid is not None:
            self._laid.release()


def check(
    path: str | os.PathLike[str], model: str | Model | None = None, task: str | Task | None = None
) -> Certificate:
    """Read a certificate back: decode its message, count the errors again, and compute the bound from them.

    Raises:
        InputError: a file that is no certificate, other data or another base, or figures that do not come out.
    """
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
        best = Candidate(**body.pop("best"))
        body["candidates"] = tuple(Candidate(**one) for one in body["candidates"])
        body["assumptions"] = tuple(body["assumptions"])
        said = Certificate(best=best, **body)
        definitions, recipe = said.definitions, Recipe(**{**said.recipe, "method": said.method})
        prior, start, fingerprint = float(definitions["prior"]), definitions["start"], definitions["task"]
    except FileNotFoundError:
        raise InputError(f"no such file: '{path}'") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is not a certificate ({type(error).__name__}: {error}); write it again") from None
    whole = open_task(task if task is not None else recipe.task, recipe)
    if whole.fingerprint != fingerprint:
        raise InputError(
            f"'{path}' certifies another set of examples: fingerprint {fingerprint[:16]}, task '{whole.name}' has "
            f"{whole.fingerprint[:16]}. The bound holds for those examples alone; give the same data"
        )
    first, counted = _parts(whole, prior)
    loaded = open_model(model if model is not None else recipe.model, whole, recipe)
    if first is not None:
        again = replace(recipe, method="full", lr=None, epochs=definitions["prior_epochs"])
        fit(Data(loaded, first), Spec(Full()), again, progress=Progress(), keep_best=True)[1].merge()
    data, spec = Data(loaded, counted), parse(said.method)
    if layout.fingerprint(loaded.module.named_parameters()) != start:
        raise InputError(
            f"'{path}': the starting point is another one here; expected the base and the prior it was made from"
        )
    with _decoded(data, spec, recipe, best):
        errors = _errors(data, "train", recipe)[0]
    found = _bounded(replace(best, errors=errors), len(counted.train), said.delta)
    if errors != said.errors or abs(found.bound - said.bound) > 1e-9:
        raise InputError(
            f"'{path}' says {said.errors} errors and a bound of {said.bound:.4%}; counted again: {errors} and {found.bound:.4%}. "
            "Likely cause: another processor or precision; certify again here"
        )
    return said


# --- helpers -----------------------------------------------------------------------------------------------------------


def _sound(spec: Spec, dims: Sequence[int], levels: Sequence[int], prior: float, delta: float, tried: int) -> None:
    if spec.space is None:
        raise InputError(
            f"got '{spec}', expected a subspace behind '@', as in full@structure=said: only d numbers can be coded"
        )
    if spec.space.head == "outside":
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


def _parts(task: Task, prior: float) -> tuple[Task | None, Task]:
    """The prior's task and the one that counts, by our own bits: chosen before anything is seen."""
    if prior == 0:
        return None, task
    n = len(task.train)
    keys = words(0, "split", torch.tensor([0]), -(-n // 4))[0, :n]
    order = torch.argsort(keys, stable=True)
    cut = round(prior * n)
    if not 0 < cut < n:
        raise InputError(f"got prior={prior} of {n} examples, expected at least one on each side")
    return replace(task, train=_take(task.train, order[:cut])), replace(task, train=_take(task.train, order[cut:]))


def _take(split: Split, chosen: Tensor) -> Split:
    inputs = split.inputs[chosen] if isinstance(split.inputs, Tensor) else [split.inputs[i] for i in chosen.tolist()]
    return Split(inputs, split.labels[chosen])


def _errors(data: Data, split: str, recipe: Recipe) -> tuple[int, int]:
    batches = data.split(split)
    outputs = predict(data.model, batches, precision_of(recipe, data.task))
    # a tie or a value that is not finite counts as wrong
    right = (outputs.argmax(dim=-1) == batches.labels) & outputs.isfinite().all(dim=-1)
    return int((~right).sum()), len(batches)


def _bounded(candidate: Candidate, n: int, delta: float) -> Candidate:
    return replace(candidate, bound=bounds.binomial_upper(candidate.errors, n, delta, candidate.bits))


def _majority(task: Task, split: str) -> float:
    common = torch.bincount(task.train.labels).argmax()
    return float((task.splits[split].labels != common).float().mean())


def _tighter(best: Candidate, n: int, delta: float) -> dict[str, float]:
    """The bound if the message were free, if no example were wrong, and with twice the examples."""
    return {
        "no bits at all": bounds.binomial_upper(best.errors, n, delta),
        "no training error": bounds.binomial_upper(0, n, delta, best.bits),
        "twice the examples": bounds.binomial_upper(2 * best.errors, 2 * n, delta, best.bits),
    }


def _assumptions(task: Task, first: Task | None) -> tuple[str, ...]:
    inputs = task.train.inputs
    if isinstance(inputs, Tensor):
        distinct = len(torch.unique(inputs.flatten(1), dim=0)) if len(inputs) <= 100_000 else len(inputs)
    else:
        distinct = len(set(inputs))
    said = ["the examples are independent draws from the distribution the error is of"]
    repeated = len(task.train) - distinct
    if repeated:
        said.append(
            f"{repeated:,} of {len(task.train):,} examples repeat another: likely copies, not independent draws"
        )
    else:
        said.append("no example repeats another")
    said.append("the base model was not trained on these examples (not checked)")
    if first is not None and not isinstance(inputs, Tensor):
        shared = len(set(first.train.inputs) & set(inputs))
        said.append(f"{shared:,} examples stand in the prior's part as well")
    return tuple(said)
