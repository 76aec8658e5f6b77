"""certify_gaussian(model, task) -> GaussianCertificate: an upper bound on the error of a predictor that is drawn.

PAC-Bayes (McAllester 1999; Catoni 2007; Perez-Ortiz et al. 2021): the d numbers are no message but a Gaussian Q around the starting
point, and what is paid is its divergence from N(0, width^2), which was there before the examples that count
(`d90.analysis.posterior`). Two objects are certified, and it is said which:

    gaussian    the randomised predictor: each prediction with numbers drawn anew. Its training error is itself an estimate, of `passes`
                draws for each example, bounded with a fifth of delta (Langford & Caruana 2002)
    draw        one model: numbers drawn once from Q by bits fixed beforehand. ln dQ/dP of the draw is paid, its errors are counted
                (Rivasplata et al. 2020). The bound holds for the one Q that was trained: other rates or epochs are alternatives

Width, temperature and d are paid by their places in lists fixed beforehand. Q is trained against the bound (`GaussianSpace`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from d90.analysis import bounds
from d90.analysis.posterior import (
    TEMPERATURES,
    WIDTHS,
    Gaussian,
    sampled_upper,
    temperature_for,
)
from d90.certificates.checking import Recount, checked
from d90.certificates.choices import first_example
from d90.certificates.classification import ONE_LOOK, AllCertifyFields, answers, check_task, one_of_each
from d90.certificates.coding import candidate_key, copy_with_subspace, stored_key, write
from d90.certificates.drawn import DrawnTune, GaussianCertificate
from d90.certificates.posterior import GaussianSpace, draw
from d90.certificates.preparation import Preparation, check_sound, prepare, save_study, settled
from d90.certificates.starting_point import StartingPoint, steady
from d90.errors import InputError, TrainingFailed
from d90.methods import AppliedMethod, Context, Spec, apply, parse
from d90.models.loading import Model
from d90.options import CertificateOptions, TaskOptions, TrainingOptions, with_options
from d90.subspace.subspace import Subspace
from d90.tasks import Task
from d90.training.batches import outputs_of
from d90.training.loop import Data, fit, open_task
from d90.training.precision import autocast, precision_of
from d90.training.progress import Progress
from d90.training.recipe import Recipe, default_lr, make_recipe
from d90.training.showing import ProgressOption, listener, shows_progress
from d90.trials.store import Store, digest

__all__ = ["batch_size", "certify_gaussian", "check_gaussian"]

DIMS = (100, 200, 400)
SHARE = 0.2  # of delta, for the draws that estimate the training error
BATCH, FEWEST = 32, 2048  # predictions that share a draw: at most so many, and fewer where that leaves fewer draws
TESTED = 1 << 32  # the number of the first draw that is measured on the test split
BITS = {"width": math.log2(len(WIDTHS)), "temperature": math.log2(len(TEMPERATURES))}


@with_options
@shows_progress
def certify_gaussian(
    model: str | Model,
    task: str | Task,
    method: str | Spec = "full@structure=did",
    *,
    options: CertificateOptions = CertificateOptions(posterior="gaussian"),
    training: TrainingOptions = ONE_LOOK,
    data: TaskOptions = TaskOptions(),
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    progress: ProgressOption = None,
    command: str = "",
    **fields: Unpack[AllCertifyFields],
) -> GaussianCertificate:
    """Search d for the smallest bound on the error of a predictor that is drawn from a Gaussian over d numbers.

    Example:
        >>> found = d90.certify_gaussian(model, task, dims=[10], epochs=1, posterior="draw")
        >>> found.posterior, found.best.bound == found.bound
        ('draw', True)

    Args:
        model, task: as for `d90.certify`, of a kind whose examples are right or wrong.
        method: with a subspace.
        options: what is tried, the prior, the confidence, what is paid for; `posterior` says what is certified.
        training, data: how the Gaussian is trained, and how the task's data is read.
        store: Gaussians are kept there; none is trained twice.
        progress: receives the events.
        command: the command line that asked, kept with the result.
        fields: those of the three as keywords, as prior=0.5, epochs=2.

    Raises:
        InputError: a regression, documents, too few examples, numbers out of range, or a certificate that would be false.
    """
    progress = listener(progress)
    spec = parse(method) if isinstance(method, str) else method
    if options.levels is not None or options.evaluated is not None or options.form != "bernstein":
        raise InputError(
            "got levels, evaluated or form for a Gaussian, expected none: it has no levels; leave them out"
        )
    asked = settled(options, spec, DIMS, None, quantise_epochs=2)
    posterior = "gaussian" if asked.posterior == "message" else asked.posterior
    asked = replace(asked, posterior=posterior, dims=tuple(dict.fromkeys(asked.dims or ())))
    check_sound(spec, asked)
    recipe = make_recipe(model, task, spec, training, data)
    whole = open_task(task, recipe, model)
    check_task(whole, recipe, finished=False)
    ground = prepare(model, whole, recipe, asked, store if isinstance(store, Store) else Store(store), progress)
    result = _searched(ground, progress, command)
    save_study(ground, result, "certify gaussian")
    progress.search_ended(str(result))
    return result


def check_gaussian(
    path: str | os.PathLike[str],
    model: str | Model | None = None,
    task: str | Task | None = None,
    out: str | os.PathLike[str] | None = None,
) -> GaussianCertificate:
    """Read a certificate back: make its draws again, count their errors, and compute the bound from them.

    Args:
        path: of the certificate.
        model, task: where they lie now; by default under the names in the certificate.
        out: write (predictions, 2) int64 there, a .npy file: each prediction's answer (-1: not finite) and label, batch after batch.

    Raises:
        InputError: a file that is no certificate, other data or another base, or figures that do not come out.
    """
    return checked(_Draws(), path, model, task, out)


class _Draws(Recount[GaussianCertificate]):
    """Draws again, and counts the wrong answers."""

    kind = GaussianCertificate

    def refuse_unsound(self, said: GaussianCertificate, data: Data) -> None:
        """Draws in batches of another size than the rule gives."""
        n, passes = data.task.independent("train"), said.definitions.passes or 0
        if said.best.posterior == "gaussian" and (passes < 1 or said.best.batch != batch_size(n, passes)):
            raise InputError(f"it says {passes} passes in batches of {said.best.batch}, which are not those of n = {n}")

    def measured(self, said: GaussianCertificate, data: Data, start: StartingPoint) -> Tensor:
        """Each prediction's answer and label (predictions, 2)."""
        spec, passes = parse(said.method), said.definitions.passes or 1
        fresh, space = copy_with_subspace(data, start, spec, said.recipe, said.best.d)
        q = Gaussian.from_hex(said.best.payload, said.best.d) if space is not None else None
        return _answers(fresh, space, q, said.best.posterior, said.recipe, "train", passes, said.best.batch)

    def rows(self, said: GaussianCertificate, data: Data, measured: Tensor) -> NDArray[Any]:
        """(predictions, 2): answers and labels."""
        found: NDArray[Any] = measured.numpy()
        return found

    def differs(self, said: GaussianCertificate, data: Data, measured: Tensor) -> str:
        """The errors and the bound."""
        errors, histogram = int(_wrong(measured).sum()), _histogram(measured, said.best.batch)
        if errors == said.best.errors and histogram == said.best.histogram:
            return ""
        return f"{said.best.errors} wrong of {said.best.predictions} predictions; drawn again: {errors}"


