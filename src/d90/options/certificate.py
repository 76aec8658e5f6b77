"""What decides a certificate beside model, task, method and training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from d90.errors import InputError
from d90.options.base import Limit, Options, option

__all__ = ["CertificateFields", "CertificateOptions", "Codebook", "Copies", "Form", "Posterior"]

Copies = Literal["refuse", "drop"]
Form = Literal["bernstein", "betting"]
Codebook = Literal["own", "shared"]
Posterior = Literal["message", "gaussian", "draw"]
POSITIVE = Limit("more than 0", 0, open_low=True, open_high=True)


@dataclass(frozen=True, kw_only=True, repr=False)
class CertificateOptions(Options):
    """What decides a certificate beside model, task, method and training.

    Example:
        >>> d90.CertificateOptions(prior=0.5)
        CertificateOptions(prior=0.5)

    Attributes:
        dims: values of d that are tried; the message says which was taken. None: the method's own, or 100, 200 and 400, of documents
            50 and 100.
        levels: numbers of values theta may take, tried as well; None: 3, 5 and 9, of documents 3.
        prior: share of the training examples that trains the starting point, 0 for none.
        delta: 1 - confidence.
        tried: from how many alternatives outside the message (bases, seeds, structures, projections, priors, limits) this one was
            chosen; log2 of it is added. None: 1, and the store must not show more.
        prior_epochs: passes of the starting point's training.
        quantise_epochs: passes of training with few values, 0 for none; None: 2, of documents 1.
        copies: "refuse" where an example that counts stands in the prior's part as well, or "drop" all but the first of each.
        evaluated: of documents: evaluate so many of those that count, drawn before anything is seen; None for all.
        form: of documents, where all are evaluated: "bernstein" (Maurer & Pontil 2009), or "betting" (`d90.analysis.betting`), which is
            tighter; fixed before they are seen.
        codebook: of a message: the values that the numbers take are its "own", learned and sent at 16 bits each, or "shared": on both
            sides of 0, at one of 32 steps that were fixed beforehand, which five bits name.
        posterior: what the d numbers are: a "message"; a "gaussian" from which each prediction draws anew (a randomised predictor); or one
            "draw" of it. The last two are `d90.certify_gaussian`'s.
        passes: of a Gaussian: predictions of each example that estimate its training error, each batch with a draw of its own.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    dims: Sequence[int] | None = option(
        None,
        "Values of d to try, joined by commas; the method's own, or 100,200,400, for documents 50,100.",
        joined="dims",
    )
    levels: Sequence[int] | None = option(
        None, "Numbers of values theta may take, to try; 3,5,9, for documents 3.", joined="levels"
    )
    prior: float = option(
        0.0,
        "Share of the examples that trains the starting point.",
        limit=Limit("a share of the training examples, 0 <= prior < 1", 0, 1, open_high=True),
    )
    delta: float = option(
        0.05,
        "1 - confidence.",
        limit=Limit("a number inside (0, 1); 0.05 makes a bound at 95 %", 0, 1, open_low=True, open_high=True),
    )
    tried: int | None = option(
        None,
        "From how many bases, seeds, structures, projections, priors, limits this one was chosen; 1 if the store shows none.",
        limit=Limit("at least 1, this one", 1),
    )
    prior_epochs: float = option(3, "Passes that train the starting point.", limit=POSITIVE)
    quantise_epochs: float | None = option(
        None, "Passes with few values; 2, for documents 1.", limit=Limit("0 or more", 0, open_high=True)
    )
    copies: Copies = option(
        "refuse",
        "With a prior, of examples that stand in both parts: refuse them, or drop all but the first of each.",
    )
    evaluated: int | None = option(None, "Documents alone: evaluate so many of those that count; all by default.")
    form: Form = option("bernstein", "Documents alone: bernstein, or betting, which is tighter; fix it beforehand.")
    codebook: Codebook = option(
        "own", "A message's values: its own, 16 bits each, or shared ones, fixed beforehand, for 5 bits in all."
    )
    posterior: Posterior = option(
        "message",
        "What the d numbers are: a message, a gaussian that each prediction draws from anew, or one draw of it.",
    )
    passes: int = option(
        4, "Gaussian alone: predictions of each example that estimate its training error.", limit=Limit("at least 1", 1)
    )

    def check(self) -> None:
        """Refuse what no bound can be had from."""
        super().check()
        if any(values is not None and (not values or min(values) < 1) for values in (self.dims, self.levels)):
            raise InputError(f"got dims={self.dims}, levels={self.levels}, expected positive whole numbers")


class CertificateFields(TypedDict, total=False):
    """The fields of `CertificateOptions`, as keywords of a function."""

    dims: Sequence[int] | None
    levels: Sequence[int] | None
    prior: float
    delta: float
    tried: int | None
    prior_epochs: float
    quantise_epochs: float | None
    copies: Copies
    evaluated: int | None
    form: Form
    codebook: Codebook
    posterior: Posterior
    passes: int
