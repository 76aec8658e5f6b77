"""PreEmbed: trained embeddings in front of the text (prefix) and behind it (infix) (Hu et al. 2021, section 5.1).

    E(x) = [p_1 ... p_{l_p}, E(x_1) ... E(x_n), i_1 ... i_{l_i}]        d_model (l_p + l_i) numbers

Where they stand, and what becomes of masks, positions, labels and caches: `d90.methods.prompt`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from d90.methods.base import Applied, Context, Inserting
from d90.methods.prompt import Vectors, check_sizes, lengthen, std_of, transformer_under

__all__ = ["PreEmbed"]


class PreEmbed(Inserting):
    """`prefix` and `infix` positions, drawn as the model draws its own embeddings."""

    name = "preembed"
    summary = "embeddings of prefix and infix positions around the text, and the head"
    options = {"prefix": (int, 8), "infix": (int, 0)}  # noqa: RUF012
    merges = False
    starts_at_base = False
    adds = "positions to every text"

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        check_sizes(self.name, self.values["prefix"], self.values["infix"])

    def insert(self, applied: Applied, context: Context) -> None:
        prefix, infix = self.values["prefix"], self.values["infix"]
        base = transformer_under(str(self), applied.model, prefix + infix)
        embedding = base.get_input_embeddings()
        name = f"preembed:{applied.model.base_model_prefix}"
        vectors = Vectors(
            name, prefix + infix, embedding.embedding_dim, embedding.weight, std_of(base.config), context.seed
        )
        base.add_module("preembed", vectors)
        applied.undo.append(partial(delattr, base, "preembed"))
        lengthen(str(self), applied, prefix, infix, vectors)
