"""A tune as a plain LoRA adapter, which peft loads without d90.

    Delta W = (alpha / r) B A        exactly, where LoRA's own parameters were trained, in a subspace or as they are
    Delta W ~ U_r S_r V_r^T          else: B = U_r sqrt(S_r), A = sqrt(S_r) V_r^T, alpha = r, the closest of rank r

Eckart and Young: no matrix of rank r is closer to Delta W in the Frobenius norm. A random subspace's Delta W has a flat
spectrum, so a low rank holds little of it: `Exported` says how much, and what that does to the outputs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.files import check_new_folder, new_folder
from d90.integrations.unit import unit_in_head
from d90.methods import LoRA, Space, Spec, load, parse
from d90.methods.base import task_head
from d90.subspace import file as tune_file
from d90.subspace import layout, support

__all__ = ["Exported", "TaskExtras", "to_lora"]

Probe = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class Exported:
    """What a LoRA folder holds of a tune.

    Attributes:
        folder: where it is.
        rank: r.
        exact: whether LoRA's own parameters were trained, so that nothing is lost.
        kept: the share of |Delta|_F^2, over all weights that moved, that the folder holds.
        lost: the parameters that moved and that LoRA cannot hold (embeddings, biases, norms), with their share.
        tuned, exported: the probe's outputs with the tune, and with the folder; None without a probe.
    """

    folder: Path
    rank: int
    exact: bool
    kept: float
    lost: Mapping[str, float]
    tuned: Tensor | None = None
    exported: Tensor | None = None

    @property
    def error(self) -> float | None:
        """The largest difference between the outputs."""
        if self.tuned is None or self.exported is None:
            return None
        return (self.exported - self.tuned).abs().max().item()


@dataclass(frozen=True)
class TaskExtras:
    """What the folder gets from the task that the tune was trained on.

    Attributes:
        unit: (mean, deviation) of a regression's values: the folder's head puts out mean + deviation z.
        task_type: peft's word for the kind of model, as "CAUSAL_LM".
        write: writes what else belongs into the folder, as a tokenizer.
    """

    unit: tuple[float, float] = (0.0, 1.0)
    task_type: str | None = None
    write: Callable[[Path], object] | None = None

    @property
    def scaled(self) -> bool:
        """Whether the outputs have a unit of their own."""
        return self.unit != (0.0, 1.0)


def to_lora(
    path: str | os.PathLike[str],
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    rank: int | None = None,
    method: str | Spec = "full",
    seed: int = 0,
    probe: Probe | None = None,
    task: TaskExtras = TaskExtras(),
) -> Exported:
    """Write a tune as a folder of a peft LoRA adapter; the model is given back as it was.

    Args:
        path: the tune.
        model: its base, plain.
        rank: of the approximation; a tune over LoRA's parameters has its own.
        method: what the tune was trained with (`d90.methods`); a file of `d90 train` has it in the recipe beside it.
        seed: the run's, which drew the method's own weights.
        probe: gives outputs of a model, to see what is lost: (n, outputs).
        task: what the folder gets from the task.

    Raises:
        InputError: a folder that holds something; no rank where one is needed, or one that does not fit; a method that does not
            merge; as `d90.methods.load`.
    """
    check_new_folder(folder)
    spec = parse(method) if isinstance(method, str) else method
    if spec.space is None and tune_file.about(path).header.structure != "direct":
        spec = replace(spec, space=Space())
    rank = _rank(spec, rank, path)
    with _given_back(model):
        base = {name: p.detach().clone() for name, p in model.named_parameters()}
        found, changed, tuned = _tuned(spec, path, model, seed, probe)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(base[name])
        head = {name: changed[name] for name in task_head(model) if name in changed}
        if task.scaled:
            head = unit_in_head(model, head, *task.unit, path)
        own = spec.method if isinstance(spec.method, LoRA) else None
        kept: float = 1.0
        lost: dict[str, float] = {}
        if own:
            adapter = Adapter(found, head, rank, own.alpha or rank, own.rslora)
        else:
            found, kept, lost = _cut(model, base, changed, set(head), rank)
            adapter = Adapter(found, head, rank, rank, False)
        exported = _write(model, Path(folder), adapter, probe, task)
    if exported is not None and task.scaled:
        exported = (exported - task.unit[0]) / task.unit[1]  # as the tune's
    return Exported(Path(folder), rank, own is not None, kept, lost, tuned, exported)


def _rank(spec: Spec, rank: int | None, path: str | os.PathLike[str]) -> int:
    """The adapter's rank: LoRA's own, or the one that was chosen."""
    if isinstance(spec.method, LoRA):
        if rank not in (None, spec.method.r):
            raise InputError(f"got rank={rank}, expected none: '{path}' has LoRA's own rank {spec.method.r}")
        return spec.method.r
    if rank is None or rank < 1:
        raise InputError(
            f"got rank={rank}, expected at least 1: '{path}' was trained with '{spec.method}', whose change of a matrix has "
            "any rank and must be cut. Choose one, as rank=8; the result says how much of the change it holds"
        )
    return rank


@contextmanager
def _given_back(model: nn.Module) -> Iterator[None]:
    """Afterwards the model's flags and modes are what they were."""
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for name, p in model.named_parameters():
            p.requires_grad_(flags.get(name, p.requires_grad))
        for module, mode in modes:
            module.training = mode


