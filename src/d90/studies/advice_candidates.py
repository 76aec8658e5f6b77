"""The methods that may be the answer: families ordered by the numbers a file of them holds, those that the model can take."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from d90.errors import InputError
from d90.methods import AppliedMethod, LoRA, Spec, TopLayers, apply, counts, parse
from d90.methods.spec import short_text
from d90.search.advice_problem import Candidate, Family
from d90.subspace.subspace import Subspace
from d90.tasks import TaskKind
from d90.training.loop import Data, context
from d90.training.recipe import Recipe, default_lr, suited

__all__ = ["Candidates", "family_of", "find_candidates", "usual_methods"]

RANKS = (1, 2, 4, 8, 16, 32, 64)
DIMS = (100, 300, 1000, 3000, 10000)
HEADER = 120  # bytes of a file's metadata


@dataclass(frozen=True)
class Candidates:
    """What is searched.

    Attributes:
        families: of candidates that fit the model and the limit of bytes.
        reference: what they are held against; `home`, its family where it is none of these.
        sizes: of each method by its text, (numbers stored, bytes of its file, numbers trained).
        notes: what was left out, and why.
    """

    families: tuple[Family, ...]
    reference: Candidate
    home: Family | None
    sizes: dict[str, tuple[int, int, int]]
    notes: tuple[str, ...]


def usual_methods() -> list[str]:
    """The candidates where none are named."""
    found = [f"lora:r={r},targets={targets}" for targets in ("all", "qv") for r in RANKS]
    found += [f"{space}@d={d}" for space in ("lora:r=8,targets=all", "full") for d in DIMS]
    return [*found, "bitfit", "hiwi", "peft:type=IA3,targets=all", "top:n=1", "top:n=2"]


def find_candidates(
    data: Data, recipe: Recipe, methods: Sequence[str | Spec], like: str, max_bytes: int | None
) -> Candidates:
    """Put every method on the model once, and group those that fit.

    Args:
        methods: in the grammar; none for the usual ones.
        like: the reference.
        max_bytes: of a candidate's file; the reference may be larger.

    Raises:
        InputError: the reference does not fit the model, no candidate does, or none is small enough.
    """
    named = methods or usual_methods()
    given = list(dict.fromkeys(suited(one, data.task.kind) for one in named))
    reference = suited(like, data.task.kind)
    try:
        sizes = {short_text(reference): _sizes(data, reference, recipe)}
    except InputError as error:
        raise InputError(f"the reference, --like {like}: {error}") from None
    refused: dict[str, list[tuple[str, str]]] = {}
    for spec in given:
        try:
            sizes.setdefault(short_text(spec), _sizes(data, spec, recipe))
        except InputError as error:
            refused.setdefault(family_of(spec)[0], []).append((short_text(spec), str(error)))
    left_out = [_left_out(group) for group in refused.values()]
    fitting = [spec for spec in given if short_text(spec) in sizes]
    if not fitting:
        raise InputError(f"no candidate fits this model; {left_out[0] if left_out else 'name some with --methods'}")
    within = [spec for spec in fitting if max_bytes is None or sizes[short_text(spec)][1] <= max_bytes]
    if not within:
        nearest = sorted(fitting, key=lambda spec: sizes[short_text(spec)][1])[:2]
        shown = " and ".join(f"{short_text(spec)} ({sizes[short_text(spec)][1]:,} bytes)" for spec in nearest)
        raise InputError(f"got max_bytes={max_bytes}, expected room for a candidate: the nearest are {shown}")
    if len(within) < len(fitting):
        left_out.append(
            f"left out: {len(fitting) - len(within)} candidates whose files take more than {max_bytes:,} bytes"
        )
    return Candidates(*_families(within, reference, sizes, data.task.kind), sizes, tuple(left_out))


def _families(
    specs: Sequence[Spec], reference: Spec, sizes: dict[str, tuple[int, int, int]], kind: TaskKind
) -> tuple[tuple[Family, ...], Candidate, Family | None]:
    """(families, the smallest candidate of each first, the reference's own before all others; the reference; its family where that is
    none of these)."""
    grouped: dict[str, list[Candidate]] = {}
    for spec in dict.fromkeys([*specs, reference]):
        name, size = family_of(spec)
        grouped.setdefault(name, []).append(Candidate(short_text(spec), name, size, sizes[short_text(spec)][0]))
    own, _ = family_of(reference)
    families = []
    for name in sorted(grouped, key=lambda one: one != own):  # stable: the others in the order they were given
        found = tuple(sorted(grouped[name], key=lambda one: (one.stored, one.size)))
        spec = parse(found[0].method)
        families.append(Family(name, found, _guess(spec, kind), *_fall(spec)))
    chosen = next(one for one in grouped[own] if one.method == short_text(reference))
    if len(grouped[own]) == 1 and all(spec != reference for spec in specs):
        return tuple(families[1:]), chosen, families[0]
    return tuple(families), chosen, None


def _left_out(group: Sequence[tuple[str, str]]) -> str:
    """A line for the methods of one family that the model cannot take, with the first one's reason."""
    more = f" (and {', '.join(name for name, _ in group[1:])})" if len(group) > 1 else ""
    return f"left out: {group[0][0]}{more}: {group[0][1]}"


