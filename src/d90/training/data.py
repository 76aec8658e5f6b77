"""A task and a model opened for one another: the classes in one order, texts encoded, a network's outputs looked at first."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.models.loading import checkpoint_labels
from d90.models.loading import load as load_model
from d90.models.model import Model, as_model
from d90.tasks import Task
from d90.tasks import load as load_task
from d90.tasks.answers import Questions
from d90.training.answers import ask
from d90.training.batches import Batches, outputs_of
from d90.training.evaluation import Assessment, assess
from d90.training.forgetting import Retained, measure_forgetting, retained
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.training.result import Forgotten

__all__ = ["Data", "open_model", "open_task"]


class Data:
    """A task encoded for a model, shared by the trials of a search.

    Args:
        timed: whether precision "auto" is decided by a timed step (`d90.training.precision`).
        precision: what was decided before, for other trials of the same study.
        texts: a folder for texts that models write themselves (`d90.training.forgetting`); by default in the user's cache.
    """

    def __init__(
        self, model: Model, task: Task, timed: bool = False, precision: str | None = None, texts: Path | None = None
    ) -> None:
        self.model, self.task, self.timed, self.precision = model, task, timed, precision
        self.precision_note, self.texts = "", texts
        self.train = Batches(model, task.train, task.kind)
        self.validation = Batches(model, task.validation, task.kind)
        self._test: Batches | None = None
        self._told: set[str] = set()
        self._questions: dict[str, Questions] = {}
        self._retained: dict[str | None, list[Retained]] = {}
        self._untrained: dict[str, Assessment] = {}

    def split(self, name: str) -> Batches:
        """A split, encoded; the test split when it is first asked for."""
        if name != "test":
            return self.train if name == "train" else self.validation
        if self._test is None:
            self._test = Batches(self.model, self.task.splits["test"], self.task.kind)
        return self._test

    def questions(self, name: str) -> Questions:
        """What a split asks the model to write, rendered when it is first asked for."""
        if name not in self._questions:
            self._questions[name] = ask(self.model, self.task.splits[name], self.task.kind)
        return self._questions[name]

    def remember(self, keep: str | None, progress: Progress) -> None:
        """Evaluate the plain model on what it should not forget (`d90.training.forgetting`), before any method is put on it."""
        if keep not in self._retained:
            progress.note(
                "the base is scored on text it writes itself, and keeps, before anything is trained: what a tune forgets is shown beside it"
            )
            self._retained[keep] = retained(self.model, keep, self.texts)

    def forgotten(self, keep: str | None) -> tuple[Forgotten, ...]:
        """What the tune that lies on the model has forgotten of that."""
        return measure_forgetting(self.model, self._retained[keep])

    def untrained(self, precision: str) -> Assessment:
        """What the plain model gives on the validation split, looked at once: the same for every method that starts at the base."""
        if precision not in self._untrained:
            self._untrained[precision] = assess(self, "validation", precision)
        return self._untrained[precision]

    def chance(self, split: str) -> float:
        """The score on a split of the best guess that sees no input: `Task.chance`, or of hidden tokens their frequencies in training."""
        kind, held = self.task.kind, self.split(split)
        if not kind.fills:
            return self.task.chance(split, self.model.vocabulary)
        batch = held.inputs(torch.arange(len(held)))
        assert isinstance(batch, dict)
        return kind.unigram(self.train.tokens(), batch["target"], len(self.model.tokenizer))  # type: ignore[arg-type]

    def for_model(self, model: Model) -> Data:
        """The same encoded task for the same kind of model with other fresh weights."""
        other = copy.copy(self)
        other.model = model
        if model.fresh or self.task.kind.from_scratch:
            other._untrained = {}
        model.choose_attention(max(self.model.longest_seen, 1))
        return other

    @property
    def truncated(self) -> int:
        """How many texts were longer than the model takes."""
        return self.train.truncated + self.validation.truncated

    def note_once(self, text: str, progress: Progress) -> None:
        """Say what is the same in every trial, in the first one."""
        if text not in self._told:
            self._told.add(text)
            progress.note(text)

    def note_truncation(self, progress: Progress) -> None:
        """Say how many texts were cut, if any were."""
        if self.truncated:
            progress.note(
                f"{self.truncated} texts are longer than {self.model.max_length} tokens and {self.task.kind.cut}"
            )


def open_task(task: str | Task, recipe: Recipe, model: str | Model | None = None) -> Task:
    """The task as the recipe reads it, its classes in the order that the model's checkpoint gives them where the names agree.

    Args:
        model: given as an object; otherwise the recipe names it.
    """
    if not isinstance(task, str):
        task = task.with_test() if "test" in recipe.columns else task
        task = task.limit(recipe.train_limit, recipe.validation_limit)
    else:
        columns: Mapping[str, Any] = recipe.columns
        task = load_task(task, limit=recipe.train_limit, validation_limit=recipe.validation_limit, **columns)
    if not task.labels or task.kind.auto_class is None:
        return task
    return task.in_order(model.labels if isinstance(model, Model) else checkpoint_labels(recipe.model, task.outputs))


def open_model(model: str | Model | nn.Module, task: Task, recipe: Recipe, device: str = "cpu") -> Model:
    """The model with a head for the task, its fresh weights drawn from the recipe's seed; one opened by its name on `device`.

    Raises:
        InputError: a model that does not fit the task.
    """
    loaded = as_model(model)
    if isinstance(loaded, str):
        loaded = load_model(loaded, task.outputs, task.kind, recipe.seed, recipe.max_length, recipe.weights)
        if recipe.weights != "4bit":  # which lie on the GPU already
            loaded.module.to(device)
    elif isinstance(task.train.inputs, Tensor) and loaded.tokenizer is None:
        _check_outputs(loaded, task)
    task.kind.check_model(loaded.name, loaded.tokenizer, task.name)
    return _note_labels(loaded, task)


@torch.no_grad()
def _check_outputs(model: Model, task: Task) -> None:
    """Refuse a network of the user's that does not give a number for each class, before it is trained.

    Raises:
        InputError: what it gives, or why it cannot take the images.
    """
    assert isinstance(task.train.inputs, Tensor)
    modes = [(part, part.training) for part in model.module.modules()]
    model.module.eval()
    shape = tuple(task.train.inputs.shape[1:])
    try:
        found = tuple(outputs_of(model.module, task.train.inputs[:2]).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"model '{model.name}' cannot take the images of task '{task.name}', {shape} each: {' '.join(str(error).split())[:160]}"
        ) from None
    finally:
        for part, mode in modes:
            part.training = mode
    count = min(2, len(task.train))
    if found != (count, task.outputs):
        raise InputError(
            f"model '{model.name}' gives outputs of shape {found} for {count} images, expected {(count, task.outputs)}: a number for "
            "each class. Change its last layer"
        )


def _note_labels(model: Model, task: Task) -> Model:
    """Say where a checkpoint's own head is used and its classes have numbers for names."""
    theirs, ours = ([name.casefold() for name in names] for names in (model.labels, task.labels))
    if not theirs or theirs == ours:
        return model
    pairs = ", ".join(f"'{a}' as '{b}'" for a, b in zip(model.labels[:4], task.labels, strict=False))
    note = f"the checkpoint's own head is used by number, for its class names are not the data's: {pairs}"
    return model if note in model.notes else replace(model, notes=(*model.notes, note))
