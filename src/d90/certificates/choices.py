"""Every choice behind a certificate: what it costs, why it is free, or that it is assumed.

A bound holds at once for every message, whatever chose it. What a decoder must know besides the message (base, seed, structure,
projection, prior, which examples) is fixed beforehand, or log2 of the number of alternatives is paid. What a store shows to have been
tried on the same examples is counted; what no store can show is an assumption, and printed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from d90.analysis import bounds
from d90.certificates.certificate import Choice
from d90.certificates.definitions import Definitions
from d90.errors import InputError
from d90.files import Json
from d90.methods import Spec, parse
from d90.models.loading import Model
from d90.options import CertificateOptions
from d90.tasks import Split, Task
from d90.tasks.overlap import keys
from d90.training.recipe import Recipe
from d90.trials.store import Store

__all__ = [
    "Tried",
    "choices_of",
    "first_example",
    "messages_evaluated",
    "what_was_tried",
]

_NEEDED = ("seed", "max_length", "precision", "step_rule")
_NEEDED_BY_A_PRIOR = ("batch_size", "warmup", "weight_decay", "clip", "evaluations", "validation_limit")


@dataclass(frozen=True)
class Tried:
    """What is paid for, and what the store shows.

    Attributes:
        count: the alternatives paid for, this one included.
        shown: those in the store, this one included.
        rates: the learning rates in the store.
        store: where it was looked.
    """

    count: int
    shown: int
    rates: int
    store: str

    @property
    def bits(self) -> float:
        """What the choice among the alternatives costs."""
        return bounds.choice_bits([self.count])


def what_was_tried(
    store: Store, task: Task, model: Model, spec: Spec, recipe: Recipe, options: CertificateOptions
) -> Tried:
    """What the store shows to have been tried on these examples, and what is paid for.

    Raises:
        InputError: the store shows more alternatives than are paid for.
    """
    n = len(task.train)
    needed = Needed.of(options, recipe)
    mine = _decoder(model.fingerprint, str(spec), recipe, needed, n)
    shown, bases, rates = {mine}, {model.fingerprint}, {recipe.lr}
    looked = set()
    for row in store.trials():
        if not _same_examples(row.recipe, row.result.context.task, None, task, recipe):
            continue
        base = _base(row.result.context.base, model)
        if row.d is None:
            looked.add(base)  # trained in full: no message, but a base whose scores were seen
            continue
        bases.add(base)
        limit = row.recipe.train_limit
        examples = n if limit == recipe.train_limit else limit or "all"
        shown.add(_decoder(base, row.recipe.method, row.recipe, replace(needed, prior=0.0), examples))
        if base == model.fingerprint:
            rates.add(row.result.lr)
    for kind in ("certify", "certify language", "certify gaussian"):
        for body in store.studies(kind):
            known, theirs = Definitions.from_dict(body["definitions"]), Recipe.from_dict(body["recipe"])
            if _same_examples(theirs, known.task, known.first_example, task, recipe):
                base = _base(known.base, model)
                bases.add(base)
                examples = body["n"] + body["prior"] if known.examples is None else known.examples
                shown.add(_decoder(base, body["method"], theirs, Needed.of_certificate(body, known, theirs), examples))
                rates.add(theirs.lr)
    alternatives = len(shown) + len(looked - bases)
    if (options.tried or 1) < alternatives:
        raise InputError(
            f"'{store.path}' shows {alternatives} alternatives on these examples (bases, seeds, structures, projections, priors, limits; "
            f"this one included), expected tried to say how many this one was chosen from: an unpaid choice voids the bound. Give "
            f"tried={alternatives} (--tried), or a store of its own to what was fixed before any of them"
        )
    return Tried(options.tried or 1, alternatives, len(rates), str(store.path))


def choices_of(task: Task, spec: Spec, recipe: Recipe, options: CertificateOptions, tried: Tried) -> list[Choice]:
    """Every choice that could have looked at the examples, with what it costs."""
    many = f"one of {tried.count} alternatives" if tried.count > 1 else "fixed beforehand: no alternative in the store"
    said = [
        *_of_what_is_trained(options),
        Choice("base, seed, structure, projection, prior, limits", str(spec), tried.bits, many),
        Choice(
            "alternatives outside the store",
            tried.store,
            0.0,
            "assumed: none was tried elsewhere, and none of a later one is chosen",
        ),
        Choice("confidence", f"{1 - options.delta:g}", 0.0, "one of the alternatives, where the store shows another"),
        Choice("tokenizer, pretraining data", recipe.model, 0.0, "assumed: the base was made without these examples"),
    ]
    if options.prior:
        part = f"{options.prior:g} of the examples"
        said.append(
            Choice(
                "prior's part",
                part,
                0.0,
                "free: drawn by bits fixed beforehand; its training never saw those that count",
            )
        )
    if tried.rates > 1:
        said.append(Choice("rates in the store", str(tried.rates), 0.0, "free: the message is paid in full"))
    if options.copies == "drop":
        said.append(
            Choice("copies", "dropped beforehand", 0.0, "assumed: the distinct examples are the independent draws")
        )
    if recipe.train_limit is not None:
        said.append(
            Choice("limit", f"the first {recipe.train_limit:,} examples", 0.0, "assumed: not chosen for its outcome")
        )
    shown = "test" if task.test is not None else "validation"
    said.append(Choice("error beside the bound", f"{shown} split", 0.0, "chose nothing here"))
    return said


def _of_what_is_trained(options: CertificateOptions) -> list[Choice]:
    """The message or the Gaussian, and how it was trained."""
    dims, how = f"d of {_list(options.dims or ())}", "rate, epochs, clip, batches"
    if options.posterior == "message":
        levels = f"{dims}, levels of {_list(options.levels or ())}"
        return [
            Choice("the message", levels, 0.0, "its bits are paid in full"),
            Choice(how, "of the training", 0.0, "free: the bound holds at once for every message, whatever chose it"),
        ]
    named = [
        Choice("d", dims, bounds.choice_bits([len(options.dims or ())]), "one of the list, which was fixed beforehand"),
        Choice("width of P", "1 ... 2^-15", 4.0, "one of 16 that were fixed beforehand"),
        Choice("temperature", "4 ... 0.022", 4.0, "one of 16 that were fixed beforehand"),
    ]
    if options.posterior == "gaussian":
        return [
            Choice("the Gaussian", dims, 0.0, "its divergence from P is paid in full"),
            *named,
            Choice(how, "of the training", 0.0, "free: the bound holds at once for every Gaussian, whatever chose it"),
            Choice(
                "draws", f"{options.passes} of each example", 0.0, "bits fixed beforehand; a fifth of delta is theirs"
            ),
        ]
    return [
        Choice("the draw", dims, 0.0, "its ln dQ/dP is paid in full"),
        *named,
        Choice(
            how, "of the training", 0.0, "one of the alternatives: the bound holds for the Gaussian that was trained"
        ),
        Choice("seed of the draw", "0", 0.0, "free: fixed beforehand"),
    ]


def first_example(split: Split) -> str:
    """Tells the same examples whatever limit was set on their number: limits keep the first ones."""
    return hashlib.sha256(repr(keys(split.take(1))).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def messages_evaluated(store: Store, task: Task) -> int:
    """How many coded tunes in the store were evaluated on these documents, or on more or fewer of them."""
    first = first_example(task.train)
    bodies = [body for body in store.studies("certify candidate") if "language" in body["key"]]
    return sum(body.get("first_example", first) == first for body in bodies)


# --- helpers -----------------------------------------------------------------------------------------------------------


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)


def _base(stored: object, model: Model) -> str:
    """A base's fingerprint; rows that are older than its four parts carry another of the same base."""
    return model.fingerprint if stored == model.earlier else str(stored)


