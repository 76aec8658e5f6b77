"""The options of a subspace: one shape for files, methods, peft configurations and constructors."""

from __future__ import annotations

import operator
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, get_args

from d90.errors import InputError, unknown_name
from d90.projections import resolve

__all__ = [
    "HEADS",
    "LAYERS",
    "SCALES",
    "STEP_RULE",
    "STEP_RULES",
    "STRUCTURES",
    "Head",
    "Layer",
    "Scale",
    "Structure",
    "SubspaceOptions",
    "option_help",
]

Structure = Literal["did", "said"]
Scale = Literal["tensor", "global", "relative"]
Layer = Literal["block", "module", "tensor"]
Head = Literal["inside", "outside"]

STRUCTURES: tuple[str, ...] = get_args(Structure)
SCALES: tuple[str, ...] = get_args(Scale)
LAYERS: tuple[str, ...] = get_args(Layer)
HEADS: tuple[str, ...] = get_args(Head)
STEP_RULES = (1, 2)  # theta's unit: `layout.step_factor`, and from rule 2 on `layout.balance` as well
STEP_RULE = STEP_RULES[-1]

_CLOSED = {"structure": STRUCTURES, "scale": SCALES, "layer": LAYERS, "head": HEADS}


@dataclass(frozen=True)
class SubspaceOptions:
    """What fixes a subspace besides the model and d.

        d90.Subspace(model, d=200, options=SubspaceOptions(structure="said", seed=1))
        d90.Subspace(model, d=200, structure="said", seed=1)      # the same

    Example:
        >>> d90.SubspaceOptions(structure="said").scale
        'tensor'

    Attributes:
        structure: "did", or "said" for a learned scale per layer.
        projection: "fastfood", "dense", "sparse", "onehot", "kronecker" or one that was registered, with its entries after a colon
            ("fastfood:gaussian").
        scale: "tensor", "global" or "relative": how far a tensor moves (`layout.tensor_scale`).
        layer: "block", "module" or "tensor": what a layer is, for "said".
        head: "inside", or "outside" to train the head's own parameters beside theta.
        seed: the seed of P, 64 bits.
        step_rule: the version of theta's unit; 2 differs from 1 at the scales "global" and "relative" (`layout.balance`).

    Raises:
        InputError: a name outside a closed list, an unknown projection, a seed outside 64 bits.
    """

    structure: Structure = field(default="did", metadata={"help": "did, or said for a learned scale per layer"})
    projection: str = field(
        default="fastfood", metadata={"help": "the random map P, with its entries after a colon: fastfood:gaussian"}
    )
    scale: Scale = field(default="tensor", metadata={"help": "how far each tensor moves: tensor, global or relative"})
    layer: Layer = field(default="block", metadata={"help": "what a layer is under said: block, module or tensor"})
    head: Head = field(
        default="inside", metadata={"help": "inside, or outside to train the head's own parameters beside theta"}
    )
    seed: int = field(default=0, metadata={"help": "the seed of P, 64 bits"})
    step_rule: int = field(default=STEP_RULE, metadata={"help": "the version of theta's unit"})

    def __post_init__(self) -> None:
        for name, known in _CLOSED.items():
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        resolve(self.projection)
        try:
            object.__setattr__(self, "seed", operator.index(self.seed))  # numpy's integers too
        except TypeError:
            raise InputError(f"got seed={self.seed!r}, expected a whole number") from None
        if not 0 <= self.seed < 1 << 64:
            raise InputError(f"got seed={self.seed}, expected a 64-bit number, 0 <= seed < 2^64")
        if isinstance(self.step_rule, bool) or self.step_rule not in STEP_RULES:
            raise unknown_name("step_rule", self.step_rule, STEP_RULES)


def option_help(name: str) -> str:
    """The help text of an option, for a command line or another configuration that shows it."""
    found: dict[str, Field[Any]] = {one.name: one for one in fields(SubspaceOptions)}
    return str(found[name].metadata["help"])
