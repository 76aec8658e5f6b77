"""Adapters: small bottlenecks between the layers, trained while all else is frozen (Houlsby et al. 2019).

    h = y + W_up f(W_down y + b_down) + b_up        W_down (r, d), W_up (d, r) = 0 at the start;  2 d r + r + d numbers

y is the output of a sublayer before the residual connection is added. `kind` says where they stand:

    houlsby    after the output projections of attention and of the feed-forward part (AdapterH in Hu et al. 2021)
    lin        after the feed-forward part only, with a LayerNorm of its own before W_down: 2 d numbers more
               (Lin, Madotto, Fung 2020; AdapterL)
    pfeiffer   after the feed-forward part only (Pfeiffer et al. 2021; AdapterP)

With W_up = 0 the untrained model is the base, to the bit. W_down is drawn as `nn.Linear` draws, uniform within
1 / sqrt(d), so that what f sees does not depend on the model's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from d90.errors import InputError, unknown_name
from d90.methods.base import Applied, Context, Inserting
from d90.methods.targets import linear_matrices

__all__ = ["Adapter"]

KINDS = {  # the roles of the matrices it follows, whether it normalises, the nonlinearity of the released code
    "houlsby": (("o", "mlp_out"), False, "gelu"),
    "lin": (("mlp_out",), True, "relu"),
    "pfeiffer": (("mlp_out",), False, "relu"),
}
NONLINEARITIES = ("relu", "gelu", "silu", "tanh")
REDUCTION = 16  # d / r where neither is given


@dataclass(frozen=True)
class Adapter(Inserting):
    """`r` numbers wide, or d / `reduction`; `nonlinearity` is the kind's own where it is not given."""

    name: ClassVar[str] = "adapter"
    summary: ClassVar[str] = "bottlenecks of width r in every block, and the head; kind=houlsby, lin or pfeiffer"
    merges: ClassVar[bool] = False
    adds: ClassVar[str] = "two layers behind sublayers of every block"

    kind: Literal["houlsby", "lin", "pfeiffer"] = "houlsby"
    r: int | None = None
    reduction: int | None = None
    nonlinearity: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        r, reduction = self.r, self.reduction
        if r is not None and reduction is not None:
            raise InputError(f"adapter: got r={r} and reduction={reduction}, expected one: r is d / reduction")
        if r is None and reduction is None:
            reduction = REDUCTION
        for key, value in (("r", r), ("reduction", reduction)):
            if value is not None and value < 1:
                raise InputError(f"adapter: got {key}={value}, expected a whole number of at least 1")
        nonlinearity = self.nonlinearity or KINDS[self.kind][2]
        if nonlinearity not in NONLINEARITIES:
            raise unknown_name("nonlinearity of adapter", nonlinearity, NONLINEARITIES)
        self._settle(reduction=reduction, nonlinearity=nonlinearity)

    def insert(self, applied: Applied, context: Context) -> None:
        from torch import nn

        from d90.methods.modules import Bottleneck

        wanted, normed, _ = KINDS[self.kind]
        have = linear_matrices(applied.model)
        found = [matrix for matrix in have if matrix.role in wanted]
        missing = [role for role in wanted if not any(matrix.role == role for matrix in found)]
        if missing:
            roles_there = ", ".join(dict.fromkeys(matrix.role for matrix in have if matrix.role)) or "none"
            lasts = ", ".join(dict.fromkeys(matrix.name.rpartition(".")[2] for matrix in have))
            raise InputError(
                f"'{self}' looked for the output projections of the blocks' sublayers (roles {', '.join(wanted)}) and found no "
                f"{', '.join(missing)}; this model has the roles {roles_there} and modules called {lasts}. "
                "Choose another kind, or lora, bitfit, full"
            )
        for matrix in found:
            width, weight = matrix.sizes[1], matrix.module.weight
            bottleneck = Bottleneck(width, self._r(width), normed, str(self.nonlinearity), weight)
            name = matrix.name.removesuffix(".base_layer")  # behind peft's wrapper, where there is one
            bottleneck.start(name, context.seed)
            module, owner = applied.model.get_submodule(name), applied.model.get_submodule(name.rpartition(".")[0])
            # beside the matrix and not under it, where peft would lose it when it wraps the matrix
            owner = module if isinstance(owner, nn.Sequential) else owner
            key = f"{name.rpartition('.')[2]}_adapter"
            owner.add_module(key, bottleneck)
            applied.undo.append(partial(delattr, owner, key))
            applied.undo.append(module.register_forward_hook(bottleneck.behind).remove)

    def _r(self, width: int) -> int:
        if self.r is None:
            reduction = self.reduction or REDUCTION
            r, said = width // reduction, f"reduction={reduction}"
        else:
            r, said = self.r, f"r={self.r}"
        if not 1 <= r <= width:
            raise InputError(
                f"adapter: got {said}, but the sublayers of this model give {width} numbers for a token; expected r of "
                f"1 ... {width}, as reduction of 1 ... {width}: a wider layer is no bottleneck"
            )
        return r
