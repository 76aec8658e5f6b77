"""certify(model, task) -> Certificate: an upper bound on the true error from the training examples alone.

A tune is trained in a subspace, its d numbers are made to take L values and written by an arithmetic coder. With K the
length of that self-delimiting message and e errors of the DECODED model on n training examples, with probability 1 - delta

    true error <= sup{p : Pr[Binomial(n, p) <= e] >= delta 2^-K}              (Langford 2005, theorem 4.6)

at once for every message, so whatever chose the message (rate, epochs, levels, d) costs nothing beside its bits. What the
decoder needs and the message does not hold (base, seed, structure, projection) is fixed beforehand or paid for (`tried`).

With a prior, a first part of the training examples, chosen beforehand, trains the starting point at no cost; the message
describes the change learned on the rest, and the bound counts the rest alone. The message "no change" is one bit: its
certificate is a test-set bound on the starting point, and says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from d90.analysis import bounds
from d90.certificates.certificate import BaseCertificate, CodedTune, OfErrors
from d90.certificates.checking import Recount, checked, decoded_again
from d90.certificates.coding import Measure, coded_tunes, decoded
from d90.certificates.preparation import (
    Preparation,
    check_sound,
    prepare,
    save_study,
    settled,
)
from d90.certificates.starting_point import StartingPoint
from d90.errors import InputError
from d90.methods import Spec, parse
from d90.models.loading import Model
from d90.options import DEFAULT, CertificateOptions, TaskOptions, TrainingOptions, with_options
from d90.options.certificate import CertificateFields
from d90.options.task import TaskFields
from d90.options.training import TrainingFields
from d90.projections.philox import permutation
from d90.subspace import file as tune_file
from d90.tasks import Task
from d90.tasks.kinds import Classification
from d90.training.loop import Data, open_task, predict
from d90.training.precision import precision_of
from d90.training.progress import Progress
from d90.training.recipe import Recipe, make_recipe
from d90.training.record import read_record
from d90.training.run import Run
from d90.training.showing import ProgressOption, listener, shows_progress
from d90.trials.store import Store

__all__ = ["Candidate", "Certificate", "answers", "certify", "check", "check_task", "one_of_each"]

DIMS, LEVELS = (100, 200, 400), (3, 5, 9)


@dataclass(frozen=True, kw_only=True)
class Candidate(CodedTune):
    """A message, and how many of the examples that count the decoded model gets wrong."""

    errors: int

    def bounded(self, n: int, delta: float) -> Candidate:
        """With its bound on n examples, at confidence 1 - delta."""
        return replace(self, bound=bounds.binomial_upper(self.errors, n, delta, self.bits))


@dataclass(frozen=True, kw_only=True)
class Certificate(OfErrors, BaseCertificate[Candidate]):
    """What is guaranteed about a classifier, with everything needed to check it again.

    Example:
        >>> found = d90.certify(model, task, dims=[10], levels=[3], epochs=1)
        >>> found.save("certificate.json")
        >>> 0 <= found.error <= found.bound
        True

    Attributes:
        errors: how many of the n examples the decoded model gets wrong.
        bound: on the true error, as a share of 1, at confidence 1 - delta.
        test_error: on examples that no choice has seen, as a share of 1.
        majority: the error of always giving the most frequent class; of answers and tags, the commonest one.
    """

    tune_type: ClassVar[type[CodedTune]] = Candidate

    errors: int
    test_error: float
    majority: float

    @property
    def error(self) -> float:
        """Training error of the decoded model on the examples that count."""
        return self.errors / self.n

    @property
    def gap(self) -> float | None:
        """The relative generalization gap (Aghajanyan et al. 2021); None where there is no test error to compare with."""
        return bounds.relative_gap(1 - self.error, 1 - self.test_error) if self.test_error > 0 else None

    def __str__(self) -> str:
        return self.sentence(self.certified, f"{self.bits:.0f} bits, ")


ONE_LOOK = TrainingOptions(lr=DEFAULT, evaluations=1)  # more would choose, and must be paid for


class AllCertifyFields(CertificateFields, TrainingFields, TaskFields, total=False):
    """What `certify` and `certify_language` take as keywords besides their own parameters."""


@with_options
@shows_progress
def certify(
    model: str | Model | Run,
    task: str | Task | None = None,
    method: str | Spec = "full@structure=did",
    *,
    options: CertificateOptions = CertificateOptions(),
    training: TrainingOptions = ONE_LOOK,
    data: TaskOptions = TaskOptions(),
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    progress: ProgressOption = None,
    command: str = "",
    **fields: Unpack[AllCertifyFields],
) -> Certificate:
    """Search d and the number of levels for the smallest bound.

    Example:
        >>> found = d90.certify(model, task, dims=[10, 20], levels=[3], epochs=1)
        >>> found.best.bound == found.bound
        True

    Args:
        model, task: as for `d90.train`, of a kind whose examples are right or wrong; in place of both a finished run, or the path of a tune
            that `d90 train` wrote (.d90), whose theta and recipe are then taken.
        method: with a subspace.
        options: what is tried, the prior, the confidence, and what is paid for.
        training, data: how the tune is trained, evaluated once by default, and how the task's data is read.
        store: coded tunes are kept there; none is trained twice.
        progress: receives the events; by default bars in a terminal, lines in a notebook; False silences it.
        command: the command line that asked, kept with the result.
        fields: those of the three as keywords, as prior=0.5, epochs=2.

    Raises:
        InputError: a regression, too few examples, numbers out of range, or a certificate that would be false.
    """
    progress = listener(progress)
    tune: _Finished | None = None
    spec = parse(method) if isinstance(method, str) else method
    if isinstance(model, Run) or str(model).endswith(".d90"):
        others = [name for name, value in asdict(training).items() if value != getattr(ONE_LOOK, name)]
        tune = _finished(model, task, [*others, *data.to_dict()])  # type: ignore[arg-type]
        spec, model, task = tune.spec, tune.recipe.model, tune.task
    if task is None:
        raise InputError("got no task, expected one beside the model, or a tune's path (.d90) alone")
    assert not isinstance(model, Run)
    asked = settled(options, spec, DIMS, LEVELS, quantise_epochs=2)
    if tune is not None:
        asked = replace(asked, dims=(len(tune.theta),))
    _check_options(asked)
    check_sound(spec, asked)
    recipe = tune.recipe if tune is not None else make_recipe(model, task, spec, training, data)
    whole = open_task(task, recipe, model)
    check_task(whole, recipe, finished=tune is not None)
    if whole.kind.mistake != Classification.mistake:
        progress.note(f"an error is {whole.kind.mistake}")
    ground = prepare(model, whole, recipe, asked, store if isinstance(store, Store) else Store(store), progress)
    result = _searched(ground, progress, tune.theta if tune is not None else None, command)
    save_study(ground, result, "certify")
    progress.search_ended(str(result))
    return result


def check(
    path: str | os.PathLike[str],
    model: str | Model | None = None,
    task: str | Task | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Certificate:
    """Read a certificate back: decode its message, count the errors again, and compute the bound from them.

    Args:
        path: of the certificate.
        model, task: where they lie now; by default under the names in the certificate.
        out: write (n, 2) int64 there, a .npy file: the decoded model's answer (-1: not finite) and the label of each example that counts.

    Raises:
        InputError: a file that is no certificate, other data or another base, or figures that do not come out.
    """
    return checked(_Errors(), path, model, task, out)


class _Errors(Recount[Certificate]):
    """Counts the wrong answers again."""

    kind = Certificate

    def refuse_unsound(self, said: Certificate, data: Data) -> None:
        """Nothing beside what is counted."""

    def measured(self, said: Certificate, data: Data, start: StartingPoint) -> Tensor:
        """Each example's answer and label (n, 2)."""
        with decoded_again(said, data, start) as fresh:
            return answers(fresh, "train", said.recipe)

    def rows(self, said: Certificate, data: Data, measured: Tensor) -> NDArray[Any]:
        """(n, 2): answers and labels."""
        found: NDArray[Any] = measured.numpy()
        return found

    def differs(self, said: Certificate, data: Data, measured: Tensor) -> str:
        """The errors and the bound."""
        errors = _count(measured)
        found = replace(said.best, errors=errors).bounded(len(measured), said.delta)
        if errors == said.errors and abs(found.bound - said.bound) <= 1e-9:
            return ""
        return f"{said.errors} errors and a bound of {said.bound:.4%}; counted again: {errors} and {found.bound:.4%}"


