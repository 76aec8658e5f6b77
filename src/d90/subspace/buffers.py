"""The buffers of a model: what training moves besides its weights, kept to be given back, and carried by a tune.

Running statistics, the vectors of spectral norm, the ranges of observers, a scale that a module keeps for itself: all of
it is given back as it was found, and what a run has moved goes into its tune.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.subspace import layout

__all__ = ["Buffers", "moved_attributes", "plain_attributes", "trained_state"]

PREFIX = "buffer:"  # of a buffer's name in a tune


class Buffers:
    """The buffers of `model` as they are found, by name; what is written later is copied, never kept.

    Attributes:
        start: their values when this was made, copied; None for a buffer that was registered without a value.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.start = self.copy()

    def copy(self) -> dict[str, Tensor | None]:
        """A copy of the values as they are now."""
        return {name: None if held is None else held.detach().clone() for name, held in _named(self.model).items()}

    def carried(self) -> dict[str, Tensor]:
        """What a tune holds, as it is now: running statistics, and every buffer whose value is not the one at the start.

        A buffer that is not part of the model's state and has changed its shape is a cache, and stays out.
        """
        always = {name for name, _ in layout.running_statistics(self.model)}
        found = {}
        for name, now in _named(self.model).items():
            if now is None:
                continue
            was = self.start.get(name)
            if name in always or not _same(was, now):
                if was is not None and was.shape != now.shape and not _persistent(self.model, name):
                    continue
                found[f"{PREFIX}{name}"] = now
        return found

    def check(self, found: Iterable[str], shapes: Mapping[str, torch.Size], path: object) -> None:
        """Refuse buffers of a file that are not this model's.

        Raises:
            InputError: statistics that are missing or of another shape, or a buffer that the model does not have.
        """
        names = set(found)
        needed = {f"{PREFIX}{name}": buffer for name, buffer in layout.running_statistics(self.model)}
        held = {f"{PREFIX}{name}" for name in _named(self.model)}
        wrong = [name for name in needed if name not in names or shapes[name] != needed[name].shape]
        wrong += sorted(names - held)
        if wrong:
            raise InputError(
                f"'{path}': its buffers {sorted(names)} are not the {sorted(needed)} this model needs (see '{wrong[0]}')"
            )

    @torch.no_grad()
    def write(self, found: Mapping[str, Tensor | None]) -> None:
        """Put these values, by name, in place, and those of the start for every other buffer."""
        values = {**self.start, **found}
        for name in list(_named(self.model)):
            holder, module, key = _place(self.model, name)
            if name in values:
                _put(holder, key, values[name])
            else:  # registered since
                del holder[key]
                module._non_persistent_buffers_set.discard(key)

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """For a while the model has the values of the start."""
        now = self.copy()
        self.restore()
        try:
            yield
        finally:
            for name in now.keys() - self.start.keys():  # registered since
                holder, _, key = _place(self.model, name)
                holder[key] = now[name]
            self.write(now)

    def restore(self) -> None:
        """Put back the values of the start."""
        self.write({})


def trained_state(model: nn.Module) -> list[str]:
    """The names of buffers of kinds that are known to move in training: running statistics, spectral norm, observers."""
    found = [name for name, _ in layout.running_statistics(model)]
    for prefix, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        hooks = {type(hook).__name__ for hook in module._forward_pre_hooks.values()}
        if kinds & {"_SpectralNorm", "ObserverBase", "FakeQuantizeBase"} or "SpectralNorm" in hooks:
            found += [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)]
    return list(dict.fromkeys(found))


# --- state that is in no buffer ---------------------------------------------------------------------------------------


def plain_attributes(model: nn.Module) -> dict[str, int | float | Tensor]:
    """Numbers and tensors that modules keep as plain attributes, by "module.attribute"; tensors are copied.

    Left out: what begins with an underscore, and what an old-style `weight_norm`, `spectral_norm` or `prune` computes.
    """
    found = {}
    for prefix, module in model.named_modules():
        own = {*module._parameters, *module._buffers}
        for key, value in vars(module).items():
            computed = own & {f"{key}_orig", f"{key}_v"}
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if key.startswith("_") or computed or not (number or isinstance(value, Tensor)):
                continue
            if isinstance(value, Tensor) and (value.requires_grad or value.is_meta):
                continue
            found[f"{prefix}.{key}".lstrip(".")] = value.detach().clone() if isinstance(value, Tensor) else value
    return found


def moved_attributes(model: nn.Module, start: Mapping[str, int | float | Tensor]) -> list[str]:
    """The plain attributes that had a value at the start and have another one now."""
    now = plain_attributes(model)
    return [name for name, was in start.items() if name in now and not _same(was, now[name])]


# --- helpers ----------------------------------------------------------------------------------------------------------


def _named(model: nn.Module) -> dict[str, Tensor | None]:
    """Every buffer by name, those without a value included."""
    return {
        f"{prefix}.{key}".lstrip("."): buffer
        for prefix, module in model.named_modules()
        for key, buffer in module._buffers.items()
    }


def _place(model: nn.Module, name: str) -> tuple[dict[str, Tensor | None], nn.Module, str]:
    prefix, _, key = name.rpartition(".")
    module = model.get_submodule(prefix)
    return module._buffers, module, key


def _persistent(model: nn.Module, name: str) -> bool:
    _, module, key = _place(model, name)
    return key not in module._non_persistent_buffers_set


def _put(holder: dict[str, Tensor | None], key: str, value: Tensor | None) -> None:
    held = holder[key]
    if value is None or held is None or held.is_inference():
        holder[key] = None if value is None else value.clone()
    elif held.shape == value.shape:
        held.copy_(value)
    else:  # observers grow their ranges from nothing
        held.data = value.to(held.device, held.dtype, copy=True)


def _same(was: Any, now: Any) -> bool:
    if not isinstance(was, Tensor) or not isinstance(now, Tensor):
        return type(was) is type(now) and bool(was == now or (was != was and now != now))
    if was.shape != now.shape or was.dtype != now.dtype:
        return False
    was = was.to(now.device)
    if torch.equal(was, now):
        return True
    return bool(
        was.is_floating_point()
        and torch.equal(was.nan_to_num(7), now.nan_to_num(7))
        and torch.equal(was.isnan(), now.isnan())
    )
