"""The options of a subspace: one shape for files, methods, peft configurations and constructors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from d90.errors import unknown_name
from d90.options.base import Limit, Options, fields_of, option
from d90.projections import check_name

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
    "SubspaceFields",
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


@dataclass(frozen=True, repr=False)
class SubspaceOptions(Options):
    """What fixes a subspace besides the model and d.

        d90.Subspace(model, d=200, options=SubspaceOptions(structure="said", seed=1))
        d90.Subspace(model, d=200, structure="said", seed=1)      # the same; a keyword replaces the options' field

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

    structure: Structure = option("did", "did, or said for a learned scale per layer")
    projection: str = option("fastfood", "the random map P, with its entries after a colon: fastfood:gaussian")
    scale: Scale = option("tensor", "how far each tensor moves: tensor, global or relative")
    layer: Layer = option("block", "what a layer is under said: block, module or tensor")
    head: Head = option("inside", "inside, or outside to train the head's own parameters beside theta")
    seed: int = option(
        0, "the seed of P, 64 bits", limit=Limit("a 64-bit number, 0 <= seed < 2^64", 0, 1 << 64, open_high=True)
    )
    step_rule: int = option(STEP_RULE, "the version of theta's unit")

    def check(self) -> None:
        """Refuse what cannot be."""
        check_name(self.projection)
        super().check()
        if self.step_rule not in STEP_RULES:
            raise unknown_name("step_rule", self.step_rule, STEP_RULES)


class SubspaceFields(TypedDict, total=False):
    """The fields of `SubspaceOptions`, as keywords of a function."""

    structure: Structure
    projection: str
    scale: Scale
    layer: Layer
    head: Head
    seed: int
    step_rule: int


def option_help(name: str) -> str:
    """The help text of an option, for a command line or another configuration that shows it."""
    return fields_of(SubspaceOptions)[name].help
