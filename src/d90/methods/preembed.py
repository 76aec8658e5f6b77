"""PreEmbed: trained embeddings in front of the text (prefix) and behind it (infix) (Hu et al. 2021, section 5.1).

    E(x) = [p_1 ... p_{l_p}, E(x_1) ... E(x_n), i_1 ... i_{l_i}]        d_model (l_p + l_i) numbers

Where they stand, and what becomes of masks, positions, labels and caches: `d90.methods.inserted_positions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from d90.methods.base import Applied, Context
from d90.methods.prompt import Prompt

__all__ = ["PreEmbed"]


@dataclass(frozen=True)
class PreEmbed(Prompt):
    """`prefix` and `infix` positions, drawn as the model draws its own embeddings."""

    name: ClassVar[str] = "preembed"
    summary: ClassVar[str] = "embeddings of prefix and infix positions around the text, and the head"

    def insert(self, applied: Applied, context: Context) -> None:
        from d90.methods.inserted_positions import Vectors, insert_positions, std_of, transformer_under

        prefix, infix = self.prefix, self.infix
        base = transformer_under(str(self), applied.model, prefix + infix)
        embedding = base.get_input_embeddings()
        name = f"preembed:{applied.model.base_model_prefix}"
        vectors = Vectors(
            name, prefix + infix, embedding.embedding_dim, embedding.weight, std_of(base.config), context.seed
        )
        base.add_module("preembed", vectors)
        applied.undo.append(partial(delattr, base, "preembed"))
        insert_positions(str(self), applied, prefix, infix, vectors)
