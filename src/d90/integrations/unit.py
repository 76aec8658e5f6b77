"""The unit of a regression's values put into a model's last linear layer, for those who use the model without d90."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from d90.errors import InputError

__all__ = ["fold_unit", "head_of_values", "unit_in_head"]

PROBE = ((1, 2, 3), (3, 1, 2))  # token ids that every vocabulary has


def head_of_values(module: nn.Module) -> nn.Linear | None:
    """The linear layer whose one output is the model's; None where there is no such layer.

    It is looked for by what it does: with a weight of 0 and a bias of 1 in it the model puts out 1, whatever its input.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features == 1 and m.bias is not None]
    for layer in layers:
        before = layer.weight.detach().clone(), layer.bias.detach().clone()
        try:
            layer.weight.data.zero_()
            layer.bias.data.fill_(1.0)
            ones = _outputs(module)
            layer.bias.data.fill_(-2.0)
            if bool((ones == 1.0).all()) and bool((_outputs(module) == -2.0).all()):
                return layer
        finally:
            layer.weight.data.copy_(before[0])
            layer.bias.data.copy_(before[1])
    return None


def fold_unit(module: nn.Module, mean: float, deviation: float, path: str | os.PathLike[str]) -> nn.Linear:
    """Let a model that puts out z put out mean + deviation z: w <- deviation w, b <- deviation b + mean.

    Args:
        path: of the tune, for the error.

    Returns:
        The layer that was changed.

    Raises:
        InputError: the model's output is not that of a linear layer with a bias.
    """
    layer = _layer(module, mean, deviation, path)
    with torch.no_grad():
        layer.weight.mul_(deviation)
        layer.bias.mul_(deviation).add_(mean)
    return layer


def unit_in_head(
    module: nn.Module, head: Mapping[str, Tensor], mean: float, deviation: float, path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The same for a head's tensors that are written apart from the module, by their names in it.

    Raises:
        InputError: as `fold_unit`; a layer that is not among them.
    """
    layer = _layer(module, mean, deviation, path)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    weight, bias = names[id(layer.weight)], names[id(layer.bias)]
    if not {weight, bias} <= head.keys():
        raise InputError(
            f"'{path}' is of a regression, and the folder does not hold '{weight}', into which the unit of the values would go; "
            "expected a tune that trains the head. Merge it instead: d90 merge"
        )
    return {**head, weight: head[weight] * deviation, bias: head[bias] * deviation + mean}


def _layer(module: nn.Module, mean: float, deviation: float, path: str | os.PathLike[str]) -> nn.Linear:
    layer = head_of_values(module)
    if layer is None:
        raise InputError(
            f"'{path}' is of a regression, and the output of {type(module).__name__} is not that of a linear layer with a bias, which "
            f"could hold the mean {mean:.6g} and deviation {deviation:.6g} of the labels; expected one. Predict with the tune itself: "
            f"d90 predict {path}"
        )
    return layer


@torch.no_grad()
def _outputs(module: nn.Module) -> Tensor:
    mode = module.training
    module.eval()
    device = next(module.parameters()).device
    try:
        found: Tensor = module(input_ids=torch.tensor(PROBE, device=device)).logits
        return found
    finally:
        module.train(mode)
