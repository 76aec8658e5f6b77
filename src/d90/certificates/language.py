"""certify_language(model, task) -> LanguageCertificate: an upper bound on the bits per token of a new document.

SubLoRA (Lotfi et al. 2024): the tune's d numbers are a message of K bits, as in `d90.certify`, and predictions are smoothed,

    p_alpha = (1 - alpha) p + alpha / V        so that every token costs between -log2(1 - alpha + alpha/V) and log2(V / alpha)

The independent example is the document: its loss is the mean of its tokens' bits under p_alpha, and n counts documents. Several answers
to one prompt are one document, whose loss is their mean. With all of
them evaluated the bound is empirical Bernstein's (Maurer & Pontil 2009), for documents differ little; with m of them, drawn
beforehand by our own bits, the kl form in two steps (`d90.analysis.bounds.bits_per_token`), the first of which pays for every model
and alpha that was evaluated on the m. alpha is one of `ALPHAS`, which the message names; the unchanged model is a candidate too, and
the message's first bit says whether anything changes.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from d90.analysis import bounds
from d90.analysis.betting import betting_upper
from d90.certificates.certificate import BaseCertificate, Choice, CodedTune
from d90.certificates.checking import Recount, checked, decoded_again
from d90.certificates.choices import messages_evaluated
from d90.certificates.classification import ONE_LOOK, AllCertifyFields
from d90.certificates.coding import Measure, coded_tunes, decoded
from d90.certificates.preparation import Preparation, check_sound, members, prepare, save_study, settled
from d90.certificates.starting_point import StartingPoint
from d90.errors import InputError
from d90.methods import Spec, parse
from d90.models.loading import Model
from d90.options import CertificateOptions, TaskOptions, TrainingOptions, with_options
from d90.projections.philox import permutation
from d90.tasks import ABSENT, Split, Task
from d90.training.batches import Batches
from d90.training.loop import Data, open_task, predict
from d90.training.precision import precision_of
from d90.training.progress import Progress
from d90.training.recipe import make_recipe, suited
from d90.training.showing import ProgressOption, listener, shows_progress
from d90.trials.store import Store

__all__ = ["ALPHAS", "LanguageCertificate", "TextCandidate", "certify_language", "check_language", "smoothed_bits"]

ALPHAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6)  # fixed; the message names one in three bits
DIMS, LEVELS = (50, 100), (3,)
SAME = 1e-5  # bits per token: sums of float32 on another processor differ by less


@dataclass(frozen=True, kw_only=True)
class TextCandidate(CodedTune):
    """A message with its alpha; `losses` [mean, variance] over documents by alpha, `mean` that of its own."""

    alpha: float = 0.0
    mean: float = 0.0
    losses: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LanguageCertificate(BaseCertificate[TextCandidate]):
    """What is guaranteed about a language model, with everything needed to check it again. Every loss is in bits per token.

    Example:
        >>> found = d90.certify_language(language_model, documents, dims=[8], epochs=1)
        >>> found.vocabulary, found.n
        (7, 200)

    Attributes:
        unit: what a document is; n of them count, `evaluated` of them were evaluated.
        vocabulary, alpha: V, and the smoothing that was taken.
        mean: training loss of the decoded, smoothed model.
        bound: on the expected loss of a new document, at confidence 1 - delta, by `form`.
        uniform: log2 V, what the uniform guess costs.
        untrained: the starting point's loss on the test documents, not smoothed.
        test: on documents no choice has seen, smoothed.
    """

    tune_type: ClassVar[type[CodedTune]] = TextCandidate
    percent: ClassVar[bool] = False

    unit: str
    evaluated: int
    vocabulary: int
    alpha: float
    mean: float
    form: str
    uniform: float
    untrained: float
    test: float

    @property
    def seen(self) -> list[tuple[str, float]]:
        """Losses of the decoded model, of the untrained one, and of the uniform guess."""
        return [
            ("training documents", self.mean),
            (f"{self.split} documents", self.test),
            ("untrained", self.untrained),
            ("uniform", self.uniform),
        ]

    def __str__(self) -> str:
        worth = "" if self.bound < self.uniform else ", which says nothing: the uniform guess costs no more"
        seen = f"training {self.mean:.3f} on {self.evaluated:,} of {self.n:,} documents, alpha {self.alpha:g}, {self.bits:.0f} bits"
        shown = (
            f"{self.split} {self.test:.3f}, untrained {self.untrained:.3f}; a hold-out of a tenth: {self.holdout:.3f}"
        )
        return (
            f"bits per token of a new document <= {self.bound:.3f} with probability {1 - self.delta:.0%}{worth}; certified: "
            f"{self.certified} (uniform {self.uniform:.3f}; {seen}; {shown})"
        )


@with_options
@shows_progress
def certify_language(
    model: str | Model,
    task: str | Task,
    method: str | Spec = "lora:r=4,targets=qv@structure=did",
    *,
    options: CertificateOptions = CertificateOptions(),
    training: TrainingOptions = ONE_LOOK,
    data: TaskOptions = TaskOptions(),
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    progress: ProgressOption = None,
    command: str = "",
    **fields: Unpack[AllCertifyFields],
) -> LanguageCertificate:
    """Bound a language model's bits per token: search d, the number of levels and alpha for the smallest bound (Lotfi et al. 2024).

    Example:
        >>> found = d90.certify_language(language_model, documents, dims=[8], epochs=1)
        >>> found.bound == min(one.bound for one in found.candidates)
        True

    Args:
        model, task: a causal language model, and documents ("text:FOLDER", "lines:FILE").
        method: with a subspace.
        options: which d, levels and share of a prior are tried, and delta.
        training: how each candidate is trained, once each.
        data: how the task's data is read.
        store: where the choice is recorded; alternatives it shows must be paid for (`tried`).
        progress: receives the events.
        command: the command line that asked, kept with the result.
        fields: those of the options as keywords, as dims=[50], epochs=1.

    Raises:
        InputError: a task without documents, too few of them, numbers out of range, or a certificate that would be false.
    """
    progress = listener(progress)
    spec = parse(method) if isinstance(method, str) else method
    asked = settled(options, spec, DIMS, LEVELS, quantise_epochs=1)
    if asked.posterior != "message":
        raise InputError(
            f"got posterior='{asked.posterior}' for documents, expected 'message': a Gaussian's bound is on errors"
        )
    check_sound(spec, asked)
    recipe = make_recipe(model, task, spec, training, data)
    whole = open_task(task, recipe, model)
    if not whole.kind.generative:
        raise InputError(f"task '{whole.name}' has labels: the bound on its error is d90.certify's; expected documents")
    spec = suited(method, whole.kind)
    recipe = replace(recipe, method=str(spec))
    ground = prepare(model, whole, recipe, asked, store if isinstance(store, Store) else Store(store), progress)
    result = _searched(ground, progress, command)
    save_study(ground, result, "certify language")
    progress.search_ended(str(result))
    return result


def check_language(
    path: str | os.PathLike[str],
    model: str | Model | None = None,
    task: str | Task | None = None,
    out: str | os.PathLike[str] | None = None,
) -> LanguageCertificate:
    """Read a certificate back: decode its message, evaluate the documents again, and compute the bound from them.

    Args:
        path: of the certificate.
        model, task: where they lie now; by default under the names in the certificate.
        out: write (documents,) float64 there, a .npy file: each evaluated document's bits per token, smoothed.

    Raises:
        InputError: a file that is no such certificate, other documents or another base, or figures that do not come out.
    """
    return checked(_BitsPerToken(), path, model, task, out)


class _BitsPerToken(Recount[LanguageCertificate]):
    """Measures the documents' bits per token again."""

    kind = LanguageCertificate

    def refuse_unsound(self, said: LanguageCertificate, data: Data) -> None:
        """Fewer models evaluated than the search itself has."""
        among, own = said.definitions.among, said.definitions.messages(len(ALPHAS))
        if among is None or among < own:
            raise InputError(
                f"it says that {among} models were evaluated, expected at least the {own} of its own search"
            )

    def measured(self, said: LanguageCertificate, data: Data, start: StartingPoint) -> Tensor:
        """-ln p of each token of the documents that are evaluated (documents, tokens)."""
        documents, _ = subsample(data.task, said.evaluated)
        with decoded_again(said, data, start) as fresh:
            return predict(
                fresh.model, Batches(fresh.model, documents, data.task.kind), precision_of(said.recipe, fresh)
            )

    def rows(self, said: LanguageCertificate, data: Data, measured: Tensor) -> NDArray[Any]:
        """Each document's bits per token, smoothed (documents,)."""
        _, groups = subsample(data.task, said.evaluated)
        found: NDArray[Any] = smoothed_bits(measured, said.alpha, _vocabulary(data.model), groups).numpy()
        return found

    def differs(self, said: LanguageCertificate, data: Data, measured: Tensor) -> str:
        """The mean, the bound and alpha."""
        among, (_, groups) = said.definitions.among or 0, subsample(data.task, said.evaluated)
        known = _Known.of(data.task.independent("train"), said.evaluated, _vocabulary(data.model), said.delta, among)
        found = known.bounded(replace(said.best, losses=_by_alpha(measured, known.vocabulary, groups)))
        if said.form == "betting":
            bits = smoothed_bits(measured, found.alpha, known.vocabulary, groups)
            found = replace(found, bound=_betting(bits, found.alpha, known, found.bits))
        same = abs(found.mean - said.mean) <= SAME and abs(found.bound - said.bound) <= SAME
        if same and found.alpha == said.alpha:
            return ""
        return f"{said.mean:.5f} bits per token and a bound of {said.bound:.5f}; evaluated again: {found.mean:.5f} and {found.bound:.5f}"


