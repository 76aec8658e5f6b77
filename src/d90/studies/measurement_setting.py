"""What a measurement is of: its question checked, model and task opened, the range of d and the recipes of its trials."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from d90.errors import InputError
from d90.methods import Spec, parse
from d90.models.loading import Model
from d90.search.rules import choose_rule
from d90.subspace import layout, support
from d90.tasks import Task
from d90.training.loop import Data, context, open_task
from d90.training.progress import Progress
from d90.training.rates import AUTO, parse_rate
from d90.training.recipe import Recipe, make_recipe
from d90.trials.executor import Executor
from d90.trials.runner import TrialRunner, check_sendable
from d90.trials.store import Store, digest

__all__ = ["MeasureOptions", "Place", "Setting", "Space", "kept_of", "prepare", "space_of"]


@dataclass(frozen=True)
class MeasureOptions:
    """What a measurement is asked for: the arguments of `measure` that are no recipe's fields."""

    rule: str | None
    fraction: float
    within: float | None
    full_curve: bool
    prune: bool
    test: bool
    dims: tuple[int, ...]
    low: int | None
    high: int | None
    start: int
    resolution: float
    budget: float
    parallel: int
    seeds: int
    baseline: str | float
    lr: float | str | None
    baseline_lr: float | str | None
    baseline_epochs: float | None

    def __post_init__(self) -> None:
        for name in ("seeds", "resolution", "budget", "parallel"):
            if not getattr(self, name) >= 1:
                raise InputError(f"got {name}={getattr(self, name)}, expected at least 1")


@dataclass(frozen=True)
class Place:
    """Where trials run and what they leave, as `measure` takes it."""

    store: str | os.PathLike[str] | Store
    progress: Progress
    log: str | os.PathLike[str] | None
    executor: Executor | None


@dataclass(frozen=True)
class Space:
    """A method's space on a model: the lowest d, D, the number of lambdas and what counts as a layer."""

    least: int
    D: int
    lambdas: int
    layer: str


@dataclass(frozen=True)
class Setting:
    """A measurement that can begin.

    Attributes:
        asked: what was asked for, with the rule and the rates decided.
        runner: trains, and keeps the trials.
        spec, recipe: of the trials, without d.
        base: the baseline's recipe; None where its score was given.
        rule: "paper", "gain" or "margin".
        low, high: the range of d to search.
    """

    asked: MeasureOptions
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
        return self.asked.seeds if self.rule == "margin" else 0

    @property
    def epochs(self) -> float:
        """Of the baseline."""
        return self.asked.baseline_epochs or self.recipe.epochs

    @property
    def key(self) -> str:
        """Of what was asked: a measurement asked for again goes on."""
        one = self.asked
        parts: list[Any] = [
            str(self.spec), self.recipe.model, self.recipe.task, self.rule, one.fraction, str(one.baseline), one.seeds, one.full_curve,
            kept_of(self.recipe) | {"lr": one.lr}, self.recipe.seed,
        ]  # fmt: skip
        return digest([*parts, one.within] if one.within is not None else parts)


def prepare(
    model: str | Model, task: str | Task, method: str | Spec, asked: MeasureOptions, options: dict[str, Any], place: Place
) -> Setting:  # fmt: skip
    """Check a question and open what it is about; nothing is trained.

    Raises:
        InputError: what was wrong, what was expected, what to do.
        StoreError, RunFailed: the store cannot be used.
    """
    check_sendable(place.executor, model, task)
    spec = parse(method) if isinstance(method, str) else method
    asked = _with_rates(asked)
    options = {**options, "lr": None if asked.lr == AUTO else asked.lr}
    recipe = make_recipe(model, task, spec, options)
    opened = open_task(task, recipe, model)
    if asked.test and "test" not in opened.splits:
        recipe = replace(recipe, columns={**recipe.columns, "test": "made"})
        opened = open_task(task, recipe, model)
    rule = choose_rule(asked.rule, opened.metric, asked.fraction, asked.within)
    if rule == "margin" and not isinstance(asked.baseline, str):
        raise InputError(
            f"got baseline={asked.baseline} for the margin rule, expected a method: examples are compared one by one"
        )
    base = None
    if isinstance(asked.baseline, str):
        base = make_recipe(model, task, parse(asked.baseline), options)
        given = asked.baseline_lr if isinstance(asked.baseline_lr, float) else None
        base = replace(base, lr=given, epochs=asked.baseline_epochs or recipe.epochs, columns=recipe.columns)
    store = place.store if isinstance(place.store, Store) else Store(place.store)
    runner = TrialRunner(model, opened, recipe, store, place.progress, place.log, place.executor)
    space = space_of(runner.data(recipe.seed), spec, recipe)
    low, high = max(space.least, asked.low or space.least), min(space.D, asked.high or space.D)
    for d in asked.dims:
        if not low <= d <= high:
            raise InputError(
                f"got d={d}, expected {low} <= d <= {high} for {spec} on this model ({space.lambdas} lambdas, D={space.D})"
            )
    return Setting(asked, runner, spec, recipe, base, rule, space, low, high)


def _with_rates(asked: MeasureOptions) -> MeasureOptions:
    """Rates as numbers, "auto" or None; the baseline's is found where the trials' is."""
    lr = parse_rate(asked.lr)
    given = asked.baseline_lr
    return replace(asked, lr=lr, baseline_lr=parse_rate(given) if given is not None else AUTO if lr == AUTO else None)


def kept_of(recipe: Recipe) -> dict[str, Any]:
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
    applied = spec.method.apply(model.module, context(data, recipe))
    try:
        support.check_supported(model.module)
        named = layout.trainable(model.module)
        names = list(named)
        if space.options.head == "outside":
            outside = set(layout.head_tensors(model.module, names))
            names = [name for name in names if name not in outside]
        if space.options.structure != "said":
            return Space(1, sum(named[name].numel() for name in names), 0, "none (did)")
        layers, definition = layout.layer_of(model.module, names, space.options.layer)
        m = len(set(layers))
        return Space(m + 1, sum(named[name].numel() for name in names), m, definition)
    finally:
        applied.remove()
