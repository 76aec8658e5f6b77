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

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from d90.analysis import bounds
from d90.certificates.certificate import (
    WARNING,
    Candidate,
    Certificate,
    assumptions,
    bounded,
    majority_error,
    parts,
    tighter,
)
from d90.certificates.coding import check_sound, coded_tunes, decoded, opened_again, pay_for, start_from
from d90.errors import InputError
from d90.methods import Spec, parse
from d90.models.loading import Model
from d90.subspace import file as tune_file
from d90.subspace import layout
from d90.tasks import Task
from d90.training.loading import read_record
from d90.training.loop import Data, Run, open_model, open_task, predict
from d90.training.precision import precision_of
from d90.training.progress import Progress
from d90.training.recipe import Recipe, make_recipe
from d90.trials.runner import versions
from d90.trials.store import Store, digest

__all__ = ["Candidate", "Certificate", "certify", "check"]

DIMS = (100, 200, 400)


def certify(
    model: str | Model | Run,
    task: str | Task | None = None,
    method: str | Spec = "full@structure=did",
    *,
    dims: Sequence[int] | None = None,
    levels: Sequence[int] = (3, 5, 9),
    prior: float = 0.0,
    delta: float = 0.05,
    tried: int | None = None,
    prior_epochs: float = 3,
    quantise_epochs: float = 2,
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    progress: Progress | None = None,
    command: str = "",
    **options: Any,
) -> Certificate:
    """Search d and the number of levels for the smallest bound.

    Args:
        model, task: as for `d90.train`, classification alone; or in place of both a finished run, or the path of a tune
            that `d90 train` wrote (.d90), whose theta and recipe are then taken.
        method: with a subspace.
        dims, levels: what is tried; the message says which was taken. `dims` is the method's own d, or 100, 200 and 400.
        prior: share of the training examples that trains the starting point, 0 for none.
        delta: 1 - confidence.
        tried: from how many alternatives outside the message (seeds, structures, projections, priors) this one was chosen; log2 of it
            is added. By default 1, and the store must not show more.
        prior_epochs, quantise_epochs: passes of the starting point's training, and of training with few values.
        store: coded tunes are kept there; none is trained twice.
        options: fields of `Recipe`.

    Raises:
        InputError: a regression, too few examples, or numbers out of range.
    """
    progress = progress or Progress()
    theta: Tensor | None = None
    spec = parse(method) if isinstance(method, str) else method
    if isinstance(model, Run) or str(model).endswith(".d90"):
        theta, spec, model, task, options = _finished(model, task, options)  # type: ignore[arg-type]
        dims = (len(theta),)
    if task is None:
        raise InputError("got no task, expected one beside the model, or a tune's path (.d90) alone")
    assert not isinstance(model, Run)
    dims = dims if dims is not None else DIMS if spec.space is None or spec.space.d is None else (spec.space.d,)
    check_sound(spec, dims, levels, prior, delta, 1 if tried is None else tried)
    recipe = make_recipe(model, task, spec, options)
    whole = open_task(task, recipe)
    if whole.kind == "language":
        raise InputError(
            f"task '{whole.name}' has documents: their bound is in bits per token. Use d90.certify_language"
        )
    if whole.kind != "classification":
        raise InputError(f"task '{whole.name}' is a regression; a bound on the error rate needs classes")
    if theta is not None and whole.test is None and recipe.evaluations > 1:
        raise InputError(
            f"this tune is the best of {recipe.evaluations} evaluations on the validation split, and task '{whole.name}' has no test "
            "split: the error beside the bound would be of examples that chose it; expected ones that chose nothing. "
            "Train with --evaluations 1, or give a task with a test split"
        )
    first, counted = parts(whole, prior)
    loaded = open_model(model, whole, recipe)
    keep = store if isinstance(store, Store) else Store(store)
    tried, searched = pay_for(tried, keep, whole, loaded, spec, recipe, prior, prior_epochs)
    progress.search_started(f"certificate of {recipe.model} on {recipe.task}, {spec}, n = {len(counted.train):,}")
    if first is not None:
        progress.search_planned(f"starting point from {len(first.train):,} examples")
        start_from(loaded, first, recipe, prior_epochs, progress)
    rests_on = (*assumptions(counted, first, loaded), *searched)
    for line in rests_on:
        if line.startswith(WARNING):
            progress.note(line)
    data = Data(loaded, counted)
    candidates = list(
        _candidates(data, spec, recipe, dims, levels, quantise_epochs, delta, tried, prior, keep, progress, theta)
    )
    best = min(candidates, key=lambda candidate: candidate.bound)
    split = "test" if counted.test is not None else "validation"
    with decoded(data, spec, recipe, best.d, best.payload):
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
        majority=majority_error(counted, split),
        holdout=bounds.holdout_of_the_same_data(wrong / seen, len(whole.train), 0.1, delta),
        prior=len(first.train) if first is not None else 0,
        best=best,
        candidates=tuple(candidates),
        tighter=tighter(best, len(counted.train), delta),
        assumptions=rests_on,
        recipe={key: value for key, value in asdict(recipe).items() if key != "method"},
        definitions={
            "dims": list(dims), "levels": list(levels), "prior": prior, "tried": tried, "prior_epochs": prior_epochs,
            "quantise_epochs": quantise_epochs, "task": whole.fingerprint, "base": loaded.fingerprint,
            "start": layout.fingerprint(loaded.module.named_parameters()), **versions(),
        },
        command=command,
    )  # fmt: skip
    keep.put_study(
        digest([str(spec), result.recipe, list(dims), list(levels), prior, delta, tried, prior_epochs]),
        "certify",
        asdict(result),
    )
    progress.search_ended(str(result))
    return result