def subsample(task: Task, m: int) -> tuple[Split, Tensor | None]:
    """m training documents, drawn by the stream "split" without a look at anything: no hypothesis depends on which they are; and of
    which of them each example is a part."""
    n, groups = task.independent("train"), task.groups("train")
    if m == n:
        return task.train, groups
    chosen = permutation(0, "split", 2, n)[:m]
    if groups is None:
        return task.train.pick(chosen), None
    sizes = torch.bincount(groups)[chosen]
    return task.train.pick(members(groups, chosen)), torch.arange(m).repeat_interleave(sizes)


def smoothed_bits(nats: Tensor, alpha: float, vocabulary: int, groups: Tensor | None = None) -> Tensor:
    """Each document's mean of -log2((1 - alpha) p + alpha / V), (n,) fp64, from its tokens' -ln p (n, tokens).

    A token whose probability is not finite costs the most, log2(V / alpha).

    Args:
        groups: which document each row of `nats` is an answer of, from 0 on; a document's bits are the mean of its answers'.
    """
    there = nats != ABSENT
    p = torch.exp(-nats.double()).nan_to_num(nan=0.0).clamp(0.0, 1.0)
    bits = -torch.log2((1 - alpha) * p + alpha / vocabulary)
    low, high = bounds.smoothed_range(alpha, vocabulary)
    return _means((bits.where(there, 0.0).sum(dim=1) / there.sum(dim=1)).clamp(low, high), groups)


