"""What a certificate of a Gaussian is: the Gaussians that were trained, what their draws get wrong, and what is guaranteed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from d90.analysis import bounds
from d90.analysis.posterior import TEMPERATURES, best_temperature, catoni_upper
from d90.certificates.certificate import BaseCertificate, CodedTune, OfErrors

__all__ = ["DrawnTune", "GaussianCertificate"]


@dataclass(frozen=True, kw_only=True)
class DrawnTune(CodedTune):
    """A Gaussian over d numbers, what it costs, and what its draws get wrong.

    Attributes:
        posterior: "gaussian" or "draw"; "" for no change.
        width, temperature: their places in `WIDTHS` and `TEMPERATURES`.
        errors, predictions: how many predictions were wrong, of how many.
        batch, histogram: predictions that shared a draw, and how many draws got 0 ... batch of them wrong; 0 and empty where nothing
            is estimated by draws.
        error_bound: on the training error of Q; the error itself where nothing is estimated.
        payload: mean and sigma (`Gaussian.to_hex`).
    """

    posterior: str = ""
    width: int = 0
    temperature: int = 0
    errors: int
    predictions: int
    batch: int = 0
    histogram: tuple[int, ...] = field(default=())
    error_bound: float

    @property
    def error(self) -> float:
        """The share of wrong predictions."""
        return self.errors / self.predictions

    @property
    def certified(self) -> str:
        """What is certified, in words."""
        worth = f"a Gaussian worth {self.bits:,.0f} bits"
        if self.posterior == "gaussian":
            return f"a randomised predictor: each prediction draws d = {self.d:,} numbers anew, from {worth}"
        return f"d = {self.d:,} numbers drawn once, from {worth}" if self.posterior else super().certified

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> DrawnTune:
        """What `dataclasses.asdict` gave, as JSON keeps it.

        Raises:
            TypeError: fields that are missing or unknown, or of the wrong type.
        """
        found = super().from_dict(body)
        return replace(found, histogram=tuple(map(int, found.histogram)))

    def bounded(self, n: int, delta: float) -> DrawnTune:
        """With its bound on n examples, at confidence 1 - delta."""
        if not self.posterior:
            return replace(self, bound=bounds.binomial_upper(self.errors, n, delta, self.bits))
        best = best_temperature(self.error_bound, n, delta, self.bits)
        bound = catoni_upper(self.error_bound, n, TEMPERATURES[best], delta, self.bits)
        return replace(self, temperature=best, bound=bound)


@dataclass(frozen=True, kw_only=True)
class GaussianCertificate(OfErrors, BaseCertificate[DrawnTune]):
    """What is guaranteed about a predictor that is drawn, with everything needed to check it again.

    Example:
        >>> found = d90.certify_gaussian(model, task, dims=[10], epochs=1, passes=1)
        >>> found.error <= found.error_bound <= found.bound
        True

    Attributes:
        posterior: "gaussian": each prediction draws its numbers anew; "draw": they were drawn once.
        error, error_bound: training error of the predictor, and the bound on it where it is estimated by draws.
        bound: on the true error, as a share of 1, at confidence 1 - delta.
        test_error: on examples that no choice has seen, one prediction for each.
        majority: the error of always giving the most frequent class; of answers and tags, the commonest one.
    """

    tune_type: ClassVar[type[CodedTune]] = DrawnTune

    posterior: str
    error: float
    error_bound: float
    test_error: float
    majority: float

    def __str__(self) -> str:
        return self.sentence(self.certified)