# --- steps -------------------------------------------------------------------------------------------------------------


def _check_options(asked: CertificateOptions) -> None:
    """Refuse what bounds documents, or what is drawn, alone."""
    if asked.evaluated is not None or asked.form != "bernstein":
        given = f"form='{asked.form}'" if asked.evaluated is None else f"evaluated={asked.evaluated}"
        raise InputError(f"got {given} for labelled examples, expected documents (text:PATH, lines:PATH); leave it out")
    if asked.posterior != "message":
        raise InputError(f"got posterior='{asked.posterior}' for a message, expected d90.certify_gaussian; call that")


def check_task(whole: Task, recipe: Recipe, finished: bool) -> None:
    """Refuse a task whose examples are not right or wrong, and an error beside the bound that would not be honest.

    Raises:
        InputError: why.
    """
    if whole.kind.generative:
        raise InputError(
            f"task '{whole.name}' has documents: their bound is in bits per token. Use d90.certify_language"
        )
    if not whole.kind.right_or_wrong:
        why = f": {whole.kind.mistake}" if whole.kind.mistake else ""
        raise InputError(
            f"task '{whole.name}' is a {whole.kind.name}; a bound on the error rate needs classes, or examples that are right or wrong{why}"
        )
    if finished and whole.test is None and recipe.evaluations > 1:
        raise InputError(
            f"this tune is the best of {recipe.evaluations} evaluations on the validation split, and task '{whole.name}' has no test "
            "split: the error beside the bound would be of examples that chose it; expected ones that chose nothing. "
            "Train with --evaluations 1, or give a task with a test split"
        )


