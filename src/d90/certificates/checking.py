"""A certificate checked against its data: the one flow of every kind, with what each measures on the decoded model."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray
from torch import Tensor

from d90.certificates.certificate import BaseCertificate
from d90.certificates.coding import decoded
from d90.certificates.preparation import opened_again, write_array
from d90.certificates.starting_point import StartingPoint
from d90.errors import InputError
from d90.methods import parse
from d90.models.loading import Model
from d90.tasks import Task
from d90.training.loop import Data

__all__ = ["Recount", "checked", "decoded_again"]

_Certificate = TypeVar("_Certificate", bound=BaseCertificate[Any])


class Recount(ABC, Generic[_Certificate]):
    """What one kind of certificate counts again.

    Attributes:
        kind: of certificate.
    """

    kind: type[_Certificate]

    @abstractmethod
    def refuse_unsound(self, said: _Certificate, data: Data) -> None:
        """Refuse what no search can have written.

        Raises:
            InputError: which figure.
        """

    @abstractmethod
    def measured(self, said: _Certificate, data: Data, start: StartingPoint) -> Tensor:
        """What the model that carries the message gives each example."""

    @abstractmethod
    def rows(self, said: _Certificate, data: Data, measured: Tensor) -> NDArray[Any]:
        """The same as `d90.certificates.verify` reads it."""

    @abstractmethod
    def differs(self, said: _Certificate, data: Data, measured: Tensor) -> str:
        """What the certificate says and what was found instead; empty where they agree."""


def decoded_again(
    said: BaseCertificate[Any], data: Data, start: StartingPoint
) -> contextlib.AbstractContextManager[Data]:
    """The examples for a copy of the starting point that carries the certificate's message."""
    return decoded(data, start, parse(said.method), said.recipe, said.best.d, said.best.payload)


def checked(
    recount: Recount[_Certificate],
    path: str | os.PathLike[str],
    model: str | Model | None,
    task: str | Task | None,
    out: str | os.PathLike[str] | None,
) -> _Certificate:
    """Read a certificate back: decode its message, measure its model again, and compute the bound from that.

    Args:
        recount: what is measured.
        path, model, task: of the certificate, and where its base and data lie now; None: under the names in it.
        out: a .npy file for what was measured on each example.

    Raises:
        InputError: a file that is no such certificate, other data or another base, or figures that do not come out.
    """
    said, data, start = opened_again(path, recount.kind, model, task)
    try:
        recount.refuse_unsound(said, data)
    except InputError as error:
        raise InputError(f"'{path}' is not a certificate: {error}; write it again") from None
    measured = recount.measured(said, data, start)
    if out is not None:
        write_array(out, recount.rows(said, data, measured))
    apart = recount.differs(said, data, measured)
    if apart:
        raise InputError(f"'{path}' says {apart}. Likely cause: another processor or precision; certify again here")
    return said
