"""LoRA: a low-rank change of chosen matrices (Hu et al. 2021, section 4.1), with peft's layers.

    h = W_0 x + (alpha / r) B A x        with rslora (Kalajdzievski 2023) alpha / sqrt(r) in place of alpha / r

A (r, inputs), B (outputs, r) = 0 at the start;  2 d r numbers a d x d matrix

The draw of A: `init=code`, uniform within 1 / sqrt(inputs), as the released code and peft have it; `init=paper`, Gaussian,
whose width the paper does not give: 1 / r, as peft's "gaussian".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from d90.errors import InputError
from d90.methods.base import Applied, Context, Inserting
from d90.methods.peft import inject
from d90.methods.targets import DEFAULT_TARGETS, fallback_targets, find_targets

__all__ = ["LoRA"]


@dataclass(frozen=True)
class LoRA(Inserting):
    """h = W_0 x + (alpha / r) B A x for the target matrices.

    Attributes:
        r: the rank.
        alpha: r where it is not given.
        targets: as `d90.methods.targets` reads them.
        init: how A is drawn.
        rslora: whether the change is scaled by alpha / sqrt(r), which keeps its size as r grows.
    """

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "a change of rank r of the target matrices, and the head"

    r: int = 8
    alpha: int | None = None
    targets: str = DEFAULT_TARGETS
    init: Literal["code", "paper"] = "code"
    rslora: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r < 1:
            raise InputError(f"lora: got r={self.r}, expected a rank of at least 1")
        if self.alpha is None:
            self._settle(alpha=self.r)

    def insert(self, applied: Applied, context: Context) -> None:
        import torch
        from peft import LoraConfig

        from d90.models.fresh import draw

        r, paper = self.r, self.init == "paper"
        found = find_targets(applied.model, self.targets)
        by_structure = fallback_targets(applied.model, self.targets)
        if by_structure is not None:
            found = [
                matrix for matrix in found if min(matrix.sizes) >= r
            ] or found  # a router's few outputs are left out
            context.note(by_structure[1])
        small = next((matrix for matrix in found if min(matrix.sizes) < r), None)
        if small is not None:
            raise InputError(
                f"lora: got r={r}, but '{small.name}' has {small.sizes[0]} inputs and {small.sizes[1]} outputs; expected "
                f"r of at most {min(small.sizes)}: above it a change of any rank takes fewer numbers. Lower r, or use full"
            )
        if len({matrix.transposed for matrix in found}) > 1:
            raise InputError(
                "lora: the targets mix linear layers and transposed ones (Conv1D); expected one kind. Name fewer targets"
            )
        names = [matrix.name for matrix in found]
        config = LoraConfig(
            r=r, lora_alpha=self.alpha, target_modules=names, fan_in_fan_out=found[0].transposed, use_rslora=self.rslora
        )
        inject(self, applied, config)
        for matrix in found:
            layer: Any = applied.model.get_submodule(matrix.name)
            weight = layer.lora_A["default"].weight
            if not weight.is_meta:
                drawn = draw(f"lora.A:{matrix.name}", weight.shape, context.seed, uniform=not paper)
                with torch.no_grad():
                    weight.copy_(drawn / (r if paper else math.sqrt(weight.shape[1])))
