"""analyze(tune, other) -> Analysis: what a fine-tune changed, matrix by matrix (Hu et al. 2021, section 7).

For any tune: the spectrum of each Delta W and table 7's comparison of Delta W with W. For two LoRA tunes of one base: the
subspace similarity phi(i, j) of their A's (inputs) and B's (outputs), with the value of two random subspaces beside it.
A tune is a file of `d90 train`, or a folder with a `peft` LoRA adapter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d90.analysis import random_similarity, subspace_similarity
from d90.analysis.amplification import Amplification, Spectrum, amplification, spectrum
from d90.errors import InputError
from d90.finished import read_record
from d90.methods import load, roles
from d90.models import load as load_model

__all__ = ["Analysis", "Change", "Likeness", "Row", "analyze", "changes"]


@dataclass(frozen=True)
class Change:
    """One matrix of a tune, as (outputs, inputs); `a` (r, inputs) and `b` (outputs, r) where it was trained as a product."""

    name: str
    role: str
    weight: Tensor
    delta: Tensor
    a: Tensor | None = None
    b: Tensor | None = None


@dataclass(frozen=True)
class Row:
    """A matrix in the table: its change's spectrum, and the comparison with W at each rank asked for."""

    name: str
    role: str
    spectrum: Spectrum
    against: tuple[Amplification, ...]


@dataclass(frozen=True)
class Likeness:
    """phi(i, j) of one matrix in two tunes, i of the first, j of the second, and the null E phi of random subspaces."""

    name: str
    role: str
    side: str
    phi: tuple[tuple[float, ...], ...]
    null: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Analysis:
    """Of one tune, or of two."""

    tune: str
    other: str
    method: str
    rows: tuple[Row, ...]
    likeness: tuple[Likeness, ...]


def analyze(
    tuned: str | os.PathLike[str],
    other: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    targets: str = "all",
    ranks: Sequence[int] = (1, 4, 8),
) -> Analysis:
    """Analyse a tune; with `other`, compare the two as well.

    Args:
        tuned, other: files of `d90 train`, or folders with a peft LoRA adapter.
        model: the base of a peft folder; a d90 tune names its own.
        targets: which matrices (`d90.methods.roles`); those a tune leaves alone are left out.
        ranks: of the comparison with W; one above a matrix's rank is left out.

    Raises:
        InputError: no tune, a base without blocks, a tune that changes none of the targets, two without common products.
    """
    found = changes(tuned, model, targets)
    rows = [
        Row(
            one.name,
            one.role,
            spectrum(one.delta),
            tuple(amplification(one.weight, one.delta, r) for r in ranks if r <= _rank(one)),
        )
        for one in found
    ]
    likeness: list[Likeness] = []
    if other is not None:
        mine = {one.name: one for one in found}
        for theirs in changes(other, model, targets):
            ours = mine.get(theirs.name)
            if ours is None or ours.a is None or theirs.a is None or ours.b is None or theirs.b is None:
                continue
            pairs = (("A", ours.a, theirs.a, "right"), ("B", ours.b, theirs.b, "left"))
            for letter, first, second, side in pairs:
                phi = subspace_similarity(first, second, side)
                k = first.shape[1] if side == "right" else first.shape[0]
                null = random_similarity(phi.shape[0], phi.shape[1], k)
                likeness.append(Likeness(ours.name, ours.role, letter, _table(phi), _table(null)))
        if not likeness:
            raise InputError(
                f"'{tuned}' and '{other}' have no low-rank product in common, expected two LoRA tunes of the same targets. "
                "Similarity compares A's and B's; analyse one tune at a time for other methods"
            )
    method = "peft LoRA" if Path(tuned).is_dir() else str(read_record(tuned)[1])
    return Analysis(str(tuned), str(other or ""), method, tuple(rows), tuple(likeness))


