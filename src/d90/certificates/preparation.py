"""The ground of every certificate: examples in two parts, the starting point, what was tried, and how all of it is found again."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from d90.analysis import bounds
from d90.certificates.assumptions import WARNING, assumptions, drop_copies, refuse_copies
from d90.certificates.certificate import BaseCertificate, Choice, CodedTune
from d90.certificates.choices import Tried, choices_of, first_example, what_was_tried
from d90.certificates.definitions import Definitions
from d90.certificates.starting_point import StartingPoint, check_evaluation, own_copy
from d90.errors import InputError
from d90.files import write_bytes
from d90.methods import Full, Spec, parse
from d90.models.loading import Model
from d90.options import CertificateOptions
from d90.projections.philox import permutation
from d90.tasks import Task
from d90.tasks.overlap import asked_again, common
from d90.training.loop import Data, fit, open_model, open_task
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.training.steps import RunControl
from d90.trials.context import context_here
from d90.trials.store import Store, digest

__all__ = [
    "Preparation",
    "check_sound",
    "ground_of",
    "members",
    "opened_again",
    "parts",
    "prepare",
    "save_study",
    "write_array",
]

FEW = 100  # examples: below it the best bound that can be had is said first

_Certificate = TypeVar("_Certificate", bound=BaseCertificate[Any])


@dataclass(frozen=True)
class Preparation:
    """What a search for the best message starts from.

    Attributes:
        spec, recipe, options: what decides it.
        whole, first: the task with all its examples, and with the prior's part (None without a prior).
        data: the examples that count, encoded for the model that is trained.
        start: what a message is applied to.
        tried, assumptions, choices: what is paid for, and what is said.
        store: where messages are kept.
    """

    spec: Spec
    recipe: Recipe
    options: CertificateOptions
    whole: Task
    first: Task | None
    data: Data
    start: StartingPoint
    tried: Tried
    assumptions: tuple[str, ...]
    choices: tuple[Choice, ...]
    store: Store

    @property
    def n(self) -> int:
        """How many independent examples count."""
        return self.data.task.independent("train")

    @property
    def split(self) -> str:
        """The split that chose nothing: "test", or "validation" where there is none."""
        return "test" if self.data.task.test is not None else "validation"

    @property
    def prior(self) -> int:
        """How many examples trained the starting point."""
        return len(self.first.train) if self.first is not None else 0

    def recipe_at(self, best: CodedTune) -> Recipe:
        """The recipe with the method of the best message."""
        return replace(self.recipe, method=str(self.spec.at(best.d) if best.d else self.spec))

    def definitions(self) -> Definitions:
        """What a check needs to find the same ground again."""
        options, here = self.options, context_here(self.whole.fingerprint, self.data.model.fingerprint)
        return Definitions(
            dims=tuple(options.dims or ()),
            levels=tuple(options.levels or ()),
            prior=options.prior,
            tried=self.tried.count,
            prior_epochs=options.prior_epochs,
            quantise_epochs=options.quantise_epochs,
            copies=options.copies,
            task=here.task,
            examples=len(self.whole.train),
            first_example=first_example(self.whole.train),
            base=here.base,
            start=self.start.weights,
            start_parts=self.start.base,
            d90=here.d90,
            torch=here.torch,
            numpy=here.numpy,
            python=here.python,
            machine=here.machine,
            threads=here.threads,
        )


def settled(
    options: CertificateOptions,
    spec: Spec,
    dims: tuple[int, ...],
    levels: tuple[int, ...] | None,
    quantise_epochs: float,
) -> CertificateOptions:
    """The options, with the values of a kind of certificate where they leave some open; a method's own d is tried alone."""
    own = spec.space.d if spec.space else None
    return replace(
        options,
        dims=options.dims or (dims if own is None else (own,)),
        levels=options.levels or levels,
        quantise_epochs=quantise_epochs if options.quantise_epochs is None else options.quantise_epochs,
    )


