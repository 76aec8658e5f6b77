"""What the subspace lies over: which tensors, which layers, which head, and how far each tensor moves. Pure functions of a model."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from d90.errors import InputError, unknown_name
from d90.subspace.options import LAYERS, SCALES

__all__ = [
    "LANGUAGE_HEADS",
    "balance",
    "fingerprint",
    "fresh_tensors",
    "head_modules",
    "head_tensors",
    "layer_of",
    "lone_embeddings",
    "mark_called_head",
    "mark_fresh",
    "mark_language",
    "mark_stacks",
    "owners",
    "padding_rows",
    "places",
    "running_statistics",
    "step_factor",
    "tensor_scale",
    "trainable",
    "uncompiled",
    "units",
]

LANGUAGE_HEADS = ("lm_head", "embed_out", "cls")  # come with the checkpoint, over the vocabulary
HEAD_MODULES = ("classifier", "score", "qa_outputs", "classification_head", "head", "fc_out", *LANGUAGE_HEADS)


def uncompiled(model: nn.Module) -> nn.Module:
    """The model under `torch.compile`'s wrapper, whose parameters have their own names; any other as it is."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with `requires_grad`, one per identity (tied weights once), in `named_parameters()` order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def places(model: nn.Module, names: Iterable[str]) -> list[tuple[Mapping[str, object], str, object]]:
    """Where these parameters hang: (dictionary, key, what must be there), every module on the way included."""
    found: dict[tuple[int, str], tuple[Mapping[str, object], str, object]] = {}
    for name in names:
        module, *path = model, *name.split(".")
        for part in path[:-1]:
            child = module._modules[part]
            assert child is not None
            found[id(module), part] = (module._modules, part, child)
            module = child
        found[id(module), path[-1]] = (module._parameters, path[-1], module._parameters[path[-1]])
    return list(found.values())


def mark_fresh(model: nn.Module, names: Iterable[str]) -> None:
    """Note on a model which of its parameters no checkpoint gave: they belong to its head, whatever they are called."""
    model._d90_fresh = frozenset(names)  # type: ignore[assignment]


def mark_called_head(model: nn.Module) -> None:
    """Take for the head only what is called like one, as d90 did before its tunes recorded their head."""
    model._d90_fresh = frozenset()  # type: ignore[assignment]
    model._d90_called_head = True  # type: ignore[assignment]


def mark_stacks(model: nn.Module) -> None:
    """Take the members of every stack of blocks for layers, the encoder's and the decoder's: before, one stack's alone were."""
    model._d90_stacks = True  # type: ignore[assignment]


def mark_language(model: nn.Module) -> None:
    """Note that a model's output matrix came with its checkpoint, whatever it is called: it is no head of a task."""
    model._d90_language = True  # type: ignore[assignment]