def _searched(ground: Preparation, progress: Progress, theta: Tensor | None, command: str) -> Certificate:
    n, delta, recipe, data = ground.n, ground.options.delta, ground.recipe, ground.data
    measure = Measure(
        Candidate,
        lambda fresh, one: Candidate(**vars(one), errors=count_errors(fresh, "train", recipe)[0]),
        no_change=bool(ground.options.prior),
        key=() if data.task.groups("train") is None else ("one of each source", n),
    )
    candidates = []
    for found in coded_tunes(ground, measure, progress, theta):
        one = found.bounded(n, delta)
        candidates.append(one)
        name = f"d = {one.d}, {one.levels} levels" if one.payload else "no change"
        progress.trial_ended(name, f"{one.errors / n:.2%} training error, {one.bits:.0f} bits, bound {one.bound:.2%}")
    best = min(candidates, key=lambda candidate: candidate.bound)
    with decoded(data, ground.start, ground.spec, recipe, best.d, best.payload) as fresh:
        wrong, seen = count_errors(fresh, ground.split, recipe)
    return Certificate(
        model=recipe.model,
        task=recipe.task,
        method=ground.recipe_at(best).method,
        recipe=ground.recipe_at(best),
        n=n,
        delta=delta,
        split=ground.split,
        prior=ground.prior,
        assumptions=ground.assumptions,
        choices=ground.choices,
        command=command,
        errors=best.errors,
        bits=best.bits,
        parts=best.parts,
        bound=best.bound,
        kl_bound=bounds.occam_kl(best.errors / n, n, delta, best.bits),
        test_error=wrong / seen,
        test_count=seen,
        majority=data.task.kind.constant_error(data.task.train, data.task.splits[ground.split]),
        holdout=bounds.holdout_of_the_same_data(wrong / seen, ground.whole.independent("train"), 0.1, delta),
        best=best,
        candidates=tuple(candidates),
        tighter=_tighter(best, n, delta),
        definitions=ground.definitions(),
    )