@dataclass(frozen=True)
class Needed:
    """What a decoder must know of the options."""

    prior: float
    prior_epochs: float
    copies: str
    delta: float
    evaluated: int | None
    form: str
    posterior: str

    @classmethod
    def of(cls, options: CertificateOptions, recipe: Recipe) -> Needed:
        """Of a search that begins."""
        return cls(
            float(options.prior),
            float(options.prior_epochs),
            options.copies,
            options.delta,
            options.evaluated,
            options.form,
            _posterior(options.posterior, options.dims or (), options.passes, options.quantise_epochs, recipe),
        )

    @classmethod
    def of_certificate(cls, body: Json, known: Definitions, recipe: Recipe) -> Needed:
        """Of a stored certificate."""
        evaluated, form = body.get("evaluated"), body.get("form")
        part = None if evaluated == body["n"] else evaluated
        return cls(
            known.prior,
            known.prior_epochs,
            known.copies,
            body["delta"],
            part,
            "betting" if form == "betting" else "bernstein",
            _posterior(known.posterior, known.dims, known.passes or 0, known.quantise_epochs, recipe),
        )


def _posterior(posterior: str, dims: Sequence[int], passes: int, quantise_epochs: float | None, recipe: Recipe) -> str:
    """What a Gaussian's bound was fixed with: its list of d; of one draw also the training, for it holds for the one Q that was trained."""
    if posterior not in ("gaussian", "draw"):
        return ""
    trained = (recipe.lr, recipe.epochs, recipe.batch_size, recipe.warmup, recipe.weight_decay, quantise_epochs)
    return str([posterior, list(dims), *(trained if posterior == "draw" else (passes,))])


def _same_examples(theirs: Recipe, fingerprint: str, first: str | None, task: Task, mine: Recipe) -> bool:
    """Whether a row looked at these examples: all of them, or more or fewer of the same under another limit."""
    if fingerprint == task.fingerprint or first == first_example(task.train):
        return True
    if _source(theirs.task) != _source(mine.task):
        return False
    limits = [(each.columns, each.train_limit, each.validation_limit) for each in (theirs, mine)]
    return limits[0] != limits[1] and all(
        theirs.columns.get(name) == mine.columns.get(name) for name in ("text", "label")
    )


def _source(name: str) -> str:
    """A task's name; of files their place, however it was written."""
    kind, colon, path = name.rpartition(":")
    where = Path(path)
    return f"{kind}{colon}{where.resolve()}" if where.exists() else name


def _decoder(base: str, method: str, recipe: Recipe, options: Needed, examples: int | str) -> str:
    """What a decoder must know: two messages with the same need no bit to be told apart."""
    needed = [getattr(recipe, name) for name in _NEEDED]
    if options.prior:
        needed += [options.prior, options.prior_epochs, *(getattr(recipe, name) for name in _NEEDED_BY_A_PRIOR)]
    with contextlib.suppress(InputError):  # a method that this version does not have is an alternative all the same
        method = str(parse(method).at(1))
    return str(
        [
            base,
            method,
            examples,
            *needed,
            options.copies,
            options.delta,
            options.evaluated,
            options.form,
            options.posterior,
        ]
    )
