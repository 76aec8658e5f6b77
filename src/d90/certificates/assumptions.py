"""What a guarantee rests on, and what was found about it in the examples and about the base model."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

import torch

from d90.errors import InputError
from d90.models.loading import Model, encode
from d90.tasks import Task
from d90.tasks.names import GLUE
from d90.tasks.overlap import asked_again, asked_once, common, keys, overlap

__all__ = ["WARNING", "assumptions", "base_hints", "drop_copies", "refuse_copies"]

WARNING = "warning"
DATASETS = {name.removeprefix("glue/") for name in GLUE} | {"glue", "imdb", "yelp", "anli", "snli", "wiki"}


def assumptions(task: Task, model: Model) -> tuple[str, ...]:
    """What the guarantee rests on: a line each; what was found against it begins with `WARNING`."""
    said, train = ["the examples are independent draws from the distribution the error is of"], task.train
    groups = task.groups("train")
    if groups is not None:
        counted = (
            "its loss their mean" if task.kind.generative else "of whose examples one counts, drawn by our own bits"
        )
        said += [f"{len(train):,} examples share {task.kind.shared(train)}: each is one independent example, {counted}"]
        train = asked_once(task.kind, train)
    found = overlap(train, phrases=groups is None).lines
    said += [f"{WARNING}: {line}" for line in found] or ["no example repeats another"]
    for name, other in (("test", task.test), ("validation", task.validation)):
        repeated = max(common(other, task.train), asked_again(task.kind, other, task.train)) if other else 0
        if repeated:
            said.append(f"{WARNING}: {repeated:,} {name} examples stand among the training examples as well")
    hints = base_hints(model, task)
    said.append("the base model was not trained on these examples" + (" (not checked)" if not hints else ""))
    return (*said, *(f"{WARNING}: {hint}; a base that saw these examples voids the bound" for hint in hints))


def refuse_copies(model: Model, first: Task, counted: Task) -> None:
    """Refuse a prior whose examples stand among those that count: a bound on what the starting point was trained on is false.

    Raises:
        InputError: how many, and what to do.
    """
    known = [set(each) for each in zip(*_keys(model, first), strict=True)]
    repeated = sum(any(key in seen for key, seen in zip(row, known, strict=True)) for row in _keys(model, counted))
    if repeated:
        raise InputError(
            f"{repeated:,} of the {len(counted.train):,} examples that count stand in the prior's part as well (equal bytes, texts "
            "equal but for case and punctuation, or equal tokens once cut to the model's length), expected none: the starting point was "
            "trained on them, so the bound would be false. Drop the copies from the data, or keep the first of each with "
            "copies='drop' (--copies drop)"
        )


def drop_copies(model: Model, task: Task) -> tuple[Task, int]:
    """The task without the training examples that repeat an earlier one, and how many those are."""
    seen: set[Hashable] = set()
    kept = []
    for index, row in enumerate(_keys(model, task)):
        named = list(enumerate(row))
        if not any(key in seen for key in named):
            kept.append(index)
        seen.update(named)
    if len(kept) == len(task.train):
        return task, 0
    return replace(task, train=task.train.pick(torch.tensor(kept))), len(task.train) - len(kept)


def _keys(model: Model, task: Task) -> list[tuple[Hashable, ...]]:
    """Each training example's keys: its content, and of a text that the model cuts the tokens that are left."""
    split = task.train
    content = keys(split)
    if isinstance(split.inputs, torch.Tensor) or model.tokenizer is None:
        return [(key,) for key in content]
    seen = encode(model, split.inputs, task.kind).ids
    return [(key, tuple(ids) if len(ids) == model.max_length else key) for key, ids in zip(content, seen, strict=True)]


def base_hints(model: Model, task: Task) -> list[str]:
    """What says that the base model may have been trained on the task's examples: its head, name, card, or own record."""
    hints = []
    if model.tokenizer is not None and model.vocabulary is None and not model.fresh:
        hints.append(
            f"the base '{model.name}' comes with a head for {len(task.labels)} classes, so it was trained on labels"
        )
    folder = Path(model.name)
    # as `d90 pretrain` leaves it, beside the checkpoints
    text = next((text for path in (folder, folder.parent) if (text := _pretrained_on(path)) is not None), None)
    source = Path(task.name.partition(":")[2] or task.name).resolve()
    if text is not None and (text == source or source in text.parents):
        hints.append(f"the base '{model.name}' was pretrained on '{text.name}' of this task")
    last = task.name.lower().rpartition("/")[2]
    name = next((part for part in re.split("[^a-z0-9]+", last) if part in DATASETS), None)
    if name is not None:
        if _speaks_of(model.name, name):
            hints.append(f"the name of the base, '{model.name}', speaks of {name}")
        with contextlib.suppress(OSError, ValueError):
            if _speaks_of((folder / "README.md").read_text(encoding="utf-8"), name):
                hints.append(f"the card of the base '{model.name}' speaks of {name}")
    return hints


def _pretrained_on(folder: Path) -> Path | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return Path(json.loads((folder / "pretraining.json").read_text(encoding="utf-8"))["recipe"]["text"]).resolve()
    return None


def _speaks_of(text: str, name: str) -> bool:
    """Whether a word of the text, or two in a row, is the name: "SST-2" is sst2."""
    found = re.findall("[a-z0-9]+", text.lower())
    return name in found or any(a + b == name for a, b in itertools.pairwise(found))