def family_of(spec: Spec) -> tuple[str, float]:
    """(the name of a method's family, its size in it)."""
    if spec.space is not None and spec.space.d is not None:
        return f"{short_text(replace(spec, space=replace(spec.space, d=None)))} in a subspace", float(spec.space.d)
    method = spec.method
    if isinstance(method, LoRA):
        fixed = "" if method.alpha == method.r else f", alpha={method.alpha}"
        return f"{short_text(Spec(replace(method, r=8, alpha=8))).replace(':r=8', '')}{fixed}", float(method.r)
    if isinstance(method, TopLayers):
        return "top", float(method.n)
    return short_text(spec), 1.0


def _guess(spec: Spec, kind: TaskKind) -> float:
    """Where the search for a family's rate begins: LoRA of language models likes three times the default."""
    usual = default_lr(spec, kind)
    return 3 * usual if kind.generative and spec.space is None and isinstance(spec.method, LoRA) else usual


def _fall(spec: Spec) -> tuple[float, float]:
    """(exponent, deviation) by which the best rate falls with the size: as r^-1/2 where alpha = r, not with d."""
    if spec.space is not None:
        return 0.0, 0.1
    if isinstance(spec.method, LoRA):
        return 0.5, 0.2 if spec.method.alpha == spec.method.r else 0.5
    return 0.0, 0.3


def _sizes(data: Data, spec: Spec, recipe: Recipe) -> tuple[int, int, int]:
    """(numbers stored, bytes of a file, numbers trained) of a method on the model, which is given back as it was.

    Raises:
        InputError: the method does not fit.
    """
    applied = apply(spec, data.model.module, recipe.seed, context(data, recipe))
    try:
        counted = counts(spec, applied.applied)
        return counted.stored, _bytes(applied, counted.stored), counted.trained
    finally:
        applied.release()


def _bytes(applied: AppliedMethod, stored: int) -> int:
    """Of a file of fp32 numbers: their bytes, and a line of JSON for each tensor, in units of eight."""
    shapes: dict[str, list[int]] = {}
    if isinstance(applied.trained, Subspace):
        shapes["theta"] = [stored]
    else:
        held = applied.applied.stored
        named = held() if held is not None else {n: p for n, p in applied.model.named_parameters() if p.requires_grad}
        shapes = {name: list(tensor.shape) for name, tensor in named.items()}
    digits = len(str(4 * stored))
    lines = sum(len(json.dumps({name: {"dtype": "F32", "shape": s}})) + 22 + 2 * digits for name, s in shapes.items())
    return 4 * stored + 8 * math.ceil((HEADER + lines) / 8)
