"""What the in-place engine refuses, by the name of the parameter or module that it cannot be right about."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from d90.errors import InputError, UnsupportedModelError
from d90.subspace import layout

__all__ = ["FLOATING", "check_no_overlap", "check_renormed", "check_supported", "head_outside", "renormed", "tied_head"]

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_supported(model: nn.Module) -> None:
    """Refuse a model whose weights cannot be written in place, or whose state a tune cannot carry.

    Raises:
        UnsupportedModelError: data-parallel wrappers; sharded, quantised, meta-device, lazy, sparse, expanded or inference-mode
            weights, trained types other than fp32, fp64, bf16 and fp16; state behind `get_extra_state`.
    """
    wrapper = type(model).__name__
    if wrapper in {"DistributedDataParallel", "FullyShardedDataParallel", "DataParallel"}:
        raise UnsupportedModelError(
            f"got a model wrapped in {wrapper}, expected the plain model: the wrapper would all-reduce all D gradients, or none. "
            "Give d90.Subspace the inner model and call space.attach(optimizer), which all-reduces the d numbers."
        )
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise UnsupportedModelError(
            "got a quantised model, expected floating-point weights: theta_0 + P theta cannot be written into packed integers. "
            "Load the model without quantisation."
        )
    for name, parameter in model.named_parameters():
        _check_parameter(name, parameter)
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise UnsupportedModelError(
                f"module '{name}' ({type(module).__name__}) keeps state of its own behind get_extra_state, which a tune cannot "
                "carry; expected state in buffers. Register it with register_buffer"
            )


def _check_parameter(name: str, parameter: nn.Parameter) -> None:
    kind = type(parameter).__name__
    if kind in {"FlatParameter", "DTensor"} or hasattr(parameter, "device_mesh"):
        raise UnsupportedModelError(
            f"parameter '{name}' is sharded ({kind}), expected whole weights on each process. "
            "Make the Subspace on the unsharded model; d90 all-reduces d numbers, so sharding saves nothing here."
        )
    if nn.parameter.is_lazy(parameter):
        raise UnsupportedModelError(
            f"parameter '{name}' is lazy and has no shape yet, expected one. Run a batch through the model first."
        )
    if parameter.is_meta:
        raise UnsupportedModelError(
            f"parameter '{name}' is on the meta device, expected real weights. Load the checkpoint first."
        )
    if torch.utils._python_dispatch.is_traceable_wrapper_subclass(parameter):
        raise UnsupportedModelError(
            f"parameter '{name}' is a {kind}, a tensor that stands for others (quantised, nested, distributed); expected plain "
            "weights. Load the model without it."
        )
    if parameter.requires_grad:
        _check_trained(name, parameter)


def _check_trained(name: str, parameter: nn.Parameter) -> None:
    if parameter.dtype not in FLOATING:
        raise UnsupportedModelError(
            f"parameter '{name}' has dtype {parameter.dtype}, expected a floating-point type: fp32, fp64, bf16 or fp16. "
            "Cast it, or freeze it with requires_grad_(False)."
        )
    if parameter.layout != torch.strided:
        raise UnsupportedModelError(
            f"parameter '{name}' has layout {parameter.layout}, expected dense weights (strided). Call to_dense() on it first."
        )
    if parameter.is_inference():
        raise UnsupportedModelError(
            f"parameter '{name}' was made in torch.inference_mode(), where nothing can be trained; expected ordinary weights. "
            "Build the model outside of it."
        )
    if _covers_itself(parameter):
        raise UnsupportedModelError(
            f"parameter '{name}' is expanded: several of its numbers lie in one place (shape {tuple(parameter.shape)}, strides "
            f"{parameter.stride()}), so they cannot move apart. Make it contiguous: nn.Parameter(p.detach().clone())."
        )


# --- memory that two names share --------------------------------------------------------------------------------------


def _numbers(tensor: Tensor) -> Tensor:
    """The places in its storage, counted in elements, that a tensor's numbers lie in."""
    ends = tensor.storage_offset() + 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.arange(int(ends)).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).reshape(-1)