def batch_size(n: int, passes: int) -> int:
    """How many predictions share a draw: fixed by n and the passes, before anything is seen."""
    return min(BATCH, max(1, n * passes // FEWEST))


# --- steps -------------------------------------------------------------------------------------------------------------


def _searched(ground: Preparation, progress: Progress, command: str) -> GaussianCertificate:
    n, recipe, data, posterior = ground.n, ground.recipe, ground.data, ground.options.posterior
    delta = ground.options.delta * (1 - SHARE if posterior == "gaussian" else 1.0)
    candidates = []
    for found in _tunes(ground, progress):
        one = found.bounded(n, delta)
        candidates.append(one)
        name = f"d = {one.d}" if one.payload else "no change"
        progress.trial_ended(name, f"{one.error:.2%} training error, {one.bits:.0f} bits, bound {one.bound:.2%}")
    best = min(candidates, key=lambda candidate: candidate.bound)
    fresh, space = copy_with_subspace(data, ground.start, ground.spec, recipe, best.d)
    q = Gaussian.from_hex(best.payload, best.d) if space is not None else None
    tested = _wrong(_answers(fresh, space, q, best.posterior, recipe, ground.split, 1, max(1, best.batch)))
    test_error = float(tested.double().mean())
    paid = best.bits - best.parts.get("temperature", 0.0)
    by_kl = bounds.pac_bayes_kl(best.error_bound, n, paid * math.log(2), delta)
    return GaussianCertificate(
        model=recipe.model,
        task=recipe.task,
        method=ground.recipe_at(best).method,
        recipe=ground.recipe_at(best),
        n=n,
        delta=ground.options.delta,
        split=ground.split,
        prior=ground.prior,
        assumptions=ground.assumptions,
        choices=ground.choices,
        command=command,
        posterior=posterior,
        error=best.error,
        error_bound=best.error_bound,
        bits=best.bits,
        parts=best.parts,
        bound=best.bound,
        kl_bound=by_kl if best.payload else bounds.occam_kl(best.error, n, delta, best.bits),
        test_error=test_error,
        test_count=len(tested),
        majority=data.task.kind.constant_error(data.task.train, data.task.splits[ground.split]),
        holdout=bounds.holdout_of_the_same_data(
            test_error, ground.whole.independent("train"), 0.1, ground.options.delta
        ),
        best=best,
        candidates=tuple(candidates),
        tighter={
            "no divergence": replace(best, bits=best.bits - best.parts.get("divergence", 0.0)).bounded(n, delta).bound,
            "no training error": replace(best, errors=0, error_bound=0.0).bounded(n, delta).bound,
            "twice the examples": replace(best, errors=2 * best.errors).bounded(2 * n, delta).bound,
        },
        definitions=replace(
            ground.definitions(), posterior=posterior, passes=ground.options.passes if posterior == "gaussian" else None
        ),
    )


def _tunes(ground: Preparation, progress: Progress) -> Iterator[DrawnTune]:
    """No change where a prior made a starting point, then a Gaussian for each d, from the store where it is there."""
    options, tried, n = ground.options, ground.tried.bits, ground.n
    if options.prior:
        fresh, _ = copy_with_subspace(ground.data, ground.start, ground.spec, ground.recipe, 0)
        with steady(fresh):
            wrong = _wrong(answers(fresh, "train", ground.recipe))
        bits, errors = 1.0 + tried, int(wrong.sum())
        yield DrawnTune(
            d=0, levels=0, bits=bits, bound=1.0, payload="", parts={"no change": 1.0, "tried": tried},
            errors=errors, predictions=len(wrong), error_bound=errors / len(wrong),
        )  # fmt: skip
    known = {stored_key(body["key"]): body["candidate"] for body in ground.store.studies("certify candidate")}
    for d in options.dims or ():
        trial = replace(ground.recipe, method=str(ground.spec.at(d)))
        also = (options.posterior, options.passes, options.delta, len(options.dims or ()), n)
        key = candidate_key(ground, trial, ("posterior", *also))
        if stored_key(key) in known:
            yield DrawnTune.from_dict(known[stored_key(key)])
            continue
        found = _measured(ground, trial, d, _trained(ground, trial, d, progress))
        body = {"key": key, "candidate": asdict(found), "first_example": first_example(ground.whole.train)}
        ground.store.put_study(digest(key), "certify candidate", body)
        yield found


def _trained(ground: Preparation, trial: Recipe, d: int, progress: Progress) -> Gaussian:
    """Train Q: first at a temperature for an error of a tenth and a bit for each number, then at that for the loss it has reached."""
    data, spec, n = ground.data, ground.spec.at(d), ground.n
    lr = trial.lr if trial.lr is not None else default_lr(spec, data.task.kind)
    applied = apply(spec, data.model.module, trial.seed, Context(step_rule=trial.step_rule))
    try:
        assert isinstance(applied.trained, Subspace)
        space = GaussianSpace(applied.trained, n, temperature_for(0.1, n, float(d)), lr)
        result, _ = fit(
            data, spec, trial, progress=progress, applied_method=AppliedMethod(spec, applied.applied, space)
        )
        epochs = ground.options.quantise_epochs or 0.0
        if epochs > 0 and result.status != "diverged":
            q = space.gaussian()
            space.aim(temperature_for(result.train_loss / 2, n, q.divergence(WIDTHS[q.width()]) / math.log(2)))
            again = replace(trial, lr=lr / 10, epochs=epochs, evaluations=1)
            fit(data, spec, again, progress=progress, applied_method=AppliedMethod(spec, applied.applied, space))
        if result.status == "diverged" or not bool(torch.isfinite(torch.cat([space.mean, space.sigma])).all()):
            raise TrainingFailed(f"training a Gaussian of d = {d} ended with numbers that are not finite; lower lr")
        return space.gaussian()
    finally:
        applied.release()


def _measured(ground: Preparation, trial: Recipe, d: int, q: Gaussian) -> DrawnTune:
    """Lay Q on a copy of the starting point, draw, count, and pay."""
    options, n, width = ground.options, ground.n, q.width()
    fresh, space = copy_with_subspace(ground.data, ground.start, ground.spec, trial, d)
    batch = batch_size(n, options.passes) if options.posterior == "gaussian" else 0
    rows = _answers(fresh, space, q, options.posterior, trial, "train", options.passes, batch)
    errors, histogram = int(_wrong(rows).sum()), _histogram(rows, batch)
    divergence = q.divergence(WIDTHS[width])
    if options.posterior == "draw":
        divergence = max(0.0, q.log_ratio(draw(q, 0), WIDTHS[width]))
    among = len(options.dims or ())
    parts = {
        "divergence": divergence / math.log(2),
        **BITS,
        "d": bounds.choice_bits([among]),
        "tried": ground.tried.bits,
    }
    parts |= {"change or none": 1.0} if options.prior else {}
    share = SHARE * options.delta / (among * ground.tried.count)
    return DrawnTune(
        d=d, levels=0, bits=sum(parts.values()), bound=1.0, payload=q.to_hex(), parts=parts, posterior=options.posterior, width=width,
        errors=errors, predictions=len(rows), batch=batch, histogram=histogram,
        error_bound=sampled_upper(histogram, share) if histogram else errors / len(rows),
    )  # fmt: skip


@torch.no_grad()
def _answers(
    fresh: Data,
    space: Subspace | None,
    q: Gaussian | None,
    posterior: str,
    recipe: Recipe,
    split: str,
    passes: int,
    batch: int,
) -> Tensor:
    """Each prediction's answer and label (n, 2), of a Gaussian (passes n, 2): its batches longest first, each with a draw of its own."""
    if space is None or q is None:
        with steady(fresh):
            return answers(fresh, split, recipe)
    write(space, draw(q, 0))
    with steady(fresh):
        if posterior == "draw":
            return answers(fresh, split, recipe)
    seen, examples = fresh.split(split), fresh.task.splits[split]
    groups = fresh.task.groups(split)
    counted = torch.arange(len(examples)) if groups is None else one_of_each(groups)
    order = counted[torch.argsort(seen.lengths[counted], descending=True, stable=True)].repeat(passes)
    precision, first, found = precision_of(recipe, fresh), 0 if split == "train" else TESTED, []
    for number, chosen in enumerate(order.split(batch)):
        write(space, draw(q, first + number))
        fresh.model.module.eval()
        with autocast(fresh.model.module, precision):
            outputs = outputs_of(fresh.model.module, seen.inputs(chosen), fresh.task.kind).float().cpu()
        found.append(torch.stack(fresh.task.kind.held_against(outputs, examples.pick(chosen)), 1))
    return torch.cat(found)


def _wrong(rows: Tensor) -> Tensor:
    return rows[:, 0] != rows[:, 1]


def _histogram(rows: Tensor, batch: int) -> tuple[int, ...]:
    """How many batches have 0 ... batch errors; what the last one lacks counts as wrong."""
    if not batch:
        return ()
    wrong = torch.cat([_wrong(rows), torch.ones(-len(rows) % batch, dtype=torch.bool)])
    counts = torch.bincount(wrong.view(-1, batch).sum(dim=1), minlength=batch + 1)
    return tuple(int(count) for count in counts)
