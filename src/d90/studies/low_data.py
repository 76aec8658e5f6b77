"""lowdata(model, task, methods, counts) -> LowData: methods against the number of training examples (Hu et al. 2021, table 16).

For each n the first n examples train every method at its own best rate of a small grid (`d90.compare`); few examples are
passed over more often, so that every run takes at least `least_steps` steps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from d90.errors import InputError
from d90.methods import parse
from d90.results.compare import Comparison
from d90.results.low_data import LowData
from d90.studies.compare import GRID, compare
from d90.training.loop import open_task
from d90.training.progress import Progress
from d90.training.recipe import make_recipe
from d90.trials.executor import Executor, together
from d90.trials.store import Store, digest

__all__ = ["low_data"]


def low_data(
    model: str,
    task: str,
    methods: Sequence[str],
    counts: Sequence[int | None] = (100, 1000, 10_000, None),
    *,
    least_steps: int = 200,
    seeds: int = 1,
    rates: Sequence[float] = GRID,
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    progress: Progress | None = None,
    command: str = "",
    log: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> LowData:
    """Compare methods on n = counts training examples; None stands for all.

    Args:
        model, task, methods, seeds, rates, log, executor: as for `compare`.
        least_steps: a run takes so many optimizer steps at least.
        options: fields of `Recipe`; `epochs` is what runs with enough examples make.

    Raises:
        InputError: as `compare`; a count below 2, or twice.
    """
    if not counts or any(n is not None and n < 2 for n in counts):
        raise InputError(f"got counts={list(counts)}, expected numbers of examples of at least 2, or none for all")
    if "train_limit" in options:
        raise InputError("got train_limit, expected counts to say how many examples there are")
    recipe = make_recipe(model, task, parse(methods[0] if methods else "full"), options)
    whole = len(open_task(task, recipe, model).train)
    sizes = list(dict.fromkeys(min(n if n is not None else whole, whole) for n in counts))
    keep = store if isinstance(store, Store) else Store(store)

    def compared(n: int) -> Comparison:
        epochs = max(float(recipe.epochs), least_steps * recipe.batch_size / n)
        limit = {} if n == whole else {"train_limit": n}
        return compare(
            model,
            task,
            methods,
            seeds=seeds,
            rates=rates,
            store=keep,
            costs=False,
            progress=progress,
            command=command,
            log=log,
            executor=executor,
            **{**options, "epochs": round(epochs, 3), **limit},
        )

    found = together(executor, [partial(compared, n) for n in sizes])
    result = LowData(model, task, tuple(sizes), tuple(found), command)
    asked = [
        model,
        task,
        list(methods),
        sizes,
        seeds,
        list(rates),
        least_steps,
        {k: str(v) for k, v in options.items()},
    ]
    keep.put_study(digest(asked), "lowdata", result.to_dict())
    return result
