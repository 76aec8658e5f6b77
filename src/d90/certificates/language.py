"""certify_language(model, task) -> LanguageCertificate: an upper bound on the bits per token of a new document.

SubLoRA (Lotfi et al. 2024): the tune's d numbers are a message of K bits, as in `d90.certify`, and predictions are smoothed,

    p_alpha = (1 - alpha) p + alpha / V        so that every token costs between -log2(1 - alpha + alpha/V) and log2(V / alpha)

The independent example is the document: its loss is the mean of its tokens' bits under p_alpha, and n counts documents. With all of
them evaluated the bound is empirical Bernstein's (Maurer & Pontil 2009), for documents differ little; with m of them, drawn
beforehand by our own bits, the kl form in two steps (`d90.analysis.bounds.bits_per_token`). alpha is one of `ALPHAS`, which the
message names; the unchanged model is a candidate too, and the message's first bit says whether anything changes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from d90.analysis import bounds
from d90.certificates.certificate import WARNING, assumptions, parts, take
from d90.certificates.coding import check_sound, coded_tunes, decoded, opened_again, pay_for, start_from
from d90.errors import InputError
from d90.methods import Spec, parse
from d90.models.loading import Model
from d90.projections.philox import permutation
from d90.subspace import layout
from d90.tasks import ABSENT, Split, Task
from d90.training.batches import Batches
from d90.training.loop import Data, open_model, open_task, predict
from d90.training.precision import precision_of
from d90.training.progress import Progress
from d90.training.recipe import Recipe, make_recipe
from d90.trials.runner import versions
from d90.trials.store import Store, digest

__all__ = ["ALPHAS", "LanguageCertificate", "TextCandidate", "certify_language", "check_language", "smoothed_bits"]

ALPHAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6)  # fixed; the message names one in three bits
DIMS, LEVELS = (50, 100), (3,)


@dataclass(frozen=True)
class TextCandidate:
    """One coded tune: `payload` is the message in hex, "" for no change; `losses` [mean, variance] over documents by alpha."""

    d: int
    levels: int
    bits: float
    alpha: float
    mean: float
    bound: float
    payload: str
    parts: dict[str, float] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class LanguageCertificate:
    """What is guaranteed about a language model, with everything needed to check it again. Every loss is in bits per token.

    Attributes:
        unit: what a document is; n of them count, `evaluated` of them were evaluated.
        vocabulary, alpha: V, and the smoothing that was taken.
        mean, bits, parts: training loss of the decoded, smoothed model, description length, and where it goes.
        bound: on the expected loss of a new document, at confidence 1 - delta, by `form`; `kl_bound` by the kl form.
        uniform: log2 V, what the uniform guess costs.
        untrained: the starting point's loss on the test documents, not smoothed.
        test, test_count, split: on documents no choice has seen, smoothed.
        holdout: what a tenth of the same documents, held out, would have certified at this test loss.
        tighter: the bound if one thing were better, by name.
        assumptions: what the guarantee rests on, and what was found about it.
    """

    model: str
    task: str
    method: str
    unit: str
    n: int
    evaluated: int
    vocabulary: int
    alpha: float
    mean: float
    bits: float
    parts: dict[str, float]
    delta: float
    form: str
    bound: float
    kl_bound: float
    uniform: float
    untrained: float
    test: float
    test_count: int
    split: str
    holdout: float
    prior: int
    best: TextCandidate
    candidates: tuple[TextCandidate, ...]
    tighter: dict[str, float]
    assumptions: tuple[str, ...]
    recipe: dict[str, Any]
    definitions: dict[str, Any]
    command: str = ""

    def __str__(self) -> str:
        worth = "" if self.bound < self.uniform else ", which says nothing: the uniform guess costs no more"
        seen = f"training {self.mean:.3f} on {self.evaluated:,} of {self.n:,} documents, alpha {self.alpha:g}, {self.bits:.0f} bits"
        shown = (
            f"{self.split} {self.test:.3f}, untrained {self.untrained:.3f}; a hold-out of a tenth: {self.holdout:.3f}"
        )
        return (
            f"bits per token of a new document <= {self.bound:.3f} with probability {1 - self.delta:.0%}{worth} "
            f"(uniform {self.uniform:.3f}; {seen}; {shown})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; `check_language` reads it back and evaluates the documents again."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def certify_language(
    model: str | Model,
    task: str | Task,
    method: str | Spec = "lora:r=4@structure=did",
    *,
    dims: Sequence[int] | None = None,
    levels: Sequence[int] | None = None,
    evaluated: int | None = None,
    prior: float = 0.0,
    delta: float = 0.05,
    tried: int | None = None,
    prior_epochs: float = 3,
    quantise_epochs: float = 1,
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    progress: Progress | None = None,
    command: str = "",
    **options: Any,
) -> LanguageCertificate:
    """Search d, the number of levels and alpha for the smallest bound.

    Args:
        model, task: a causal language model, and documents ("text:FOLDER", "lines:FILE").
        method, dims, levels: with a subspace; `dims` is the method's own d, or 50 and 100; levels 3.
        evaluated: evaluate so many training documents, drawn before anything is seen; None for all.
        prior, delta, tried, prior_epochs, quantise_epochs, store, progress, command, options: as for `d90.certify`.

    Raises:
        InputError: a task without documents, too few of them, or numbers out of range.
    """
    progress = progress or Progress()
    spec = parse(method) if isinstance(method, str) else method
    own = spec.space.d if spec.space else None
    dims = dims if dims is not None else DIMS if own is None else (own,)
    levels = levels if levels is not None else LEVELS
    check_sound(spec, dims, levels, prior, delta, 1 if tried is None else tried)
    recipe = make_recipe(model, task, spec, options)
    whole = open_task(task, recipe)
    if whole.kind != "language":
        raise InputError(f"task '{whole.name}' has labels: the bound on its error is d90.certify's; expected documents")
    first, counted = parts(whole, prior)
    n = len(counted.train)
    m = n if evaluated is None else evaluated
    if not 2 <= m <= n:
        raise InputError(f"got {m} documents to evaluate, expected 2 ... {n}, those that count")
    loaded = open_model(model, whole, recipe)
    keep = store if isinstance(store, Store) else Store(store)
    tried, searched = pay_for(tried, keep, whole, loaded, spec, recipe, prior, prior_epochs)
    progress.search_started(f"certificate of {recipe.model} on {recipe.task}, {spec}, n = {n:,} documents")
    if first is not None:
        progress.search_planned(f"starting point from {len(first.train):,} documents")
        start_from(loaded, first, recipe, prior_epochs, progress)
    length = f"its first {loaded.max_length} tokens" if loaded.max_length else "all its tokens"
    rests_on = (f"a document, cut to {length}, is one example", *assumptions(counted, first, loaded), *searched)
    for line in rests_on:
        if line.startswith(WARNING):
            progress.note(line)
    data = Data(loaded, counted)
    seen = Batches(loaded, subsample(counted.train, m))
    among = (1 + len(dims) * len(levels)) * len(ALPHAS)
    known = _Known.of(n, m, _vocabulary(loaded), delta, among)
    candidates = []
    for one in _candidates(
        data, seen, spec, recipe, dims, levels, quantise_epochs, tried, prior, keep, progress, known.vocabulary
    ):
        candidates.append(known.bounded(one))
        name = f"d = {one.d}, {one.levels} levels" if one.d else "no change"
        done = candidates[-1]
        progress.trial_ended(name, f"{done.mean:.3f} bits per token, {done.bits:.0f} bits, bound {done.bound:.3f}")
    best = min(candidates, key=lambda one: one.bound)
    split = "test" if counted.test is not None else "validation"
    shown, precision = data.split(split), precision_of(recipe, data)
    untrained = data.task.loss(predict(loaded, shown, precision), shown.labels).item() / math.log(2)
    with decoded(data, spec, recipe, best.d, best.payload):
        tested = _losses(loaded, shown, precision, known.vocabulary)
    result = LanguageCertificate(
        model=recipe.model,
        task=recipe.task,
        method=str(spec.at(best.d)) if best.d else str(spec),
        unit=next(iter(whole.notes), "documents"),
        n=n,
        evaluated=m,
        vocabulary=known.vocabulary,
        alpha=best.alpha,
        mean=best.mean,
        bits=best.bits,
        parts=best.parts,
        delta=delta,
        form=known.form,
        bound=best.bound,
        kl_bound=replace(known, form="kl").bound(best, best.alpha),
        uniform=math.log2(known.vocabulary),
        untrained=untrained,
        test=tested[str(best.alpha)][0],
        test_count=len(shown),
        split=split,
        holdout=_holdout(tested, round(len(whole.train) / 10), known.vocabulary, delta),
        prior=len(first.train) if first is not None else 0,
        best=best,
        candidates=tuple(candidates),
        tighter=_tighter(best, known),
        assumptions=rests_on,
        recipe={key: value for key, value in asdict(recipe).items() if key != "method"},
        definitions={
            "dims": list(dims), "levels": list(levels), "alphas": list(ALPHAS), "among": among, "prior": prior, "tried": tried,
            "prior_epochs": prior_epochs, "quantise_epochs": quantise_epochs, "task": whole.fingerprint, "base": loaded.fingerprint,
            "start": layout.fingerprint(loaded.module.named_parameters()), **versions(),
        },
        command=command,
    )  # fmt: skip
    asked = [str(spec), result.recipe, list(dims), list(levels), prior, delta, tried, prior_epochs, m]
    keep.put_study(digest(asked), "certify language", asdict(result))
    progress.search_ended(str(result))
    return result


def check_language(
    path: str | os.PathLike[str], model: str | Model | None = None, task: str | Task | None = None
) -> LanguageCertificate:
    """Read a certificate back: decode its message, evaluate the documents again, and compute the bound from them.

    Raises:
        InputError: a file that is no such certificate, other documents or another base, or figures that do not come out.
    """
    said, data, spec, recipe = opened_again(
        path, LanguageCertificate, TextCandidate, model, task, "documents", ("among",)
    )
    loaded, documents, best, among = data.model, data.task.train, said.best, int(said.definitions["among"])
    known = _Known.of(len(documents), said.evaluated, _vocabulary(loaded), said.delta, among)
    seen = Batches(loaded, subsample(documents, said.evaluated))
    with decoded(data, spec, recipe, best.d, best.payload):
        losses = _losses(loaded, seen, precision_of(recipe, data), known.vocabulary)
    found = known.bounded(replace(best, losses=losses))
    if abs(found.mean - said.mean) > SAME or abs(found.bound - said.bound) > SAME or found.alpha != said.alpha:
        raise InputError(
            f"'{path}' says {said.mean:.5f} bits per token and a bound of {said.bound:.5f}; evaluated again: {found.mean:.5f} and "
            f"{found.bound:.5f}. Likely cause: another processor or precision; certify again here"
        )
    return said


SAME = 1e-5  # bits per token: sums of float32 on another processor differ by less


def subsample(documents: Split, m: int) -> Split:
    """m documents, drawn by the stream "split" without a look at anything: no hypothesis depends on which they are."""
    n = len(documents)
    if m == n:
        return documents
    return take(documents, permutation(0, "split", 2, n)[:m])


def smoothed_bits(nats: torch.Tensor, alpha: float, vocabulary: int) -> torch.Tensor:
    """Each document's mean of -log2((1 - alpha) p + alpha / V), (n,) fp64, from its tokens' -ln p (n, tokens).

    A token whose probability is not finite costs the most, log2(V / alpha).
    """
    there = nats != ABSENT
    p = torch.exp(-nats.double()).nan_to_num(nan=0.0).clamp(0.0, 1.0)
    bits = -torch.log2((1 - alpha) * p + alpha / vocabulary)
    low, high = bounds.smoothed_range(alpha, vocabulary)
    return (bits.where(there, 0.0).sum(dim=1) / there.sum(dim=1)).clamp(low, high)


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
        """With the form that the rule gives."""
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


def _candidates(
    data: Data, seen: Batches, spec: Spec, recipe: Recipe, dims: Sequence[int], levels: Sequence[int], epochs: float,
    tried: int, prior: float, store: Store, progress: Progress, vocabulary: int,
) -> Iterator[TextCandidate]:  # fmt: skip
    named = bounds.choice_bits([len(ALPHAS)])

    def counted(d: int, count: int, payload: str, lengths: dict[str, float]) -> TextCandidate:
        costs = {**lengths, "alpha": named}
        losses = _losses(data.model, seen, precision_of(recipe, data), vocabulary)
        return TextCandidate(d, count, sum(costs.values()), 0.0, 0.0, 0.0, payload, costs, losses)

    yield counted(0, 0, "", {"no change": 1.0, "tried": bounds.choice_bits([tried])})
    yield from coded_tunes(
        data, spec, recipe, dims, levels, epochs, tried=tried, prior=bool(prior), flag=True, store=store, progress=progress,
        counted=counted, read=lambda body: TextCandidate(**body), also=("language", len(seen), str(ALPHAS)),
    )  # fmt: skip


def _losses(model: Model, batches: Batches, precision: str, vocabulary: int) -> dict[str, list[float]]:
    """[mean, sample variance] of the documents' bits per token, by alpha."""
    nats = predict(model, batches, precision)
    found = {}
    for alpha in ALPHAS:
        each = smoothed_bits(nats, alpha, vocabulary)
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