def _candidates(
    data: Data, spec: Spec, recipe: Recipe, dims: Sequence[int], levels: Sequence[int], epochs: float,
    delta: float, tried: int, prior: float, store: Store, progress: Progress, given: Tensor | None,
) -> Iterator[Candidate]:  # fmt: skip
    n = len(data.train)

    def counted(d: int, count: int, payload: str, lengths: dict[str, float]) -> Candidate:
        return Candidate(d, count, sum(lengths.values()), _errors(data, "train", recipe)[0], 1.0, payload, lengths)

    if prior:
        extra = bounds.choice_bits([tried])
        yield bounded(counted(0, 0, "", {"no change": 1.0, "tried": extra}), n, delta)
    for found in coded_tunes(
        data, spec, recipe, dims, levels, epochs, tried=tried, prior=bool(prior), flag=bool(prior), store=store, progress=progress,
        counted=counted, read=lambda body: Candidate(**body), given=given,
    ):  # fmt: skip
        one = bounded(found, n, delta)
        progress.trial_ended(
            f"d = {one.d}, {one.levels} levels",
            f"{one.errors / n:.2%} training error, {one.bits:.0f} bits, bound {one.bound:.2%}",
        )
        yield one


def check(
    path: str | os.PathLike[str], model: str | Model | None = None, task: str | Task | None = None
) -> Certificate:
    """Read a certificate back: decode its message, count the errors again, and compute the bound from them.

    Raises:
        InputError: a file that is no certificate, other data or another base, or figures that do not come out.
    """
    said, data, spec, recipe = opened_again(path, Certificate, Candidate, model, task, "examples")
    best = said.best
    with decoded(data, spec, recipe, best.d, best.payload):
        errors = _errors(data, "train", recipe)[0]
    found = bounded(replace(best, errors=errors), len(data.train), said.delta)
    if errors != said.errors or abs(found.bound - said.bound) > 1e-9:
        raise InputError(
            f"'{path}' says {said.errors} errors and a bound of {said.bound:.4%}; counted again: {errors} and {found.bound:.4%}. "
            "Likely cause: another processor or precision; certify again here"
        )
    return said


def _finished(
    tuned: Run | str, task: str | Task | None, options: dict[str, Any]
) -> tuple[Tensor, Spec, str | Model, str | Task, dict[str, Any]]:
    """theta, method, model, task and recipe of a finished run or of a tune's file."""
    if options:
        raise InputError(f"got {', '.join(options)} with a finished tune, expected none: its own recipe is taken")
    if isinstance(tuned, Run):
        recipe, where, theta = tuned.recipe, "this run", getattr(tuned.trained, "theta", None)
        given: str | Task = tuned.task
    else:
        record, where = read_record(tuned)[0], f"'{tuned}'"
        recipe, theta = Recipe(**record["recipe"]), tune_file.read(tuned)[1].get("theta")
        given = task if task is not None else recipe.task
        found = open_task(given, recipe).fingerprint
        if found != record["task"]["fingerprint"]:
            raise InputError(
                f"{where} was trained on other examples: fingerprint {record['task']['fingerprint'][:16]}, these have {found[:16]}. "
                "A bound counts the examples a tune was trained on; give the same data"
            )
    if theta is None:
        raise InputError(
            f"{where} trained {recipe.method}, expected a subspace: only d numbers can be coded. Train with --d"
        )
    if not bool(torch.isfinite(theta).all()):
        raise InputError(f"{where} holds numbers that are not finite; train it again at a lower rate")
    kept = {key: value for key, value in asdict(recipe).items() if key not in ("model", "task", "method")}
    return theta.detach().cpu().clone(), parse(recipe.method), recipe.model, given, kept


# --- helpers -----------------------------------------------------------------------------------------------------------


def _errors(data: Data, split: str, recipe: Recipe) -> tuple[int, int]:
    batches = data.split(split)
    outputs = predict(data.model, batches, precision_of(recipe, data))
    # a tie or a value that is not finite counts as wrong
    right = (outputs.argmax(dim=-1) == batches.labels) & outputs.isfinite().all(dim=-1)
    return int((~right).sum()), len(batches)