def _means(values: Tensor, groups: Tensor | None) -> Tensor:
    """The mean of each group's values; the values where there are no groups."""
    if groups is None:
        return values
    sizes = torch.bincount(groups)
    return torch.zeros(len(sizes), dtype=values.dtype).index_add(0, groups, values) / sizes


@dataclass(frozen=True)
class _Known:
    """What the bound needs beside a candidate, all of it fixed before the documents are seen."""

    n: int
    m: int
    vocabulary: int
    delta: float
    among: int
    form: Literal["kl", "bernstein"]

    @classmethod
    def of(cls, n: int, m: int, vocabulary: int, delta: float, among: int) -> _Known:
        """With the form that the rule gives.

        Raises:
            InputError: m documents of n cannot be evaluated.
        """
        if not 2 <= m <= n:
            raise InputError(f"got {m} documents to evaluate, expected 2 ... {n}, those that count")
        return cls(n, m, vocabulary, delta, among, "bernstein" if m == n else "kl")

    def bound(self, one: TextCandidate, alpha: float) -> float:
        mean, variance = one.losses[str(alpha)]
        return bounds.bits_per_token(
            mean, alpha, self.vocabulary, self.n, self.delta, one.bits, self.m, self.form, variance, self.among
        )

    def bounded(self, one: TextCandidate) -> TextCandidate:
        """With the alpha that bounds it best."""
        alpha = min(ALPHAS, key=lambda alpha: self.bound(one, alpha))
        return replace(one, alpha=alpha, mean=one.losses[str(alpha)][0], bound=self.bound(one, alpha))


