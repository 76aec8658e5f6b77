"""measure(model, task) -> Measurement: the full fine-tuning baseline, the threshold, and the smallest d that reaches
it.

    paper rule   threshold = fraction x baseline                              (Aghajanyan et al. 2021, section 3)
    gain rule    threshold = chance + fraction x (baseline - chance)          chance: the better of the majority class
    and the untrained model

Every trial is in the store as it ends; asked again, or after a kill, a measurement repeats none of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from d90 import layout, search
from d90.errors import InputError, choose
from d90.lab import Lab, versions
from d90.methods import Spec, parse
from d90.models import Model
from d90.progress import Progress
from d90.recipe import Recipe, make_recipe
from d90.sweep.store import Store, hashed
from d90.tasks import Task
from d90.training import Data, context, open_task

__all__ = ["RULES", "Measurement", "measure"]

RULES = ("paper", "gain")


@dataclass(frozen=True)
class Point:
    """One trial on the accuracy-against-d curve; `at_least` marks a trial that stopped once it passed."""

    d: int
    seed: int
    score: float
    at_least: bool
    status: str
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """The answer, with everything needed to judge and repeat it.

    Attributes:
        status: "found"; "floor": the lowest d possible passes; "trivial": the threshold is not above chance, so no d
            would mean anything;
            "unreachable": no d tried reaches it.
        d90: the smallest d that reached the threshold; None where the status is trivial or unreachable.
        interval: (largest d that failed below it, d90].
        baseline: mean score of full fine-tuning over `baseline_scores`, a seed each.
        majority, zero: the score of the most frequent class, and of the untrained model; chance is the larger.
        curve: the trials behind the answer.
        recipe: of every trial but for d, lr and seed.
        definitions: what was counted as a layer, the scale, the rule, the versions.
    """

    model: str
    task: str
    method: str
    metric: str
    rule: str
    fraction: float
    status: str
    d90: int | None
    interval: tuple[int | None, int | None]
    D: int
    lambdas: int
    baseline: float
    baseline_scores: tuple[float, ...]
    baseline_method: str
    majority: float
    zero: float
    threshold: float
    curve: tuple[Point, ...]
    recipe: dict[str, Any]
    definitions: dict[str, Any]
    seconds: float
    command: str = ""

    @property
    def chance(self) -> float:
        """The better of the majority class and the untrained model."""
        return max(self.majority, self.zero)

    def __str__(self) -> str:
        found = {
            "found": f"d90 = {self.d90}",
            "floor": f"d90 <= {self.d90}, the lowest d possible here",
            "trivial": "d90 has no meaning here: the threshold is not above chance (try rule='gain')",
            "unreachable": f"d90 > {self.interval[0]}: no d tried reaches the threshold",
        }[self.status]
        return (
            f"{found}  ({self.method}; {self.rule} rule: {self.metric} {self.threshold:.4f} = {self.fraction:g} of "
            f"{self.baseline:.4f}, chance {self.chance:.4f}; D = {self.D:,})"
        )


def measure(
    model: str | Model,
    task: str | Task,
    method: str | Spec = "full",
    *,
    rule: str = "paper",
    fraction: float = 0.9,
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    full_curve: bool = False,
    dims: Sequence[int] = (),
    low: int | None = None,
    high: int | None = None,
    start: int = 256,
    resolution: float = 1.1,
    seeds: int = 1,
    baseline: str | float = "full",
    baseline_lr: float | None = None,
    baseline_epochs: float | None = None,
    command: str = "",
    log: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Measurement:
    """Measure d90 of `method`'s space for `model` on `task`.

    Args:
        model, task: as for `d90.train`.
        method: what moves and, behind "@", the kind of subspace (without d): "full@structure=said".
        rule, fraction: how the threshold is made.
        store: path of the SQLite store, or an open one.
        full_curve: train every trial to its end instead of stopping it once it passes.
        dims: values of d to try besides, for a curve.
        low, high, start, resolution: of the search (`d90.search.search`); low and high default to what the method
            allows.
        seeds: trials use the seeds seed ... seed + seeds - 1; a d passes when more than half of them do.
        baseline: the method whose score counts as full, or a number (Li et al.'s global baseline of 1.0).
        baseline_lr, baseline_epochs: of the baseline; by default its method's own rate, and the trials' epochs.
        command: the command line that asked, kept with the result.
        log: a file that gets one JSON line for each trial trained, as it ends.
        progress: is told what happens.
        options: fields of `Recipe` for every trial.

    Raises:
        InputError: what was wrong, what was expected, what to do.
        StoreError, RunFailed: the store cannot be used.
    """
    told = progress or Progress()
    if rule not in RULES:
        raise choose("rule", rule, RULES)
    if not 0 < fraction <= 1:
        raise InputError(f"got fraction={fraction}, expected a share of the baseline, 0 < fraction <= 1")
    if seeds < 1:
        raise InputError(f"got seeds={seeds}, expected at least 1")
    spec = parse(method) if isinstance(method, str) else method
    recipe = make_recipe(model, task, spec, options)
    lab = Lab(model, open_task(task, recipe), recipe, store if isinstance(store, Store) else Store(store), told, log)
    least, most, m, definition = _limits(lab.data(recipe.seed), spec, recipe)
    low, high = max(least, low or least), min(most, high or most)
    for d in dims:
        if not low <= d <= high:
            raise InputError(
                f"got d={d}, expected {low} <= d <= {high} for {spec} on this model ({m} lambdas, D={most})"
            )
    told.search_started(f"d90 of {recipe.model} on {recipe.task}, {spec}")
    if lab.data(recipe.seed).truncated:
        count = lab.data(recipe.seed).truncated
        told.note(f"{count} texts are longer than {lab.model(recipe.seed).max_length} tokens and were truncated")

    every_seed = range(recipe.seed, recipe.seed + seeds)
    if isinstance(baseline, str):
        epochs = baseline_epochs or recipe.epochs
        base = replace(recipe, method=str(parse(baseline)), lr=baseline_lr, epochs=epochs)
        scores = tuple(lab.trial(parse(baseline), replace(base, seed=seed), None)["score"] for seed in every_seed)
    else:
        scores = (float(baseline),)
    full = sum(scores) / len(scores)
    task_ = lab.task
    majority = task_.chance()
    zero = lab.zero_score(spec.at(low))
    floor = max(majority, zero) if rule == "gain" else 0.0
    threshold = floor + fraction * (full - floor)
    told.search_planned(
        f"baseline {full:.4f}, threshold {threshold:.4f} ({rule} rule), chance {max(majority, zero):.4f}"
    )

    def score(d: int, seed: int) -> float:
        trial = replace(recipe, method=str(spec.at(d)), seed=seed)
        return float(lab.trial(spec.at(d), trial, None if full_curve else threshold)["score"])

    if threshold <= max(majority, zero):
        for d in dims:
            score(d, recipe.seed)
        found = search.Found("trivial", None, (None, None), ())
    else:
        found = search.search(
            score,
            threshold,
            low=low,
            high=high,
            start=start,
            first=dims,
            seeds=every_seed,
            resolution=resolution,
            told=told.search_planned,
        )
    result = Measurement(
        model=recipe.model,
        task=recipe.task,
        method=str(spec),
        metric=task_.metric,
        rule=rule,
        fraction=fraction,
        status=found.status,
        d90=found.d90,
        interval=found.interval,
        D=most,
        lambdas=m,
        baseline=full,
        baseline_scores=scores,
        baseline_method=baseline if isinstance(baseline, str) else "a given number",
        majority=majority,
        zero=zero,
        threshold=threshold,
        curve=tuple(_points(lab)),
        recipe={key: value for key, value in asdict(recipe).items() if key not in ("method", "seed")},
        definitions={
            "layer": definition,
            "seeds": list(every_seed),
            "resolution": resolution,
            "notes": list(task_.notes),
            "truncated": lab.data(recipe.seed).truncated,
            "task": task_.fingerprint,
            "base": lab.model(recipe.seed).fingerprint,
            **versions(),
        },
        seconds=lab.seconds,
        command=command,
    )
    asked = [
        str(spec),
        recipe.model,
        recipe.task,
        rule,
        fraction,
        str(baseline),
        seeds,
        full_curve,
        result.recipe,
        recipe.seed,
    ]
    lab.store.put_study(hashed(asked), "measure", asdict(result))
    told.search_ended(str(result))
    return result


def _points(lab: Lab) -> Iterator[Point]:
    for spec, recipe, body in lab.trials:
        if spec.space and spec.space.d is not None:
            passed = body["status"] == "passed"
            yield Point(spec.space.d, recipe.seed, body["score"], passed, body["status"], body["seconds"])


def _limits(data: Data, spec: Spec, recipe: Recipe) -> tuple[int, int, int, str]:
    """(lowest d, D, number of lambdas, definition of a layer) of a method's space on a model."""
    space = spec.at(1).space
    if space is None:
        raise InputError("a measurement needs a subspace; expected a method with '@'")
    model = data.model
    applied = spec.method.apply(model.module, context(data, recipe))
    try:
        layout.check_supported(model.module)
        named = layout.trainable(model.module)
        names = list(named)
        if space.head == "outside":
            outside = set(layout.head_tensors(model.module, names))
            names = [name for name in names if name not in outside]
        if space.structure != "said":
            return 1, sum(named[name].numel() for name in names), 0, "none (did)"
        layers, definition = layout.layer_of(model.module, names, space.layer)
        m = len(set(layers))
        return m + 1, sum(named[name].numel() for name in names), m, definition
    finally:
        applied.remove()
