"""BitFit: the biases and the head move (Ben Zaken, Ravfogel, Goldberg 2021)."""

from __future__ import annotations

from torch import nn

from d90.errors import InputError
from d90.layout import head_tensors
from d90.methods.base import Method

__all__ = ["BitFit"]


class BitFit(Method):
    """Delta is zero outside the parameters called bias and the head's own."""

    name = "bitfit"
    summary = "the biases and the head move"

    def chosen(self, model: nn.Module) -> set[str]:
        names = [name for name, _ in model.named_parameters()]
        biases = {name for name in names if name.rpartition(".")[2] == "bias"}
        if not biases:
            raise InputError(
                "bitfit looked for parameters called 'bias' and this model has none (many decoders have no biases); "
                f"it has {', '.join(sorted({name.rpartition('.')[2] for name in names}))}. Choose another method."
            )
        return biases | set(head_tensors(model, names))