def fresh_tensors(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the names that no checkpoint gave, also where a method has wrapped the layer that holds them."""
    fresh: frozenset[str] = getattr(model, "_d90_fresh", frozenset())
    return [name for name in names if fresh and _WRAPPED.sub(r"\1", name) in fresh]


_WRAPPED = re.compile(
    r"\.base_layer(?=\.)|\.parametrizations(\.\w+)\.original$"
)  # peft's, and torch's parametrisations


def head_modules(model: nn.Module) -> list[str]:
    """The children that are a head by their names: classifier, score, lm_head, ..., else, in a model of transformers, what stands
    beside the part that `base_model_prefix` names; none in a transformer without a head.
    """
    children = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    heads = [name for name in children if name in HEAD_MODULES]
    beside = [name for name in children if name != getattr(model, "base_model_prefix", name)]
    beside = [] if getattr(model, "_d90_called_head", False) or len(beside) == len(children) else beside
    return heads or beside


def head_tensors(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The names that belong to the model's head: `head_modules`, else the last child; and what no checkpoint gave (`mark_fresh`).

    Raises:
        InputError: the model has no child modules, so no head can be told apart.
    """
    children = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    if not children:
        raise InputError("head='outside': the model has no child modules, so it has no head; expected head='inside'")
    heads, given = head_modules(model) or children[-1:], list(names)
    fresh = set(fresh_tensors(model, given))
    return [name for name in given if name.split(".")[0] in heads or name in fresh]


def owners(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The modules that hold these parameters of a head: the whole child where it is one, else the very module."""
    children = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    heads = head_modules(model) or children[-1:]
    return sorted({name.split(".")[0] if name.split(".")[0] in heads else name.rpartition(".")[0] for name in names})


def layer_of(model: nn.Module, names: Sequence[str], layer: str) -> tuple[list[str], str]:
    """The layer each tensor belongs to, and the definition that was used, in words, for the record.

    "tensor": each tensor. "module": the module that holds it. "block": the members of the model's longest ModuleList,
    plus what stands before and what stands after it in `names`; of an encoder-decoder that writes (`mark_stacks`) those of both
    stacks, and what stands between. A model without a ModuleList falls back to "module", and the definition says so.
    """
    if layer not in LAYERS:
        raise unknown_name("layer", layer, LAYERS)
    if layer == "tensor":
        return list(names), "tensor"
    owners = [name.rpartition(".")[0] or "(root)" for name in names]
    if layer == "module":
        return owners, "module"
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    longest = max(lists, key=lambda item: len(item[1]), default=None)
    if longest is None or not any(name.startswith(longest[0] + ".") for name in names):
        return owners, "module (the model has no ModuleList of blocks)"
    stacks = [longest[0]]
    if getattr(model, "_d90_stacks", False):
        inner = [name for name, _ in lists]
        stacks = [name for name in inner if not any(name.startswith(f"{other}.") for other in inner)]
        stacks = [stack for stack in stacks if any(name.startswith(f"{stack}.") for name in names)]
    layers, seen = [], 0
    for name in names:
        stack = next((stack for stack in stacks if name.startswith(f"{stack}.")), None)
        if stack is None:
            layers.append("(before)" if not seen else "(after)" if seen == len(stacks) else "(between)")
        else:
            seen = max(seen, stacks.index(stack) + 1)
            layers.append(f"{stack}.{name[len(stack) + 1 :].split('.')[0]}")
    return layers, f"block (members of {' and '.join(stacks)})"


def tensor_scale(scale: str, theta_0: Tensor, total: int, d: int) -> float:
    """sigma: what multiplies P theta in one tensor, for P with unit columns over all D = `total` rows.

    global:   1, unit columns over all D (Li et al. 2018).
    tensor:   sqrt(D / max(n, d)): unit columns inside a tensor of n weights (the released SAID code), rows at most of
        norm 1.
    relative: that times the tensor's norm, rounded to a power of two; sqrt(n / fan_in) for a tensor of zeros.
    """
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    if scale == "global" or theta_0.numel() == 0:
        return 1.0
    unit = math.sqrt(total / max(theta_0.numel(), d))
    if scale == "tensor":
        return unit
    norm = theta_0.detach().double().norm().item()
    if norm == 0:
        fan_in = theta_0[0].numel() if theta_0.dim() > 1 else theta_0.numel()
        return unit * math.sqrt(theta_0.numel() / fan_in)
    # off the tie: n ones have log2 norm = log2(n) / 2, where the last bit of the norm would decide a factor of two
    return unit * 2.0 ** round(math.log2(norm) - 1e-4)


def step_factor(d: int) -> float:
    """c, the unit of theta: 32 / sqrt(d).

    Adam moves each coordinate by about the learning rate, so |Delta| per step would grow as sqrt(d); with c it does
    not, and at d = 1024 theta has the papers' own unit.
    """
    return 32.0 / math.sqrt(d)


def units(scale: str, tensors: Sequence[Tensor], d: int, step_rule: int) -> list[float]:
    """c sigma_t of each tensor, for d coordinates: what multiplies P theta besides a lambda."""
    sizes = [tensor.numel() for tensor in tensors]
    sigmas = [tensor_scale(scale, tensor, sum(sizes), d) for tensor in tensors]
    c = step_factor(d) * (balance(scale, sizes, sigmas, d) if step_rule > 1 else 1.0)
    return [c * sigma for sigma in sigmas]


def balance(scale: str, sizes: Sequence[int], sigmas: Sequence[float], d: int) -> float:
    """What multiplies `tensor_scale` under step rule 2, so that one learning rate serves every scale; 1 for "tensor".

    k^2 = sum_t min(1, n_t / d) / sum_t sigma_t^2 n_t / D: a step of theta moves all weights together as far, in squares, as it
    does under "tensor"; what differs is how that is shared among the tensors.
    """
    if scale == "tensor":
        return 1.0
    total = sum(sizes)
    moved = math.fsum(sigma * sigma * size / total for sigma, size in zip(sigmas, sizes, strict=True))
    return math.sqrt(math.fsum(min(1.0, size / d) for size in sizes) / moved)


def fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of earlier files and rows: 16 hex digits over names, shapes and values rounded to bf16.

    It misses most changes of 1e-3 and all but the weights; `d90.subspace.fingerprint` replaced it.
    """
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def running_statistics(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers that belong to the tune: those that training moves (BatchNorm and its kind), and a sparse mask's places."""
    found = []
    for prefix, module in model.named_modules():
        if getattr(module, "track_running_stats", False) or getattr(module, "belongs_to_tune", False):
            found += [(f"{prefix}.{name}".lstrip("."), buffer) for name, buffer in module.named_buffers(recurse=False)]
    return found


def padding_rows(model: nn.Module, tensors: Sequence[Tensor]) -> dict[int, int]:
    """{number of a tensor: the row of it that an embedding's `padding_idx` names}: padding means nothing, so it never moves."""
    index = {id(tensor): i for i, tensor in enumerate(tensors)}
    embeddings = (m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
    return {
        index[id(m.weight)]: m.padding_idx for m in embeddings if m.padding_idx is not None and id(m.weight) in index
    }


def lone_embeddings(model: nn.Module, tensors: Sequence[Tensor]) -> list[nn.Embedding]:
    """The plain embeddings whose weight is among `tensors` and belongs to no other module: their gradients may be sparse."""
    moved = {id(tensor) for tensor in tensors}
    holders = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    return [
        module
        for module in model.modules()
        if type(module) is nn.Embedding
        and id(module.weight) in moved
        and holders[id(module.weight)] == 1
        and not (module.sparse or module.scale_grad_by_freq or module.max_norm)
    ]
