"""Where a transformer's matrices are: q, k, v, o and mlp, found by the names that Hugging Face's models give them.

    q, k, v    attention projections         qkv   the three in one matrix (GPT-2, NeoX, BLOOM, ModernBERT)
    o          attention output              mlp   the feed-forward matrices; the last of them is the block's output

Targets in the grammar: letters of qkvo, "mlp", "all" (every one of these), or the last parts of modules' names, joined
by "/", as targets=qv, targets=qkvo/mlp, targets=query/value. In a model whose q and v no table names, targets=qv, the default, is
decided by structure: the whole fused matrix, else the linear layers of its attention, else those of its blocks (`fallback_targets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from d90.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DEFAULT_TARGETS",
    "Matrix",
    "fallback_targets",
    "find_targets",
    "hidden_size",
    "linear_matrices",
    "transformer_blocks",
]

DEFAULT_TARGETS = "qv"

# The last part of a module's name, or the last two or three where one is not enough; the longest that matches counts.
_NAMES = {
    "q": "query q_proj q_lin query_proj q q_head Wq",
    "k": "key k_proj k_lin key_proj k k_head Wk",
    "v": "value v_proj v_lin value_proj v v_head Wv",
    "qkv": "c_attn query_key_value qkv_proj qkv Wqkv in_proj",
    "o": "attention.output.dense attention.dense self_attention.dense self_attn.dense out_proj o_proj out_lin o attn.c_proj attn.Wo "
    "post_proj",
    "mlp_in": "intermediate.dense fc1 lin1 c_fc gate_proj up_proj gate_up_proj wi wi_0 wi_1 dense_h_to_4h fc_in ffn mlp.Wi",
    "mlp_out": "output.dense fc2 lin2 mlp.c_proj down_proj wo dense_4h_to_h fc_out ffn_output mlp.Wo",
}
_ROLE = {name: role for role, names in _NAMES.items() for name in names.split()}


@dataclass(frozen=True)
class Matrix:
    """A linear module of a block.

    Attributes:
        name: of the module.
        module: an `nn.Linear`, or GPT-2's Conv1D, whose weight is transposed.
        role: q, k, v, qkv, o, mlp_in, mlp_out, or "" for one that no table names.
        block: name of the block it is in.
    """

    name: str
    module: nn.Module
    role: str
    block: str

    @property
    def transposed(self) -> bool:
        """Whether the weight is (inputs, outputs), as in Conv1D."""
        from torch import nn

        return not isinstance(self.module, nn.Linear)

    @property
    def sizes(self) -> tuple[int, int]:
        """(inputs, outputs)."""
        rows, columns = self.module.weight.shape  # type: ignore[misc]
        return (rows, columns) if self.transposed else (columns, rows)


def transformer_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The transformer's blocks: the members of every ModuleList that lies in no other and holds linear modules.

    Raises:
        InputError: the model has none.
    """
    from torch import nn

    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{block}.") for block, _ in found)
        if isinstance(module, nn.ModuleList) and not inside and any(map(_is_linear, module.modules())):
            found += [(f"{name}.{key}", block) for key, block in module.named_children()]
    if not found:
        raise InputError(
            "looked for the blocks of a transformer, a ModuleList that holds linear layers, and this model has none; it has "
            f"{', '.join(dict.fromkeys(type(m).__name__ for m in model.modules()))}. Choose full, bitfit, sparse, or a subspace."
        )
    return found


def linear_matrices(model: nn.Module) -> list[Matrix]:
    """Every linear module inside the blocks, in the model's order."""
    return [
        # one that peft has wrapped keeps its role under the wrapper's name
        Matrix(f"{block}.{name}", module, _role(f"{block}.{name}".removesuffix(".base_layer")), block)
        for block, part in transformer_blocks(model)
        for name, module in part.named_modules()
        if _is_linear(module)
    ]


def fallback_targets(model: nn.Module, targets: str) -> tuple[list[Matrix], str] | None:
    """What the default, "qv", means in a model whose q and v no table names, and how to say so; None where names suffice."""
    have = linear_matrices(model)
    roles = {matrix.role for matrix in have}
    if targets != DEFAULT_TARGETS or {"q", "v"} <= roles or not have:
        return None
    fused = [matrix for matrix in have if matrix.role == "qkv"]
    if fused:
        last = fused[0].name.rpartition(".")[2]
        return (
            fused,
            f"targets={targets}: this model holds q, k and v in one matrix ({last}), and the whole of it is adapted",
        )
    inside = [matrix for matrix in have if "att" in matrix.name.removeprefix(matrix.block).lower()]
    found, where = (inside, "its attention") if inside else (have, "its blocks")
    lasts = ", ".join(dict.fromkeys(matrix.name.rpartition(".")[2] for matrix in found))
    return (
        found,
        f"targets={targets}: no table names this model's q and v, so the linear layers of {where} are adapted ({lasts})",
    )


def find_targets(model: nn.Module, targets: str) -> list[Matrix]:
    """The matrices that `targets` names.

    Raises:
        InputError: a name that matches nothing, or a role that is one third of a fused matrix; with what the model has.
    """
    have = linear_matrices(model)
    by_structure = fallback_targets(model, targets)
    if by_structure is not None:
        return by_structure[0]
    roles = {matrix.role for matrix in have}
    chosen: dict[str, Matrix] = {}
    for part in targets.split("/"):
        found = [matrix for matrix in have if _matches(matrix, part)]
        if part and set(part) <= set("qkvo"):
            lone = [role for role in part if role not in roles and not (role in "qkv" and set("qkv") <= set(part))]
            if "qkv" in roles and any(role in "qkv" for role in lone):
                fused = next(matrix.name for matrix in have if matrix.role == "qkv")
                raise InputError(
                    f"targets={targets}: '{''.join(lone)}' is ambiguous, for this model holds q, k and v in one matrix ('{fused}'); "
                    "expected all three: targets=qkv"
                )
            if lone:
                raise _nothing(targets, "".join(lone), have)
        if not found:
            raise _nothing(targets, part, have)
        chosen |= {matrix.name: matrix for matrix in found}
    return [matrix for matrix in have if matrix.name in chosen]


def hidden_size(model: nn.Module) -> int:
    """d_model: how many numbers a block takes for each token."""
    have = linear_matrices(model)
    outputs = [matrix.sizes[1] for matrix in have if matrix.role in ("o", "mlp_out")]
    return outputs[0] if outputs else have[0].sizes[0]


def _matches(matrix: Matrix, part: str) -> bool:
    if part == "all":
        return matrix.role != ""
    if part == "mlp":
        return matrix.role.startswith("mlp")
    if part and set(part) <= set("qkvo"):
        return matrix.role in set(part) if matrix.role != "qkv" else set("qkv") <= set(part)
    return bool(part) and f".{matrix.name}".endswith(f".{part}")


def _nothing(targets: str, part: str, have: list[Matrix]) -> InputError:
    roles = [role for role in _NAMES if any(matrix.role == role for matrix in have)]
    lasts = list(dict.fromkeys(matrix.name.rpartition(".")[2] for matrix in have))
    return InputError(
        f"targets={targets}: '{part}' matches no linear module of this model's blocks; expected letters of qkvo, mlp, all, or the "
        f"end of a module's name. It has the roles {', '.join(roles) or 'none'} and modules called {', '.join(lasts)}."
    )


def _role(name: str) -> str:
    parts = name.split(".")
    for length in (3, 2, 1):
        role = _ROLE.get(".".join(parts[-length:]))
        if role:
            return role
    return ""


def _is_linear(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
