"""analyze(tune, other) -> Analysis: what a fine-tune changed, matrix by matrix (Hu et al. 2021, section 7).

For any tune: the spectrum of each Delta W and table 7's comparison of Delta W with W. For two tunes of one base: the subspace
similarity phi(i, j) of their A's (inputs) and B's (outputs) where both are LoRA, of Delta W's own directions otherwise, with the
value of two random subspaces beside it, and the distances of their spans.
A tune is a file of `d90 train`, or a folder with a `peft` adapter: a LoRA's factors are read as they lie there, the change of
any other that merges is what merging it does.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from d90.analysis import geodesic_distance, projection_distance, random_similarity
from d90.analysis.amplification import amplifications, spectrum
from d90.analysis.similarity import directions, similarity
from d90.errors import InputError
from d90.files import Json
from d90.methods import load
from d90.methods.targets import Matrix, find_targets
from d90.models.loading import load as load_model
from d90.results.weight_change import Analysis, Likeness, WeightChangeRow
from d90.training.base import open_base
from d90.training.record import read_record

__all__ = ["Change", "analyze", "changes"]


@dataclass(frozen=True)
class Change:
    """One matrix of a tune, as (outputs, inputs); `a` (r, inputs) and `b` (outputs, r) where it was trained as a product."""

    name: str
    role: str
    weight: Tensor
    delta: Tensor
    a: Tensor | None = None
    b: Tensor | None = None


def analyze(
    tuned: str | os.PathLike[str],
    other: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    targets: str = "all",
    ranks: Sequence[int] = (1, 4, 8),
    most: int = 64,
    command: str = "",
) -> Analysis:
    """Analyse a tune; with `other`, compare the two as well.

    Example:
        >>> found = d90.analyze(tune, ranks=[1])
        >>> len(found.rows) > 0
        True

    Args:
        tuned, other: files of `d90 train`, or folders with a peft adapter.
        model: the base of a peft folder; a d90 tune names its own.
        targets: which matrices (`d90.methods.targets`); those a tune leaves alone are left out.
        ranks: of the comparison with W; one above a matrix's rank is left out, and a LoRA's own rank is always there.
        most: so many directions at most where Delta W's own are compared.
        command: recorded.

    Raises:
        InputError: no tune, a base without blocks, a tune that changes none of the targets, two without common matrices.
    """
    found = changes(tuned, model, targets)
    likeness: list[Likeness] = []
    theirs: list[Change] = []
    if other is not None:
        theirs = changes(other, model, targets)
        mine = {one.name: one for one in found}
        for second in theirs:
            if second.name in mine:
                likeness += _likeness(mine[second.name], second, most)
        if not likeness:
            raise InputError(
                f"'{tuned}' and '{other}' change no matrix in common, expected two tunes of the same targets. Analyse one at a time"
            )
    return Analysis(
        tune=str(tuned),
        other=str(other or ""),
        method=_method(tuned),
        rows=tuple(_row(one, ranks) for one in found),
        likeness=tuple(likeness),
        other_method=_method(other) if other is not None else "",
        other_rows=tuple(_row(one, ranks) for one in theirs),
        command=command,
    )


def _row(one: Change, ranks: Sequence[int]) -> WeightChangeRow:
    own = [] if one.a is None else [_rank(one)]
    chosen = sorted({r for r in (*ranks, *own) if r <= _rank(one)})
    found = spectrum(one.delta)
    values = tuple(float(f"{value:.6g}") for value in found.values)
    return WeightChangeRow(
        one.name, one.role, replace(found, values=values), amplifications(one.weight, one.delta, chosen)
    )


def _likeness(first: Change, second: Change, most: int) -> Iterator[Likeness]:
    """Both sides of one matrix."""
    if first.weight.shape != second.weight.shape:
        raise InputError(
            f"'{first.name}' is {tuple(first.weight.shape)} in one tune and {tuple(second.weight.shape)} in the other, expected one "
            "base; likely tunes of two models"
        )
    factors = (first.a, first.b, second.a, second.b)
    if all(factor is not None for factor in factors):
        pairs = (("A", first.a, second.a, "right"), ("B", first.b, second.b, "left"))
    else:
        pairs = (("inputs", first.delta, second.delta, "right"), ("outputs", first.delta, second.delta, "left"))
    for name, x, y, side in pairs:
        assert x is not None
        assert y is not None
        u, v = (directions(matrix, side)[:, : min(_rank(one), most)] for matrix, one in ((x, first), (y, second)))
        phi = similarity(u, v)
        null = random_similarity(phi.shape[0], phi.shape[1], len(u))
        last = min(phi.shape)
        spans = {p: (u[:, :p], v[:, :p]) for p in sorted({*(1 << k for k in range(last.bit_length())), last})}
        distances = tuple(
            (p, round(projection_distance(*pair), 4), round(geodesic_distance(*pair), 4)) for p, pair in spans.items()
        )
        yield Likeness(first.name, first.role, name, _table(phi), _table(null), distances)


def _method(tuned: str | os.PathLike[str]) -> str:
    if not Path(tuned).is_dir():
        return str(read_record(tuned).spec)
    return f"peft {_config(Path(tuned)).get('peft_type')}"


def changes(tuned: str | os.PathLike[str], model: str | None = None, targets: str = "all") -> list[Change]:
    """Every target matrix that a tune changes, with its Delta W.

    Raises:
        InputError: as `analyze`.
    """
    path = Path(tuned)
    if path.is_dir():
        return _of_peft(path, model, targets)
    record = read_record(path)
    spec = record.spec
    loaded = open_base(record)
    chosen = find_targets(loaded.module, targets)
    before = {matrix.name: _weight(matrix).clone() for matrix in chosen}
    applied_method = load(spec, path, loaded.module, record.recipe.seed)
    factors = {
        matrix.name: _factors(loaded.module.get_submodule(matrix.name)) for matrix in chosen
    }  # in a subspace over LoRA too: they are in the model
    if not spec.method.merges:
        raise InputError(
            f"'{path}' was trained with {spec.method}, which changes no weights, expected a method that merges, as lora or full"
        )
    applied_method.merge()
    found = []
    for matrix in find_targets(loaded.module, targets):
        delta = _weight(matrix) - before[matrix.name]
        if bool(delta.any()):
            a, b = factors[matrix.name]
            found.append(Change(matrix.name, matrix.role, before[matrix.name], delta, a, b))
    return _some(found, path, targets)


def _config(folder: Path) -> Json:
    try:
        return dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise _no_adapter(folder, error) from None


def _no_adapter(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"'{folder}' holds no peft adapter with safetensors weights ({type(error).__name__}); expected adapter_config.json and "
        "adapter_model.safetensors"
    )


def _of_peft(folder: Path, model: str | None, targets: str) -> list[Change]:
    from safetensors.torch import load_file

    config = _config(folder)
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise _no_adapter(folder, error) from None
    base = model or config.get("base_model_name_or_path")
    if not base:
        raise InputError(f"'{folder}' does not name its base; give it with --model")
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        return _merged(folder, str(config.get("peft_type")), str(base), targets)
    loaded = load_model(str(base), 2)
    found = []
    for matrix in find_targets(loaded.module, targets):
        a = _ending(tensors, f"{matrix.name}.lora_A.weight")
        b = _ending(tensors, f"{matrix.name}.lora_B.weight")
        weight = _weight(matrix)
        if a is None or b is None:
            saved = _ending(tensors, f"{matrix.name}.weight")  # trained whole: among modules_to_save
            delta = None if saved is None else (saved.T if matrix.transposed else saved).to(weight.dtype)
            if delta is not None and delta.shape == weight.shape and bool((delta != weight).any()):
                found.append(Change(matrix.name, matrix.role, weight, delta - weight))
            continue
        alpha = next(
            (value for key, value in (config.get("alpha_pattern") or {}).items() if _fits(key, matrix.name)),
            config["lora_alpha"],
        )
        scale = alpha / (a.shape[0] ** 0.5 if config.get("use_rslora") else a.shape[0])
        delta = scale * (b.double() @ a.double())
        if delta.shape != weight.shape:
            raise InputError(
                f"'{folder}': its change of '{matrix.name}' is {tuple(delta.shape)}, the base's matrix {tuple(weight.shape)}; "
                "likely another base. Give the one it was trained on with --model"
            )
        found.append(Change(matrix.name, matrix.role, weight, delta.float(), a.float(), b.float()))
    return _some(found, folder, targets)


def _merged(folder: Path, kind: str, base: str, targets: str) -> list[Change]:
    """Any adapter that peft merges: what merging it changes. A head that was trained with it is no matrix of a block."""
    from peft import PeftConfig, PeftModel

    loaded = load_model(base, 2)
    before = {matrix.name: _weight(matrix).clone() for matrix in find_targets(loaded.module, targets)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors of a head that is left out
            config = PeftConfig.from_pretrained(str(folder))
            config.task_type = config.modules_to_save = None
            tuned = PeftModel.from_pretrained(loaded.module, str(folder), config=config, torch_device="cpu")
            whole = tuned.merge_and_unload()
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"'{folder}' holds a peft adapter of type {kind}, which does not merge into '{base}' "
            f"({type(error).__name__}: {' '.join(str(error).split())[:120]}); expected one that "
            "changes weights, as LORA or LOHA, and its own base"
        ) from None
    found = []
    for matrix in find_targets(whole, targets):
        delta = _weight(matrix) - before[matrix.name]
        if bool(delta.any()):
            found.append(Change(matrix.name, matrix.role, before[matrix.name], delta))
    return _some(found, folder, targets)


def _fits(pattern: str, name: str) -> bool:
    """peft's keys of a pattern are ends of names, or regular expressions of them."""
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None


def _ending(tensors: dict[str, Tensor], name: str) -> Tensor | None:
    """peft puts its wrapper's prefix before a name; the base's own prefix may be missing from it."""
    short = name.partition(".")[2]
    return next((t for key, t in tensors.items() if key.endswith((f".{name}", f".{short}"))), None)


def _some(found: list[Change], path: Path, targets: str) -> list[Change]:
    if not found:
        raise InputError(
            f"'{path}' changes no matrix among targets={targets}, expected a tune that does. Likely cause: it moves other "
            "matrices, or its training never beat the untrained model, whose weights it then keeps; name other targets or another tune"
        )
    return found


def _weight(matrix: Matrix) -> Tensor:
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
    return tuple(tuple(round(value, 4) for value in row) for row in values.tolist())