def _searched(ground: Preparation, progress: Progress, command: str) -> LanguageCertificate:
    data, recipe, n = ground.data, ground.recipe, ground.n
    m = n if ground.options.evaluated is None else ground.options.evaluated
    own = ground.definitions().messages(len(ALPHAS))
    known = _Known.of(n, m, _vocabulary(data.model), ground.options.delta, own)
    precision = precision_of(recipe, data)
    documents, groups = subsample(data.task, m)
    seen = Batches(data.model, documents, data.task.kind)

    def measured(fresh: Data, message: CodedTune) -> TextCandidate:
        losses = _by_alpha(predict(fresh.model, seen, precision), known.vocabulary, groups)
        return TextCandidate(**vars(message), losses=losses)

    measure = Measure(
        TextCandidate,
        measured,
        no_change=True,
        parts={"alpha": bounds.choice_bits([len(ALPHAS)])},
        key=("language", len(seen), str(ALPHAS), *(() if groups is None else ("means of answers", m))),
    )
    found = []
    for one in coded_tunes(ground, measure, progress):
        found.append(one)
        done = known.bounded(one)
        name = f"d = {done.d}, {done.levels} levels" if done.payload else "no change"
        progress.trial_ended(name, f"{done.mean:.3f} bits per token, {done.bits:.0f} bits, bound {done.bound:.3f}")
    # what other searches evaluated on these documents is chosen among too, as far as the store shows it
    shown = (1 + messages_evaluated(ground.store, ground.whole)) * len(ALPHAS) * ground.tried.count
    known = replace(known, among=max(own, shown))
    candidates = tuple(known.bounded(one) for one in found)
    return _certificate(ground, known, min(candidates, key=lambda one: one.bound), candidates, command)


