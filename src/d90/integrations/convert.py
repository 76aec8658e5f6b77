"""convert(task.d90, "peft" | "lora", folder) -> Converted: a tune of `d90 train` in a form that peft loads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from d90.errors import InputError, unknown_name
from d90.files import check_new_folder, new_folder
from d90.integrations.serving import serving_lines
from d90.methods import Context, Spec
from d90.models.model import Model
from d90.subspace import file as tune_file
from d90.subspace import layout
from d90.tasks.kinds import TaskKind
from d90.tasks.metrics import LOSS
from d90.training.base import open_base
from d90.training.batches import Batches
from d90.training.device import best_device
from d90.training.loading import task_of
from d90.training.loop import predict
from d90.training.progress import Progress
from d90.training.record import TuneRecord, note_not_covered, read_record

__all__ = ["FORMS", "Converted", "convert", "named", "write_tokenizer"]

FORMS = ("peft", "lora")
TASK_TYPES = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
}  # peft's words, of models without a fresh head


@dataclass(frozen=True)
class Converted:
    """A folder, and what it holds of the tune.

    Attributes:
        folder, form: as asked.
        method: what the tune was trained with.
        rank: of the LoRA adapter; None for "peft".
        exact: whether nothing is lost.
        kept, lost: as `d90.integrations.lora.Exported` has them.
        note: what is to be done with the model's outputs, where anything is.
        serve: of a language model, how servers load the folder, a line each.
        metric, before, after: the task's metric on its validation split with the tune and with the folder, if measured.
    """

    folder: Path
    form: str
    method: str
    rank: int | None = None
    exact: bool = True
    kept: float = 1.0
    lost: Mapping[str, float] | None = None
    metric: str = ""
    before: float | None = None
    after: float | None = None
    note: str = ""
    serve: tuple[str, ...] = ()


def convert(
    path: str | os.PathLike[str],
    to: str,
    folder: str | os.PathLike[str],
    rank: int | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> Converted:
    """Convert a tune that has its recipe beside it; the base is loaded as the recipe names it.

    Args:
        path: written by `d90 train`.
        to: "peft", theta in a folder that peft loads where d90 is installed; or "lora", which needs no d90.
        folder: where to: one that is not there yet, or is empty; it appears whole or not at all.
        rank: for "lora" of a tune that was not trained as LoRA.
        check: for "lora", score tune and folder on the task's validation split.
        progress: notes what the file of an earlier version does not cover.

    Raises:
        InputError: an unknown form, a folder that holds something, a tune the form cannot hold, as `d90.training.loading.read_record`.
    """
    if to not in FORMS:
        raise unknown_name("form to convert to", to, FORMS)
    check_new_folder(folder)
    record = read_record(path)
    spec = record.spec
    if to == "peft":
        if rank is not None:
            raise InputError(f"got rank={rank} for to='peft', expected none: it holds theta as it is. Leave it out")
        if spec.space is None:
            raise InputError(
                f"'{path}' was trained with '{spec}', without a subspace, expected a tune of d numbers. Use to='lora'"
            )
    recipe = record.recipe
    note_not_covered(path, record, progress)
    model, unit = open_base(record), record.kind.unit_of_outputs
    if to == "peft":
        from d90.integrations.peft import from_tune

        adapter = from_tune(path, model.module, parameters=_moved(path, spec, model.module, recipe.seed))
        with new_folder(folder) as whole:
            adapter.save_pretrained(whole)
        note = "" if unit == (0.0, 1.0) else f"the model puts out z, and a value is {unit[0]:.6g} + {unit[1]:.6g} z"
        return Converted(Path(folder), to, str(spec), note=note)
    from d90.integrations.lora import TaskExtras, to_lora

    probe, score, metric = _probe(model, record) if check else (None, None, "")
    model.module.to(best_device() if check else "cpu")
    kind = record.kind
    extras = TaskExtras(unit, TASK_TYPES.get(str(kind.auto_class)), partial(write_tokenizer, model, kind))
    found = to_lora(path, model.module, folder, rank=rank, method=spec, seed=recipe.seed, probe=probe, task=extras)
    scores = [score(outputs) for outputs in (found.tuned, found.exported)] if score else [None, None]
    return Converted(
        Path(folder), to, str(spec), found.rank, found.exact, found.kept, found.lost, metric, scores[0], scores[1],
        serve=tuple(serving_lines(named(model, recipe.model), folder, found.rank)) if kind.generative and not kind.writes else (),
    )  # fmt: skip


def write_tokenizer(model: Model, kind: TaskKind, folder: Path) -> None:
    """Write the tokenizer into a folder, with the chat template that the tune was trained with."""
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        return
    own = getattr(tokenizer, "chat_template", None)
    template = kind.record.get("chat_template")
    try:
        if template is not None:
            tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
    finally:
        if template is not None:
            tokenizer.chat_template = own


def named(model: Model, name: str) -> str:
    """The name or folder by which other programs find a base model."""
    config: Any = getattr(model.module, "config", None)
    return str(getattr(config, "_name_or_path", "") or name)


def _moved(path: str | os.PathLike[str], spec: Spec, module: nn.Module, seed: int) -> list[str] | None:
    """Names of the parameters under the subspace; None for all.

    Raises:
        InputError: the method puts parameters of its own in.
    """
    plain = {name for name, _ in module.named_parameters()}
    applied = spec.method.apply(module, Context(seed, stored=tune_file.read(path)[1]))
    moved = list(layout.trainable(module))
    applied.remove()
    added = [name for name in moved if name not in plain]
    if added:
        raise InputError(
            f"'{path}' was trained over '{spec.method}', which puts '{added[0]}' in, expected a subspace over the model's own "
            "weights. Use to='lora'"
        )
    return None if set(moved) == plain else moved


def _probe(model: Model, record: TuneRecord) -> tuple[Callable[[nn.Module], Tensor], Any, str]:
    """(outputs of a module on the validation split, their score, the metric's name)."""
    task = task_of(record)
    if task.kind.asks(task.metric):
        task = task.with_metric(LOSS)  # which outputs tell
    batches = Batches(model, task.splits["validation"], task.kind)
    precision = record.outcome.precision
    return (
        lambda module: predict(replace(model, module=module), batches, precision),
        lambda outputs: task.score(outputs, "validation"),
        task.metric,
    )