@dataclass(frozen=True)
class _Finished:
    """A finished tune: what it trained, how, on which task."""

    theta: Tensor
    spec: Spec
    task: str | Task
    recipe: Recipe


def _finished(tuned: Run | str, task: str | Task | None, options: Sequence[str]) -> _Finished:
    """A finished run, or a tune's file, whose own recipe is taken: no other options are.

    Raises:
        InputError: other options, other examples, or a theta that cannot be coded.
    """
    if options:
        raise InputError(f"got {', '.join(options)} with a finished tune, expected none: its own recipe is taken")
    if isinstance(tuned, Run):
        recipe, where, theta = tuned.recipe, "this run", getattr(tuned.trained, "theta", None)
        given: str | Task = tuned.task
    else:
        record, where = read_record(tuned), f"'{tuned}'"
        recipe, theta = record.recipe, tune_file.read(tuned)[1].get("theta")
        given = task if task is not None else recipe.task
        found = open_task(given, recipe).fingerprint
        if found != record.task.fingerprint:
            raise InputError(
                f"{where} was trained on other examples: fingerprint {record.task.fingerprint[:16]}, these have {found[:16]}. "
                "A bound counts the examples a tune was trained on; give the same data"
            )
    if theta is None:
        raise InputError(
            f"{where} trained {recipe.method}, expected a subspace: only d numbers can be coded. Train with --d"
        )
    if not bool(torch.isfinite(theta).all()):
        raise InputError(f"{where} holds numbers that are not finite; train it again at a lower rate")
    recipe = replace(recipe, task=given if isinstance(given, str) else given.name)
    recipe.check()
    return _Finished(theta.detach().cpu().clone(), parse(recipe.method), given, recipe)


def answers(data: Data, split: str, recipe: Recipe) -> Tensor:
    """Each counted example's answer and label (n, 2), int64: wrong where they differ (`TaskKind.held_against`).

    Examples of one source are no independent draws, and one of them counts: a source and then one of its examples is what is drawn.
    """
    outputs = predict(data.model, data.split(split), precision_of(recipe, data))
    rows, groups = (
        torch.stack(data.task.kind.held_against(outputs, data.task.splits[split]), 1),
        data.task.groups(split),
    )
    return rows if groups is None else rows[one_of_each(groups)]


def one_of_each(groups: Tensor) -> Tensor:
    """An example of each group (groups,), drawn by the stream "split" without a look at anything."""
    order = permutation(0, "split", 3, len(groups))
    first = torch.bincount(groups).cumsum(0).roll(1)
    first[0] = 0
    return order[torch.argsort(groups[order], stable=True)[first]]


def count_errors(data: Data, split: str, recipe: Recipe) -> tuple[int, int]:
    rows = answers(data, split, recipe)
    return _count(rows), len(rows)


def _count(rows: Tensor) -> int:
    return int((rows[:, 0] != rows[:, 1]).sum())


def _tighter(best: Candidate, n: int, delta: float) -> dict[str, float]:
    """The bound if the message were free, if no example were wrong, and with twice the examples."""
    return {
        "no bits at all": bounds.binomial_upper(best.errors, n, delta),
        "no training error": bounds.binomial_upper(0, n, delta, best.bits),
        "twice the examples": bounds.binomial_upper(2 * best.errors, 2 * n, delta, best.bits),
    }