def check_sound(spec: Spec, options: CertificateOptions) -> None:
    """Refuse what no message can be made of.

    Raises:
        InputError: which, and what was expected.
    """
    if spec.space is None:
        raise InputError(
            f"got '{spec}', expected a subspace after '@', as in full@structure=said: only d numbers can be coded"
        )
    if spec.space.options.head == "outside":
        raise InputError(
            "head=outside trains the whole head beside theta, which the message does not hold; use head=inside"
        )
    if spec.method.looks_at_data:
        raise InputError(
            f"'{spec.method}' chooses the weights that move by looking at the training examples, expected a method that does not: the "
            "message holds no mask, so the choice would be unpaid. Use sparse:mask=magnitude (pafi) or sparse:mask=random"
        )


def prepare(
    model: str | Model,
    whole: Task,
    recipe: Recipe,
    options: CertificateOptions,
    store: Store,
    progress: Progress,
) -> Preparation:
    """Split the examples, refuse what makes a bound false, train the starting point.

    Raises:
        InputError: copies across the split, a model that no message describes, or alternatives that nobody pays for.
    """
    spec, loaded = parse(recipe.method), _opened(model, whole, recipe)
    first, counted = _split(loaded, whole, options)
    n, words_of = counted.independent("train"), "documents" if whole.kind.generative else "examples"
    if whole.kind.generative and not 2 <= (n if options.evaluated is None else options.evaluated) <= n:
        raise InputError(f"got {options.evaluated or n} documents to evaluate, expected 2 ... {n}, those that count")
    if options.evaluated == n:
        options = replace(options, evaluated=None)
    if options.evaluated is not None and options.form == "betting":
        raise InputError(
            f"got form='betting' and {options.evaluated} of {n} documents to evaluate, expected all: it bets on every document. Leave "
            "one of the two out"
        )
    tried = what_was_tried(store, whole, loaded, spec, recipe, options)
    progress.search_started(f"certificate of {recipe.model} on {recipe.task}, {spec}, n = {n:,} {words_of}")
    if n < FEW:
        best = bounds.binomial_upper(0, n, options.delta, 1.0 + tried.bits)
        progress.note(
            f"{n} {words_of} count: were no error made and nothing changed, the bound on an error rate would be {best:.1%}"
        )
    rests_on = assumptions(counted, loaded)
    for line in rests_on:
        if line.startswith(WARNING):
            progress.note(line)
    if first is not None:
        progress.search_planned(f"starting point from {len(first.train):,} {words_of}")
    data = _started(loaded, first, counted, recipe, options.prior_epochs, progress)
    said = tuple(choices_of(counted, spec, recipe, options, tried))
    return Preparation(spec, recipe, options, whole, first, data, StartingPoint(loaded), tried, rests_on, said, store)


def opened_again(
    path: str | os.PathLike[str], kind: type[_Certificate], model: str | Model | None, task: str | Task | None
) -> tuple[_Certificate, Data, StartingPoint]:
    """A certificate read back, and what it certifies: the examples that count, and the starting point it was made from.

    Args:
        kind: of certificate.
        model, task: where they lie now; None: under the names in the certificate.

    Raises:
        InputError: a file that is no such certificate, other examples, or another starting point.
    """
    try:
        said = kind.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        data = ground_of(said, model, task)
    except FileNotFoundError:
        raise InputError(f"no such file: '{path}'") from None
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is not a certificate ({type(error).__name__}: {error}); write it again") from None
    found = StartingPoint(data.model)
    apart = _apart(found, said.definitions)
    if apart:
        known = said.definitions
        raise InputError(
            f"'{path}': the starting point is another one here ({', '.join(apart)}); expected the base and the prior it was made from. A "
            f"prior is trained again for the check, and other threads or another processor round differently: it was made with "
            f"{known.threads} threads on {known.machine}, here are {torch.get_num_threads()}"
        )
    return said, data, found


def _apart(found: StartingPoint, known: Definitions) -> list[str]:
    """The parts in which a starting point is not the one that a certificate names."""
    parts_apart = found.base.differs(known.start_parts) if known.start_parts is not None else []
    return parts_apart or (["weights"] if found.weights != known.start else [])


