"""What a measurement is of: its question checked, model and task opened, the range of d and the recipes of its trials."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from d90.errors import InputError
from d90.files import Json
from d90.methods import Spec, parse
from d90.models.loading import Model
from d90.options import AUTO, SearchOptions, TaskOptions, TrainingOptions, parse_rate
from d90.projections import resolve
from d90.search import nearest_d
from d90.search.rules import choose_rule
from d90.subspace import layout, support
from d90.tasks import Task
from d90.training.loop import Data, context, open_task
from d90.training.recipe import Recipe, make_recipe
from d90.training.weights import settle
from d90.trials.options import RunOptions
from d90.trials.runner import TrialRunner, check_sendable
from d90.trials.store import digest

__all__ = ["Asked", "Setting", "Space", "kept_of", "prepare", "settled", "space_of"]


@dataclass(frozen=True)
class Asked:
    """What a measurement is asked for.

    Attributes:
        lr, baseline_lr: rates as numbers, "auto", or None for the default.
    """

    search: SearchOptions
    training: TrainingOptions
    data: TaskOptions
    lr: float | str | None
    baseline_lr: float | str | None

    @classmethod
    def of(cls, search: SearchOptions, training: TrainingOptions, data: TaskOptions) -> Asked:
        """With the rates decided: found by default, and the baseline's where the trials' is."""
        lr, given = parse_rate(training.lr, usual=AUTO), search.baseline_lr
        usual = AUTO if lr == AUTO else None
        return cls(search, training, data, lr, usual if given is None else parse_rate(given, usual=usual))


@dataclass(frozen=True)
class Space:
    """A method's space on a model: the lowest d, D, the number of lambdas and what counts as a layer."""

    least: int
    D: int
    lambdas: int
    layer: str
    squares_above: int | None = None  # the projection takes squares alone: d without lambdas


@dataclass(frozen=True)
class Setting:
    """A measurement that can begin.

    Attributes:
        asked: what was asked for.
        runner: trains, and keeps the trials.
        spec, recipe: of the trials, without d.
        base: the baseline's recipe; None where its score was given.
        rule: "paper", "gain" or "margin".
        low, high: the range of d to search.
    """

    asked: Asked
    runner: TrialRunner
    spec: Spec
    recipe: Recipe
    base: Recipe | None
    rule: str
    space: Space
    low: int
    high: int

    @property
    def task(self) -> Task:
        """The task, opened."""
        return self.runner.task

    @property
    def data(self) -> Data:
        """Model and task of the first seed."""
        return self.runner.data(self.recipe.seed)

    @property
    def references(self) -> int:
        """How many trials of the baseline the others are paired with; 0 but under the margin rule."""
        return self.asked.search.seeds if self.rule == "margin" else 0

    @property
    def epochs(self) -> float:
        """Of the baseline."""
        return self.asked.search.baseline_epochs or self.recipe.epochs

    @property
    def key(self) -> str:
        """Of what was asked: a measurement asked for again goes on."""
        one = self.asked.search
        parts: list[Any] = [
            str(self.spec), self.recipe.model, self.recipe.task, self.rule, one.fraction, str(one.baseline), one.seeds, one.full_curve,
            kept_of(self.recipe) | {"lr": self.asked.lr}, self.recipe.seed,
        ]  # fmt: skip
        parts += [one.within] if one.within is not None else []
        return digest([*parts, baseline] if (baseline := self._own_baseline) else parts)

    @property
    def _own_baseline(self) -> dict[str, float | str | None]:
        """What the baseline has of its own, which keys did not always tell: they do where it is not what the trials have."""
        if self.base is None:
            return {}
        usual = AUTO if self.asked.lr == AUTO else None
        found: dict[str, float | str | None] = {}
        if self.asked.baseline_lr != usual:
            found["baseline_lr"] = self.asked.baseline_lr
        if self.epochs != self.recipe.epochs:
            found["baseline_epochs"] = self.epochs
        return found


@dataclass(frozen=True)
class Settled:
    """What a question comes to, before a model is opened: the task, the methods as they are meant for it, and their recipes.

    Attributes:
        note: what is to be said of the weights, where anything is.
    """

    task: Task
    spec: Spec
    recipe: Recipe
    base: Recipe | None
    rule: str
    note: str


