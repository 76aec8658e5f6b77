"""PreLayer: trained activations at the prefix and infix positions of every layer (Hu et al. 2021, section 5.1).

    h_l[p_1 ... p_{l_p}, i_1 ... i_{l_i}] = V_l    in front of every layer l        L d_model (l_p + l_i) numbers

The paper replaces the activations after each layer. Here those in front of each of the L layers are replaced, the
embeddings' included: as many numbers, and none is without a gradient, as those after the last layer would be.
It is not peft's prefix tuning, which trains keys and values. In a decoder that classifies nothing follows the infix, and
its vectors below the last layer are without effect: give such a model a prefix.
Where the positions stand: `d90.methods.inserted_positions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from d90.methods.base import Applied, Context
from d90.methods.prompt import Prompt
from d90.methods.targets import hidden_size, transformer_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from d90.methods.inserted_positions import Call, InsertedPositions, Vectors

__all__ = ["PreLayer"]


@dataclass(frozen=True)
class PreLayer(Prompt):
    """`prefix` and `infix` positions, drawn as the model draws its own embeddings."""

    name: ClassVar[str] = "prelayer"
    summary: ClassVar[str] = "activations of prefix and infix positions in every layer, and the head"

    def insert(self, applied: Applied, context: Context) -> None:
        from d90.methods.inserted_positions import Vectors, insert_positions, std_of, transformer_under

        prefix, infix = self.prefix, self.infix
        base = transformer_under(str(self), applied.model, prefix + infix)
        width, like = hidden_size(applied.model), base.get_input_embeddings().weight
        inside = {id(module) for module in base.modules()}  # of an encoder-decoder the encoder's blocks alone
        blocks = [(name, block) for name, block in transformer_blocks(applied.model) if id(block) in inside]
        inserted = insert_positions(str(self), applied, prefix, infix)
        for name, block in blocks:
            start = Vectors(f"prelayer:{name}", prefix + infix, width, like, std_of(base.config), context.seed)
            block.add_module("prelayer", start)
            applied.undo.append(partial(delattr, block, "prelayer"))
            hook = Replacement(start, inserted).before
            applied.undo.append(block.register_forward_pre_hook(hook, with_kwargs=True).remove)


class Replacement:
    """The hook of one layer."""

    def __init__(self, trained: Vectors, inserted: InsertedPositions) -> None:
        self.trained, self.inserted = trained, inserted

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Replace what goes in at the trained positions."""
        if self.inserted.place is None:  # a pass over what follows a cached one
            return args, kwargs
        if args:
            return (self._replaced(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._replaced(kwargs["hidden_states"])}

    def _replaced(self, states: Tensor) -> Tensor:
        import torch

        assert self.inserted.place is not None
        slots = self.inserted.place.slots.to(states.device)
        rows = torch.arange(len(states), device=states.device)[:, None]
        vectors = self.trained.vectors.to(states.dtype)
        return states.index_put((rows, slots), vectors.expand(len(states), -1, -1))
