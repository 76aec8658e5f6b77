"""What a certificate says of the ground it stands on, so that a check finds the same ground again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from d90.files import Json
from d90.options.certificate import Copies
from d90.subspace.fingerprint import Base

__all__ = ["Definitions"]


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """The ground of a certificate; what an earlier version did not say is empty or None.

    Attributes:
        dims, levels: what was tried.
        prior, prior_epochs, quantise_epochs, copies: as in `d90.CertificateOptions`.
        tried: the alternatives that are paid for.
        task, examples, first_example: fingerprint of the task, how many training examples it has, and a hash of the first.
        base: fingerprint of the base.
        start, start_parts: the starting point's weights, and all its parts.
        posterior, passes: of a Gaussian: what is certified, and how many draws each example is predicted with.
        alphas, among: of a language model: what smooths, and how many pairs of a model and an alpha were evaluated.
        d90, torch, numpy, python, machine, threads: where it was made.
    """

    dims: tuple[int, ...]
    levels: tuple[int, ...]
    prior: float
    tried: int
    prior_epochs: float
    quantise_epochs: float | None = None
    copies: Copies = "refuse"
    task: str
    examples: int | None = None
    first_example: str | None = None
    base: str
    start: str
    start_parts: Base | None = None
    posterior: str = ""
    passes: int | None = None
    alphas: tuple[float, ...] | None = None
    among: int | None = None
    d90: str = ""
    torch: str = ""
    numpy: str = ""
    python: str = ""
    machine: str = ""
    threads: int | None = None

    def messages(self, alphas: int) -> int:
        """How many pairs of a model and one of so many alphas a search evaluates, with the alternatives that it pays for."""
        return (1 + len(self.dims) * len(self.levels)) * alphas * self.tried

    def to_dict(self) -> Json:
        """As it is stored: what is known."""
        body = asdict(self) | {"dims": list(self.dims), "levels": list(self.levels)}
        body |= {"alphas": list(self.alphas)} if self.alphas is not None else {}
        return {name: value for name, value in body.items() if value is not None and value != ""}

    @classmethod
    def from_dict(cls, body: Json) -> Definitions:
        """From what was stored, by this version or another.

        Raises:
            KeyError, TypeError, ValueError: a field that is missing or of another type.
        """
        known = {one.name: body[one.name] for one in fields(cls) if one.name in body}
        if known.get("copies", "refuse") not in ("refuse", "drop"):
            raise ValueError(f"its copies are {known['copies']!r:.40}, expected refuse or drop")
        parts, alphas, among = known.get("start_parts"), known.get("alphas"), known.get("among")
        if among is not None and (not isinstance(among, int) or isinstance(among, bool)):
            raise TypeError(f"its among is {among!r:.40}, expected a whole number")
        return cls(
            **known
            | {
                "dims": tuple(map(int, body["dims"])),
                "levels": tuple(map(int, body["levels"])),
                "prior": float(body["prior"]),
                "prior_epochs": float(body["prior_epochs"]),
                "tried": int(body["tried"]),
                "task": str(body["task"]),
                "start": str(body["start"]),
                "start_parts": None if parts is None else Base.from_dict(parts),
                "alphas": None if alphas is None else tuple(alphas),
            }
        )