def _tuned(
    spec: Spec, path: str | os.PathLike[str], model: nn.Module, seed: int, probe: Probe | None
) -> tuple[Factors, dict[str, Tensor], Tensor | None]:
    """The tune's own factors where it has any, its weights by name, and the probe's outputs; nothing of the method stays."""
    own = isinstance(spec.method, LoRA)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    applied_method = load(spec, path, model, seed)
    try:
        outputs = probe(model) if probe else None
        found = _trained(model) if own else {}
        if not own:
            applied_method.merge()
        named = dict(model.named_parameters())
        changed = {name: named[name].detach().clone() for name in flags if name in named}
    except BaseException:
        applied_method.release()
        raise
    if own:
        applied_method.release()
    for name, p in model.named_parameters():
        p.requires_grad_(flags[name])
    return found, changed, outputs


Factors = dict[str, tuple[Tensor, Tensor]]  # module name -> A (r, inputs), B (outputs, r)


@dataclass(frozen=True)
class Adapter:
    """The factors, the head, and how they are scaled."""

    factors: Factors
    head: Mapping[str, Tensor]
    r: int
    alpha: float
    rslora: bool


def _trained(model: nn.Module) -> Factors:
    """The factors that stand in the model."""
    return {
        name: (layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone())
        for name, layer in model.named_modules()
        if "default" in getattr(layer, "lora_A", ())
    }


def _cut(
    model: nn.Module, base: Mapping[str, Tensor], changed: Mapping[str, Tensor], head: set[str], rank: int
) -> tuple[Factors, float, dict[str, float]]:
    """The best factors of each matrix's change, the share they hold, and the shares that no factor can hold."""
    deltas = {name: changed[name].double() - base[name].double() for name in base}
    energy = {name: delta.square().sum().item() for name, delta in deltas.items()}
    total = sum(energy.values())
    if total == 0:
        raise InputError("the tune changes no weight, expected one that was trained")
    transposed = _matrices(model)
    found: Factors = {}
    held = sum(energy[name] for name in head)
    lost = {}
    for name in (n for n in base if energy[n] > 0 and n not in head):
        if name not in transposed:
            lost[name] = energy[name] / total
            continue
        delta = deltas[name].T if transposed[name] else deltas[name]
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        r = min(rank, len(s))
        root = s[:r].sqrt()
        a, b = delta.new_zeros(rank, delta.shape[1]), delta.new_zeros(delta.shape[0], rank)
        a[:r], b[:, :r] = root[:, None] * v[:r], u[:, :r] * root
        found[name.removesuffix(".weight")] = a.float(), b.float()
        held += s[:r].square().sum().item()
    if not found:
        raise InputError(
            f"the tune moves no matrix that LoRA can hold, expected a change of linear layers; it moves {', '.join(list(lost)[:3])}"
        )
    return found, held / total, lost


def _matrices(model: nn.Module) -> dict[str, bool]:
    """Parameters that LoRA can hold: weights of linear layers, and whether they are stored transposed."""
    from transformers.pytorch_utils import Conv1D

    own = {name for name, _ in model.named_parameters()}  # a tied matrix is the embedding's
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D))
    return {f"{name}.weight": isinstance(m, Conv1D) for name, m in layers if f"{name}.weight" in own}


def _write(model: nn.Module, folder: Path, adapter: Adapter, probe: Probe | None, task: TaskExtras) -> Tensor | None:
    """Write the folder; the probe's outputs with the adapter on the model."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    factors, head = adapter.factors, adapter.head
    support.check_supported(model)
    transposed = _matrices(model)
    heads = {name: model.get_submodule(name) for name in layout.owners(model, head)}
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        use_rslora=adapter.rslora,
        target_modules=sorted(factors),
        fan_in_fan_out=any(transposed.get(f"{name}.weight", False) for name in factors),
        modules_to_save=list(heads) or None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where linear layers of both kinds are among the targets
        found = get_peft_model(model, config)
    try:
        values = {f"base_model.model.{name}": tensor for name, tensor in head.items()}
        for name, (a, b) in factors.items():
            values |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        unknown = set_peft_model_state_dict(found, values).unexpected_keys
        if unknown:
            raise RuntimeError(f"peft does not take {unknown[:3]}")
        found.eval()
        # only now: given before, peft would look for a head of its own
        found.peft_config["default"].task_type = task.task_type
        with new_folder(folder) as whole:
            found.save_pretrained(whole)
            if task.write is not None:
                task.write(whole)
        return probe(model) if probe else None
    finally:
        found.unload()
        vars(model).pop("peft_config", None)  # peft 0.18 leaves it
        for name, module in heads.items():  # peft leaves the trained copy
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module)