def changes(tuned: str | os.PathLike[str], model: str | None = None, targets: str = "all") -> list[Change]:
    """Every target matrix that a tune changes, with its Delta W.

    Raises:
        InputError: as `analyze`.
    """
    path = Path(tuned)
    if path.is_dir():
        return _of_peft(path, model, targets)
    record, spec = read_record(path)
    recipe, about = record["recipe"], record["task"]
    loaded = load_model(recipe["model"], len(about["labels"]) or 1, about["kind"], recipe["seed"], recipe["max_length"])
    chosen = roles.find(loaded.module, targets)
    before = {matrix.name: _weight(matrix).clone() for matrix in chosen}
    laid = load(spec, path, loaded.module, recipe["seed"])
    factors = {
        matrix.name: _factors(loaded.module.get_submodule(matrix.name)) for matrix in chosen
    }  # in a subspace over LoRA too: they are in the model
    if not spec.method.merges:
        raise InputError(
            f"'{path}' was trained with {spec.method}, which changes no weights, expected a method that merges, as lora or full"
        )
    laid.merge()
    found = []
    for matrix in roles.find(loaded.module, targets):
        delta = _weight(matrix) - before[matrix.name]
        if bool(delta.any()):
            a, b = factors[matrix.name]
            found.append(Change(matrix.name, matrix.role, before[matrix.name], delta, a, b))
    return _some(found, path, targets)


def _of_peft(folder: Path, model: str | None, targets: str) -> list[Change]:
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{folder}' holds no peft adapter with safetensors weights ({type(error).__name__}); expected adapter_config.json and "
            "adapter_model.safetensors"
        ) from None
    if config.get("peft_type") != "LORA":
        raise InputError(f"'{folder}' holds a peft adapter of type {config.get('peft_type')}, expected LORA")
    base = model or config.get("base_model_name_or_path")
    if not base:
        raise InputError(f"'{folder}' does not name its base; give it with --model")
    loaded = load_model(str(base), 2)
    found = []
    for matrix in roles.find(loaded.module, targets):
        a = _ending(tensors, f"{matrix.name}.lora_A.weight")
        b = _ending(tensors, f"{matrix.name}.lora_B.weight")
        if a is None or b is None:
            continue
        r = a.shape[0]
        scale = config["lora_alpha"] / (r**0.5 if config.get("use_rslora") else r)
        delta = scale * (b.double() @ a.double())
        weight = _weight(matrix)
        if delta.shape != weight.shape:
            raise InputError(
                f"'{folder}': its change of '{matrix.name}' is {tuple(delta.shape)}, the base's matrix {tuple(weight.shape)}; "
                "likely another base. Give the one it was trained on with --model"
            )
        found.append(Change(matrix.name, matrix.role, weight, delta.float(), a.float(), b.float()))
    return _some(found, folder, targets)


def _ending(tensors: dict[str, Tensor], name: str) -> Tensor | None:
    """peft puts its wrapper's prefix before a name; the base's own prefix may be missing from it."""
    short = name.partition(".")[2]
    return next((t for key, t in tensors.items() if key.endswith((f".{name}", f".{short}"))), None)


def _some(found: list[Change], path: Path, targets: str) -> list[Change]:
    if not found:
        raise InputError(f"'{path}' changes no matrix among targets={targets}; expected a tune that does. Name others")
    return found


def _weight(matrix: roles.Matrix) -> Tensor:
    weight = matrix.module.get_parameter("weight").detach()
    return weight.T if matrix.transposed else weight


def _factors(module: Any) -> tuple[Tensor | None, Tensor | None]:
    if not hasattr(module, "lora_A") or "default" not in module.lora_A:
        return None, None
    return (
        module.lora_A["default"].weight.detach().clone(),
        module.lora_B["default"].weight.detach().clone(),
    )


def _rank(change: Change) -> int:
    return change.a.shape[0] if change.a is not None else min(change.weight.shape)


def _table(values: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(torch.round(value, decimals=6)) for value in row) for row in values)
