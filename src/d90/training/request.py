"""A run that is wanted, before model and task are opened, and what it comes to once they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from d90.methods import Spec, parse
from d90.models.model import Model
from d90.options import TaskOptions, TrainingOptions
from d90.tasks import Task
from d90.training.recipe import Recipe, make_recipe, suited
from d90.training.weights import settle

__all__ = ["TrainingRequest"]


@dataclass(frozen=True)
class TrainingRequest:
    """What `d90.train` is asked for.

    Attributes:
        model, task: as `d90.train` takes them.
        method, d: in the grammar of `d90.methods`; d stands in place of the method's own.
        training, data: how it is trained, and how the task's data is read.
    """

    model: str | Model | nn.Module
    task: str | Task
    method: str | Spec
    d: int | None
    training: TrainingOptions
    data: TaskOptions

    @property
    def spec(self) -> Spec:
        """The method, before the kind of task has a say in it."""
        return self._at(parse(self.method) if isinstance(self.method, str) else self.method)

    @property
    def recipe(self) -> Recipe:
        """What opening model and task needs: method and weights are not settled."""
        return make_recipe(self.model, self.task, self.spec, self.training, self.data)

    def settled(self, task: Task, model: str | Model, device: str | None = None) -> tuple[Spec, Recipe, str]:
        """(the method as it is meant for the task, the recipe, what is to be said of the weights).

        Raises:
            InputError: weights that cannot be held so.
        """
        spec = self._at(suited(self.method, task.kind))
        (spec,), weights, held = settle(self.training, [spec], task, model, device)
        return spec, replace(self.recipe, method=str(spec), weights=weights), held

    def _at(self, spec: Spec) -> Spec:
        return spec if self.d is None else spec.at(self.d)
