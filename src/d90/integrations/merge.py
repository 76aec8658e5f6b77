"""A tune written out as an ordinary model: config, tokenizer and safetensors, with nothing of d90 left in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from d90.errors import InputError
from d90.files import check_new_folder, new_folder
from d90.integrations.convert import write_tokenizer
from d90.integrations.unit import fold_unit
from d90.methods import load
from d90.models.loading import opened_as
from d90.models.sentences import write_sentence_folder
from d90.tasks.kinds import TaskKind
from d90.training.base import open_base
from d90.training.progress import Progress
from d90.training.record import note_not_covered, read_record
from d90.training.writing import settle_generation

__all__ = ["auto_class_of", "merge"]


def merge(path: str | os.PathLike[str], out: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Write theta_0 + Delta as a model folder.

    The Auto class of the tune's kind of task loads it, as `AutoModelForSequenceClassification.from_pretrained(out)`.
    The weights have the base's shapes, in fp32 as they were trained; the classes have the task's names, and the tokenizer cuts
    texts where the tune's training did. A regression's model puts out values in the unit of its labels. The folder appears whole
    or not at all.

    Example:
        >>> folder = d90.merge(tune, "merged")
        >>> (folder / "config.json").exists()
        True

    Args:
        path: a tune with its recipe beside it.
        out: a folder that is not there yet, or is empty.
        progress: notes what the file of an earlier version does not cover.

    Raises:
        InputError: an unsound tune, another base model, a method that adds modules, an image network, or a folder that
            holds something; a regression whose last layer cannot hold the unit of the values.
    """
    record = read_record(path)
    spec = record.spec
    folder = check_new_folder(out)
    if not spec.method.merges:
        raise spec.method.no_merge()
    recipe, labels = record.recipe, list(record.task.labels)
    if not record.task.texts:
        raise InputError(
            f"'{path}' is the tune of '{recipe.model}', expected one of a Hugging Face model: an image network has no "
            "config to write. Use the tune with 'd90 evaluate'"
        )
    note_not_covered(path, record, progress)
    model = open_base(record)
    module: Any = load(spec, path, model.module, recipe.seed).merge()
    kind = record.kind
    if kind.unit_of_outputs != (0.0, 1.0):
        fold_unit(module, *kind.unit_of_outputs, path)
    _describe(module, labels)
    if kind.writes:
        settle_generation(model)
    if model.tokenizer is not None and model.max_length:
        model.tokenizer.model_max_length = model.max_length
    with new_folder(folder) as whole:
        module.save_pretrained(whole)
        if model.processor is not None:
            model.processor.save_pretrained(whole)
        write_tokenizer(model, kind, whole)
        if kind.pools:
            width = int(model.module.config.get_text_config().hidden_size)  # type: ignore[union-attr, operator]
            write_sentence_folder(whole, model.pooling, width, model.max_length)
    return folder


def auto_class_of(folder: Path, kind: TaskKind) -> str:
    """The Auto class of transformers that opens a merged folder."""
    from transformers import AutoConfig

    return str(opened_as(kind, AutoConfig.from_pretrained(folder, trust_remote_code=False)).auto_class)


def _describe(module: nn.Module, labels: list[str]) -> None:
    """The config as the merged model needs it: the classes' names, and no path of this machine."""
    config: Any = module.config
    if labels:
        config.id2label = dict(enumerate(map(str, labels)))
        config.label2id = {str(label): i for i, label in enumerate(labels)}
    config._name_or_path = ""
