"""What a certificate is: the coded tunes that were tried, the best of them, and what the guarantee rests on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

from d90.certificates.definitions import Definitions
from d90.display import Display, Text, figures_of, text_of
from d90.errors import InputError
from d90.files import Json, write_text
from d90.report.intervals import Interval, intervals_figure
from d90.report.svg import standalone
from d90.training.recipe import Recipe

__all__ = ["BaseCertificate", "Choice", "CodedTune", "OfErrors"]

NO_CHANGE = "no change: a test-set bound on the starting point"


@dataclass(frozen=True, kw_only=True)
class CodedTune:
    """One message and what it costs.

    Attributes:
        d, levels: how many numbers it holds, of at most how many values; 0 for no change at all.
        bits, parts: its length, and where it goes.
        bound: with what was measured on the decoded model.
        payload: the message in hex, "" for no change.
    """

    d: int
    levels: int
    bits: float
    bound: float
    payload: str
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def certified(self) -> str:
        """What the message changes, in words."""
        return f"d = {self.d:,} numbers in {self.bits:,.0f} bits" if self.payload else NO_CHANGE

    @classmethod
    def from_dict(cls, body: Json) -> Self:
        """What `dataclasses.asdict` gave.

        Raises:
            TypeError: fields that are missing or unknown, or of the wrong type.
        """
        found = cls(**body)
        if not isinstance(found.payload, str):
            raise TypeError(f"its payload is a {type(found.payload).__name__}, expected a text in hex")
        return replace(
            found, d=int(found.d), levels=int(found.levels), bits=float(found.bits), bound=float(found.bound)
        )


@dataclass(frozen=True)
class Choice:
    """A choice behind a certificate that could have looked at the examples.

    Attributes:
        name, value: what was chosen, and which.
        bits: what it costs; 0 where `why` says why it is free.
        why: how it is paid for, why it is free, or that it is assumed.
    """

    name: str
    value: str
    bits: float
    why: str

    def __str__(self) -> str:
        cost = f"{self.bits:g} bits, " if self.bits else ""
        return f"{self.name} {self.value}: {cost}{self.why}"


_Tune = TypeVar("_Tune", bound=CodedTune)


@dataclass(frozen=True, kw_only=True)
class BaseCertificate(Display, Generic[_Tune]):
    """What every certificate holds.

    Attributes:
        model, task, method: names as given, and the canonical text of the method.
        recipe, definitions: how the tune was trained, with the message's method, and what a check needs to find the same ground again.
        command: the command line that asked.
        n: the examples that count.
        delta: 1 - confidence.
        bits, parts: description length of the best message, and where it goes.
        bound, kl_bound: at confidence 1 - delta; `kl_bound` by inverting the relative entropy.
        test_count, split: the examples that no choice has seen.
        holdout: what holding out a tenth of the same examples would have certified.
        prior: how many examples trained the starting point.
        best, candidates: the messages.
        tighter: the bound if one thing were better, by name.
        assumptions: what the guarantee rests on, and what was found about it.
        choices: every choice that could have looked at the examples, with what it costs.
    """

    tune_type: ClassVar[type[CodedTune]]
    percent: ClassVar[bool] = True  # whether what is bounded is a share

    model: str
    task: str
    method: str
    n: int
    bits: float
    parts: dict[str, float]
    delta: float
    bound: float
    kl_bound: float
    test_count: int
    split: str
    holdout: float
    prior: int
    best: _Tune
    candidates: tuple[_Tune, ...]
    tighter: dict[str, float]
    assumptions: tuple[str, ...]
    recipe: Recipe
    definitions: Definitions
    command: str = ""
    choices: tuple[Choice, ...] = ()

    @property
    def seen(self) -> list[tuple[str, float]]:
        """What the bound is read against, by name."""
        raise NotImplementedError

    @property
    def certified(self) -> str:
        """What is certified, in words: "no change: ..." or "d = 100 numbers in 287 bits"."""
        return self.best.certified

    def to_dict(self) -> Json:
        """As JSON holds it: the fields, and `certified` in words."""
        recipe = {name: value for name, value in self.recipe.to_dict().items() if name != "method"}
        return {
            "certified": self.certified,
            **asdict(self),
            "recipe": recipe,
            "definitions": self.definitions.to_dict(),
        }

    @classmethod
    def from_dict(cls, body: Json) -> Self:
        """What `to_dict` gave.

        Raises:
            InputError: fields that are missing or unknown, or of the wrong type.
        """
        try:
            given = {name: value for name, value in body.items() if name != "certified"}
            given["best"] = cls.tune_type.from_dict(body["best"])
            given["candidates"] = tuple(cls.tune_type.from_dict(one) for one in body["candidates"])
            given["recipe"] = Recipe.from_dict({**body["recipe"], "method": body["method"]})
            given["definitions"] = Definitions.from_dict(body["definitions"])
            given["assumptions"] = tuple(body["assumptions"])
            given["choices"] = tuple(Choice(**one) for one in body.get("choices", ()))
            found = cls(**given)
            for each in fields(found):
                if each.type in ("int", "float") and isinstance(given.get(each.name, 0), bool | str | None):
                    raise TypeError(f"its {each.name} is {given[each.name]!r}, expected a number")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is not a certificate ({type(error).__name__}: {error}); write it again") from None
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all; `check` and `d90.certificates.verify` read it back."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


class OfErrors:
    """What a certificate of an error rate shows: errors as shares of 1, beside the constant guess."""

    if TYPE_CHECKING:

        @property
        def error(self) -> float: ...

    bound: float
    delta: float
    n: int
    split: str
    test_error: float
    majority: float
    holdout: float

    @property
    def seen(self) -> list[tuple[str, float]]:
        """Errors of what is certified, and of the guess that sees no example."""
        return [
            ("training examples", self.error),
            (f"{self.split} examples", self.test_error),
            ("the most frequent class, always", self.majority),
        ]

    def sentence(self, certified: str, length: str = "") -> str:
        """The bound in words; `length` is what the message takes, where that is said apart."""
        worth = "" if self.bound < self.majority else ", which says nothing: the majority class errs no more"
        return (
            f"true error <= {self.bound:.2%} with probability {1 - self.delta:.0%}{worth}; certified: {certified} (training error "
            f"{self.error:.2%} on {self.n:,}, {length}{self.split} error {self.test_error:.2%}; a hold-out of a tenth: {self.holdout:.2%})"
        )


@figures_of.register
def _(result: BaseCertificate) -> list[str]:
    factor = 100.0 if result.percent else 1.0
    bound = (f"bound, at {1 - result.delta:.0%}", result.bound)
    holdout = ("what a hold-out of a tenth would have said", result.holdout)
    rows = [Interval(name, *[factor * value] * 3) for name, value in (bound, holdout, *result.seen)]
    unit = "errors, %" if result.percent else "bits per token"
    return [standalone(intervals_figure(f"{result.model} on {result.task}: {result.certified}", unit, rows, []))]


@text_of.register
def _(result: BaseCertificate) -> Text:
    rows = [(one.name, str(one)) for one in result.choices]
    return [str(result), *result.assumptions], [("choice", "what it costs"), *rows] if rows else []