def settled(model: str | Model, task: str | Task, method: str | Spec, asked: Asked) -> Settled:
    """Open the task and settle methods, weights and recipes by it.

    Raises:
        InputError: as `prepare`.
    """
    one, training = asked.search, replace(asked.training, lr=asked.lr)
    recipe = make_recipe(model, task, parse(method) if isinstance(method, str) else method, training, asked.data)
    opened = open_task(task, recipe, model)
    if one.test and "test" not in opened.splits:
        recipe = replace(recipe, columns={**recipe.columns, "test": "made"})
        opened = open_task(task, recipe, model)
    rule = choose_rule(one.rule, opened.metric, one.fraction, one.within)
    if rule == "margin" and not isinstance(one.baseline, str):
        raise InputError(
            f"got baseline={one.baseline} for the margin rule, expected a method: examples are compared one by one"
        )
    specs, weights, note = settle(
        training, [method, *([one.baseline] if isinstance(one.baseline, str) else [])], opened, model
    )
    recipe = replace(recipe, method=str(specs[0]), weights=weights)
    base = None
    if isinstance(one.baseline, str):
        base = replace(make_recipe(model, task, specs[1], training, asked.data), weights=weights)
        given = asked.baseline_lr if isinstance(asked.baseline_lr, float) else None
        base = replace(base, lr=given, epochs=one.baseline_epochs or recipe.epochs, columns=recipe.columns)
    return Settled(opened, specs[0], recipe, base, rule, note)


def prepare(
    model: str | Model, task: str | Task, method: str | Spec, asked: Asked, run: RunOptions
) -> Setting:  # fmt: skip
    """Check a question and open what it is about; nothing is trained.

    Raises:
        InputError: what was wrong, what was expected, what to do.
        StoreError, RunFailed: the store cannot be used.
    """
    check_sendable(run.executor, model, task)
    found, one = settled(model, task, method, asked), asked.search
    if found.note:
        run.listener.note(found.note)
    spec, recipe = found.spec, found.recipe
    runner = TrialRunner(model, found.task, recipe, run)
    space = space_of(runner.data(recipe.seed), spec, recipe)
    low, high = max(space.least, one.low or space.least), min(space.D, one.high or space.D)
    for d in one.dims:
        if not low <= d <= high:
            raise InputError(
                f"got d={d}, expected {low} <= d <= {high} for {spec} on this model ({space.lambdas} lambdas, D={space.D})"
            )
        if space.squares_above is not None and nearest_d(d, low, high, space.squares_above) != d:
            raise InputError(
                f"got d={d}, expected a square beside {space.lambdas} lambdas for {spec}, as Theta is sqrt(d) x sqrt(d)"
            )
    return Setting(asked, runner, spec, recipe, found.base, found.rule, space, low, high)


def kept_of(recipe: Recipe) -> Json:
    """The recipe of every trial, but for method and seed."""
    return {key: value for key, value in recipe.to_dict().items() if key not in ("method", "seed")}


def space_of(data: Data, spec: Spec, recipe: Recipe) -> Space:
    """A method's space on a model.

    Raises:
        InputError: the method has none, or does not fit the model.
    """
    space = spec.at(1).space
    if space is None:
        raise InputError("a measurement needs a subspace; expected a method with '@'")
    model = data.model
    kind, _ = resolve(space.options.projection)
    squares = kind.squares
    applied = spec.method.apply(model.module, context(data, recipe))
    try:
        support.check_supported(model.module)
        named = layout.trainable(model.module)
        names = list(named)
        if space.options.head == "outside":
            outside = set(layout.head_tensors(model.module, names))
            names = [name for name in names if name not in outside]
        if space.options.structure != "said":
            return Space(1, sum(named[name].numel() for name in names), 0, "none (did)", 0 if squares else None)
        layers, definition = layout.layer_of(model.module, names, space.options.layer)
        m = len(set(layers))
        return Space(m + 1, sum(named[name].numel() for name in names), m, definition, m if squares else None)
    finally:
        applied.remove()
