"""A subspace under the transformers Trainer, or accelerate: two lines more than without.

    space = d90.Subspace(model, d=200)
    trainer = Trainer(model=SubspaceModel(space), ...)

Checkpoints then hold the tune and not the model, and a resumed run ends bit for bit where an uninterrupted one does. The
model must be there again to resume: the same base, d, seed and options, or the checkpoint is refused.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.subspace.buffers import PREFIX
from d90.subspace.distributed import digest, refuse_wrapped
from d90.subspace.subspace import Subspace

__all__ = ["SubspaceModel"]


class SubspaceModel(nn.Module):
    """The model under a `Subspace` as a module whose parameters and state are the tune alone.

    Its state dict: `theta` (d,), `mark` (1,) which ties it to the base and P, the head where it is outside, running
    statistics. What it does not have itself is asked of the model (`config`, `generate`, ...); `save_pretrained` writes
    the whole tuned model.

    Args:
        space: keeps theta_0 (`keep_theta0=True`): without it rounding depends on the way, and a resumed run would differ.
        decay: let the Trainer's `weight_decay` pull theta towards 0, that is the weights towards theta_0. It knows a
            parameter by its name and decays none called bias, so that is theta's name otherwise.

    Raises:
        InputError: a space without theta_0; from `load_state_dict`, the state of another subspace.
        UnsupportedModelError: from a forward pass, on several processes under DistributedDataParallel or FSDP.
    """

    def __init__(self, space: Subspace, decay: bool = False) -> None:
        super().__init__()
        if space._weights.theta_0 is None:
            raise InputError(
                "got a Subspace with keep_theta0=False, expected theta_0 kept: a run resumed from a checkpoint would differ"
            )
        self.__dict__["space"] = space  # with the model in it, which must not be a part: parts are counted and saved
        self.register_parameter("theta" if decay else "theta_bias", space.theta)
        outside = {id(p) for p in space.parameters()} - {id(space.theta)}
        heads = {n: m for n, m in space.model.named_children() if outside & {id(p) for p in m.parameters()}}
        if heads:
            self.head = nn.ModuleDict(heads)
        settings = repr((space.d, space.header()))
        self._mark = torch.tensor([int(digest(settings, ())[:15], 16)])
        # the Trainer reads columns, labels and the kind of task off a class: off its forward's signature and its name
        kind = type(space.model)

        def forward(self: SubspaceModel, *args: Any, **kwargs: Any) -> Any:
            return SubspaceModel.forward(self, *args, **kwargs)

        forward.__signature__ = inspect.signature(kind.forward)  # type: ignore[attr-defined]
        self.__class__ = type(f"Subspace{kind.__name__}", (SubspaceModel,), {"forward": forward})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs."""
        refuse_wrapped(self, ())
        return self.space.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["space"].model, name)

    def train(self, mode: bool = True) -> SubspaceModel:
        """Set the model's mode."""
        self.space.model.train(mode)
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> SubspaceModel:
        self.space.model._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, tensor in self._held().items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        destination[f"{prefix}mark"] = self._mark

    @torch.no_grad()
    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        mark, theta = (state_dict.get(f"{prefix}{name}") for name in ("mark", "theta"))
        if mark is None or int(mark) != int(self._mark) or theta is None:
            raise InputError(
                "the state is not of this subspace, expected the same base weights, d, seed and options. Likely cause: another "
                "checkpoint's folder, or a new head drawn from another seed; build the model and the Subspace as in the first run"
            )
        buffers = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix + PREFIX)}
        self.space.buffers.check(buffers, {name: value.shape for name, value in buffers.items()}, "the checkpoint")
        self.space.theta.copy_(theta)
        self.space.buffers.write({name.removeprefix(PREFIX): value for name, value in buffers.items()})

    def _held(self) -> dict[str, Tensor]:
        return {"theta": self.space.theta, **self.space.buffers.carried()}