def _certificate(
    ground: Preparation, known: _Known, best: TextCandidate, candidates: tuple[TextCandidate, ...], command: str
) -> LanguageCertificate:
    data, recipe, spec, delta = ground.data, ground.recipe, ground.spec, known.delta
    shown, precision, groups = data.split(ground.split), precision_of(recipe, data), data.task.groups(ground.split)
    with decoded(data, ground.start, spec, recipe, 0, "") as fresh:
        outputs = predict(fresh.model, shown, precision)
        untrained = _means(data.task.kind.losses(outputs, shown.labels), groups).mean().item() / math.log(2)
    with decoded(data, ground.start, spec, recipe, best.d, best.payload) as fresh:
        shown_nats = predict(fresh.model, shown, precision)
        counted_nats = predict(fresh.model, data.train, precision) if ground.options.form == "betting" else None
    tested, bets = _by_alpha(shown_nats, known.vocabulary, groups), counted_nats is not None
    held = round(ground.whole.independent("train") / 10)
    bound, holdout = best.bound, _holdout(tested, held, known.vocabulary, delta)
    if counted_nats is not None:
        counted = smoothed_bits(counted_nats, best.alpha, known.vocabulary, data.task.groups("train"))
        bound = _betting(counted, best.alpha, known, best.bits)
        if held > 1:
            each = {alpha: smoothed_bits(shown_nats, alpha, known.vocabulary, groups) for alpha in ALPHAS}
            as_many = {alpha: bits[torch.arange(held) % len(bits)] for alpha, bits in each.items()}
            holdout = min(_betting(bits, alpha, known, 0.0) for alpha, bits in as_many.items())
    length = f"its first {data.model.max_length} tokens" if data.model.max_length else "all its tokens"
    choices = ground.choices
    if known.m < known.n:
        cost = bounds.choice_bits([known.among])
        why = f"paid in the first step: {known.among:,} pairs of a model and an alpha were, or are counted as, evaluated on them"
        choices = (*choices, Choice("documents evaluated", f"{known.m:,} of {known.n:,}", cost, why))
    return LanguageCertificate(
        model=recipe.model,
        task=recipe.task,
        method=ground.recipe_at(best).method,
        recipe=ground.recipe_at(best),
        n=known.n,
        delta=delta,
        split=ground.split,
        prior=ground.prior,
        assumptions=(f"a document, cut to {length}, is one example", *ground.assumptions),
        choices=choices,
        command=command,
        unit=next(iter(ground.whole.notes), "documents"),
        evaluated=known.m,
        vocabulary=known.vocabulary,
        alpha=best.alpha,
        mean=best.mean,
        bits=best.bits,
        parts=best.parts,
        form="betting" if bets else known.form,
        bound=bound,
        kl_bound=replace(known, form="kl").bound(best, best.alpha),
        uniform=math.log2(known.vocabulary),
        untrained=untrained,
        test=tested[str(best.alpha)][0],
        test_count=data.task.independent(ground.split),
        holdout=holdout,
        best=best,
        candidates=candidates,
        tighter=_tighter(best, known),
        definitions=replace(ground.definitions(), alphas=ALPHAS, among=known.among),
    )


def _betting(losses: Tensor, alpha: float, known: _Known, bits: float) -> float:
    """The betting bound of documents' smoothed bits, in their order in the data; the message was chosen by the other form, at no cost."""
    low, high = bounds.smoothed_range(alpha, known.vocabulary)
    return betting_upper(losses, low, high, known.delta, bits)


def _by_alpha(nats: Tensor, vocabulary: int, groups: Tensor | None) -> dict[str, list[float]]:
    """[mean, sample variance] of the documents' bits per token, by alpha."""
    found = {}
    for alpha in ALPHAS:
        each = smoothed_bits(nats, alpha, vocabulary, groups)
        found[str(alpha)] = [each.mean().item(), each.var().item()]
    return found


def _holdout(tested: dict[str, list[float]], held: int, vocabulary: int, delta: float) -> float:
    """Of `held` documents with the test documents' mean and variance; its alpha is free, in the hold-out's favour."""
    if held < 2:
        return math.log2(vocabulary / ALPHAS[0])
    return min(
        bounds.bits_per_token(mean, alpha, vocabulary, held, delta, form="bernstein", variance=variance)
        for alpha in ALPHAS
        for mean, variance in (tested[str(alpha)],)
    )


def _tighter(best: TextCandidate, known: _Known) -> dict[str, float]:
    """The bound if the message were free, if every document were evaluated, and with twice the documents."""
    found = {"no bits at all": known.bounded(replace(best, bits=0.0)).bound}
    if known.m < known.n:
        found["every document evaluated"] = replace(known, m=known.n, form="bernstein").bounded(best).bound
    found["twice the documents"] = replace(known, n=2 * known.n, m=2 * known.m).bounded(best).bound
    return found


def _vocabulary(model: Model) -> int:
    if model.vocabulary is None:
        raise InputError(f"model '{model.name}' is no causal language model, expected one: give its name or folder")
    return model.vocabulary