def ground_of(said: BaseCertificate[Any], model: str | Model | None, task: str | Task | None) -> Data:
    """The examples that a certificate counts, and the model at its starting point, its prior trained again.

    Raises:
        InputError: other examples.
        KeyError, TypeError, ValueError: what a check needs is not in it.
    """
    known, recipe = said.definitions, said.recipe
    options = CertificateOptions(
        prior=known.prior, delta=said.delta, prior_epochs=known.prior_epochs, copies=known.copies
    )
    whole = open_task(task if task is not None else recipe.task, recipe, model)
    unit = "documents" if whole.kind.generative else "examples"
    if not known.start or whole.fingerprint != known.task:
        raise InputError(
            f"it certifies another set of {unit}: fingerprint {known.task[:16]}, task '{whole.name}' has {whole.fingerprint[:16]}. "
            f"The bound holds for those {unit} alone; give the same data"
        )
    loaded = _opened(model if model is not None else recipe.model, whole, recipe)
    first, counted = _split(loaded, whole, options)
    if counted.independent("train") != said.n:
        raise InputError(
            f"it says n = {said.n}, but {counted.independent('train')} independent {unit} count; write it again"
        )
    return _started(loaded, first, counted, recipe, options.prior_epochs, Progress())


def save_study(ground: Preparation, certificate: BaseCertificate[Any], kind: str) -> None:
    """Keep a certificate in the store, where later ones find it as an alternative."""
    body = certificate.to_dict()
    ground.store.put_study(digest([str(ground.spec), body["recipe"], asdict(ground.options)]), kind, body)


def write_array(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write what was measured on each example as a .npy file, for `verify.py`."""
    content = io.BytesIO()
    numpy.save(content, array, allow_pickle=False)
    write_bytes(path, content.getvalue())


def parts(task: Task, prior: float) -> tuple[Task | None, Task]:
    """The prior's task and the one that counts, by our own bits: chosen before anything is seen.

    Independent examples stay whole: of several that ask the same all are on one side.
    """
    if prior == 0:
        return None, task
    n, groups = task.independent("train"), task.groups("train")
    order = permutation(0, "split", 0, n)
    cut = round(prior * n)
    if not 0 < cut < n:
        raise InputError(f"got prior={prior} of {n} examples, expected at least one on each side")
    first, counted = (members(groups, some) for some in (order[:cut], order[cut:]))
    return replace(task, train=task.train.pick(first)), replace(task, train=task.train.pick(counted))


def members(groups: Tensor | None, chosen: Tensor) -> Tensor:
    """The examples of these groups, one group behind the other; without groups the numbers are the examples' own."""
    if groups is None:
        return chosen
    order, sizes = torch.argsort(groups, stable=True), torch.bincount(groups)
    parts = order.split(sizes.tolist())
    return torch.cat([parts[i] for i in chosen.tolist()])


# --- steps -------------------------------------------------------------------------------------------------------------


def _opened(model: str | Model, whole: Task, recipe: Recipe) -> Model:
    """The base, to train on; a model that was given stays as it is."""
    loaded = open_model(model, whole, recipe)
    return loaded if isinstance(model, str) else own_copy(loaded)


def _split(model: Model, whole: Task, options: CertificateOptions) -> tuple[Task | None, Task]:
    if options.copies == "drop":
        whole, dropped = drop_copies(model, whole)
        if dropped:
            note = f"{dropped:,} training examples that repeat an earlier one were dropped"
            whole = replace(whole, notes=(*whole.notes, note))
    first, counted = parts(whole, options.prior)
    if first is not None:
        refuse_copies(model, first, counted)
    return first, counted


def _started(
    model: Model, first: Task | None, counted: Task, recipe: Recipe, epochs: float, progress: Progress
) -> Data:
    """The examples that count, encoded; the model is left at the starting point.

    The starting point's best evaluation is kept only where the validation split chooses it, reports nothing, and shares no example,
    and no prompt or context of one, with those that count: else its last weights.
    """
    data = Data(model, counted)
    check_evaluation(data)
    if first is not None:
        shown = first.validation
        shared = common(shown, counted.train) or asked_again(first.kind, shown, counted.train)
        may_choose = first.test is not None and not shared
        start = replace(
            recipe, method="full", lr=None, epochs=epochs, evaluations=recipe.evaluations if may_choose else 1
        )
        fit(Data(model, first), Spec(Full()), start, progress=progress, control=RunControl(keep_best=True))[1].merge()
    return data
