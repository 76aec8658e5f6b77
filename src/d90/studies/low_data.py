"""lowdata(model, task, methods, counts) -> LowData: methods against the number of training examples (Hu et al. 2021, table 16).

For each n the first n independent examples (a prompt with its answers and a context with its questions are one) train every
method at its own best rate of a small grid (`d90.compare`); few examples are passed over more often, so that every run takes at
least `least_steps` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from typing_extensions import Unpack

from d90.errors import InputError
from d90.methods import parse
from d90.options import CompareOptions, LowDataOptions, TaskOptions, TrainingOptions, with_options
from d90.options.studies import LowDataFields
from d90.options.task import TaskFields
from d90.options.training import TrainingFields
from d90.results.compare import Comparison
from d90.results.low_data import LowData
from d90.studies.compare import compare
from d90.tasks import Task
from d90.training.loop import open_task
from d90.training.recipe import make_recipe
from d90.training.showing import shows_progress
from d90.trials.executor import together
from d90.trials.options import RunFields, RunOptions
from d90.trials.store import digest

__all__ = ["examples_of", "low_data"]


class AllLowDataFields(LowDataFields, TrainingFields, TaskFields, RunFields, total=False):
    """What `low_data` takes as keywords besides its own parameters."""


@with_options
@shows_progress
def low_data(
    model: str,
    task: str,
    methods: Sequence[str],
    counts: Sequence[int | None] = (100, 1000, 10_000, None),
    *,
    options: LowDataOptions = LowDataOptions(),
    training: TrainingOptions = TrainingOptions(),
    data: TaskOptions = TaskOptions(),
    run: RunOptions = RunOptions(),
    **fields: Unpack[AllLowDataFields],
) -> LowData:
    """Compare methods on n = counts independent training examples; None stands for all.

    Example:
        >>> found = d90.low_data(model, images, ["full", "bitfit"], [20], lr=0.01, least_steps=4, epochs=1)
        >>> sorted(found.rows())
        ['bitfit', 'full']

    Args:
        model, task, methods: as for `compare`.
        options: seeds, rates to try, and the fewest optimizer steps of a run.
        training: how every trial is trained; `epochs` is what runs with enough examples make.
        data: how the task's data is read, without `train_limit`.
        run: the store, the log, the executor and who receives the events.
        fields: those of the four as keywords, as seeds=3, epochs=2.

    Raises:
        InputError: as `compare`; a count below 2, or twice.
    """
    if not counts or any(n is not None and n < 2 for n in counts):
        raise InputError(f"got counts={list(counts)}, expected numbers of examples of at least 2, or none for all")
    if data.train_limit is not None:
        raise InputError("got train_limit, expected counts to say how many examples there are")
    recipe = make_recipe(model, task, parse(methods[0] if methods else "full"), training, data)
    opened = open_task(task, recipe, model)
    whole = opened.independent("train")
    sizes = list(dict.fromkeys(min(n if n is not None else whole, whole) for n in counts))
    run = replace(run, store=run.open_store())

    def compared(n: int) -> Comparison:
        examples = examples_of(opened, n)
        epochs = max(float(recipe.epochs), options.least_steps * recipe.batch_size / examples)
        return compare(
            model,
            task,
            methods,
            options=CompareOptions(seeds=options.seeds, rates=options.rates, costs=False),
            training=replace(training, epochs=round(epochs, 3)),
            data=replace(data, train_limit=None if n == whole else examples),
            run=run,
        )

    found = together(run.executor, [partial(compared, n) for n in sizes])
    result = LowData(model, task, tuple(sizes), tuple(found), run.command)
    asked = [model, task, list(methods), sizes, *(one.to_dict() for one in (options, training, data))]
    run.open_store().put_study(digest(asked), "lowdata", result.to_dict())
    return result


def examples_of(task: Task, n: int) -> int:
    """How many of the first training examples hold n independent ones: n, or all up to where the next prompt or context begins."""
    groups = task.groups("train")
    if n >= task.independent("train"):
        return len(task.train)
    return n if groups is None else int((groups == n).nonzero()[0])