def _dense(tensor: Tensor) -> bool:
    """Whether a tensor's numbers fill one stretch of memory, each in a place of its own, whatever their order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _covers_itself(tensor: Tensor) -> bool:
    if tensor.numel() == 0 or _dense(tensor):
        return False
    if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        return True
    return len(_numbers(tensor).unique()) < tensor.numel()


def _span(tensor: Tensor) -> tuple[int, int]:
    """The bytes of memory between a tensor's first number and its last."""
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors whose spans meet have a number in common: columns of one matrix may alternate."""
    if (
        a.dtype != b.dtype
        or a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr()
        or (_dense(a) and _dense(b))
    ):
        return True
    return bool(torch.isin(_numbers(a), _numbers(b)).any())


def check_no_overlap(model: nn.Module) -> None:
    """Refuse a trained parameter that shares memory with another parameter: each would move the other.

    One `nn.Parameter` in several places (tied weights) is right, and so are parts of one memory that do not overlap.

    Raises:
        UnsupportedModelError: both names.
    """
    spans = (
        sorted(
            (*_span(p), name, p)
            for name, p in model.named_parameters()
            if p.numel() and p.layout == torch.strided and not nn.parameter.is_lazy(p)
        )
        if _any_shared(model)
        else []
    )
    reaching: list[tuple[int, int, str, nn.Parameter]] = []
    for low, high, name, parameter in spans:
        reaching = [one for one in reaching if one[1] > low and one[3].device == parameter.device]
        for _, _, other, held in reaching:
            if (parameter.requires_grad or held.requires_grad) and _overlap(parameter, held):
                raise UnsupportedModelError(
                    f"parameters '{other}' and '{name}' share memory without being one nn.Parameter, so each would move the "
                    f"other; expected one parameter in both places (module.weight = other.weight), or a copy for each"
                )
        reaching.append((low, high, name, parameter))


def _any_shared(model: nn.Module) -> bool:
    """Whether two parameters lie in one storage at all: most models need no closer look."""
    found = [p.untyped_storage().data_ptr() for p in model.parameters() if p.numel() and p.layout == torch.strided]
    return len(set(found)) < len(found)


# --- heads and embeddings ---------------------------------------------------------------------------------------------


def tied_head(model: nn.Module, head: Iterable[str]) -> tuple[str, str] | None:
    """The names of a weight that stands both in the head and in the body, in this order; None where the head is its own.

    Args:
        head: all names of the head's parameters, as `named_parameters(remove_duplicate=False)` has them.
    """
    outside = set(head)
    holders: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holders.setdefault(id(parameter), []).append(name)
    for shared in holders.values():
        own = [name for name in shared if name in outside]
        if own and len(own) < len(shared):
            return own[0], next(name for name in shared if name not in outside)
    return None


def renormed(model: nn.Module) -> dict[int, str]:
    """id and name of the weights that an embedding with max_norm shortens while it looks rows up."""
    return {
        id(module.weight): f"{name}.weight".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None
    }


def check_renormed(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse embeddings with max_norm where theta_0 is not kept: what the lookup shortens could not be undone.

    Raises:
        InputError: the name of the embedding.
    """
    short = renormed(model)
    for name, tensor in tensors.items():
        if id(tensor) in short:
            raise InputError(
                f"keep_theta0=False: '{name}' belongs to an embedding with max_norm, which writes into its weights at each lookup; "
                "expected weights that theta alone moves. Keep theta_0, or freeze that embedding"
            )


def head_outside(model: nn.Module, named: Iterable[str]) -> list[str]:
    """The names of the head's own parameters that are trainable; what is tied to the body moves with the body, with a warning."""
    every = layout.head_tensors(model, [name for name, _ in model.named_parameters(remove_duplicate=False)])
    tied = tied_head(model, every)
    found = [name for name in layout.head_tensors(model, named) if tied is None or not _in_body(model, name, every)]
    if tied or not found:  # a warning: files that were written so are read
        why = f"the head's '{tied[0]}' is tied to '{tied[1]}', which lies inside" if tied else "the head is frozen"
        rest = f"only {found} are trained outside" if found else "it changes nothing: all is trained inside"
        warnings.warn(f"head='outside': {why}; {rest}", stacklevel=5)
    return found


def _in_body(model: nn.Module, name: str, head: Iterable[str]) -> bool:
    held, outside = model.get_parameter(name), set(head)
    return any(p is held and n not in outside for n, p in model.named_parameters(remove_duplicate=False))
