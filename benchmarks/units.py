"""One learning rate for every scale? Scores at one d, at factors of the default rate, under step rules 1 and 2.

    python benchmarks/units.py DATA MODEL        DATA holds mnist/ and sst2_sentences/, MODEL is a model pretrained here

Trials lie in docs/results/units.sqlite; what is there is not trained again, the rest is. The factors are those of rule 1, under
which rule 2's rate is k times the default (`d90.subspace.layout.balance`): the same training under Adam, but for its epsilon. For the
fully connected network both rules were trained.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d90.methods import parse
from d90.options import TaskOptions, TrainingOptions, from_fields
from d90.tasks.kinds import stored_kind
from d90.training.console import progress_for
from d90.training.loop import open_task
from d90.training.recipe import default_lr, make_recipe
from d90.trials.options import RunOptions
from d90.trials.request import TrialRequest
from d90.trials.runner import TrialRunner
from d90.trials.store import Store

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FACTORS = (1 / 16, 1 / 4, 1.0, 4.0)


@dataclass(frozen=True)
class Asked:
    """One model on one task at one d: for each scale and step rule the rates."""

    model: str
    task: str
    d: int
    options: dict[str, Any]
    rates: dict[tuple[str, int], tuple[float, ...]]


def questions(data: str, model: str) -> list[Asked]:
    """The last rates of minilm and of the small model at global and relative are k times the default, rounded."""
    images = {"epochs": 5, "evaluations": 5, "batch_size": 128, "train_limit": 4000, "validation_limit": 2000}
    sentences = f"{data}/sst2_sentences"
    old, new = tuple(0.05 * factor for factor in FACTORS), (0.05 / 4, 0.05, 0.05 * 4)
    usual = tuple(5e-3 * factor for factor in FACTORS)
    return [
        Asked("fc", f"idx:{data}/mnist", 1000, images, {
            ("tensor", 1): old, ("global", 1): old, ("relative", 1): old, ("global", 2): new, ("relative", 2): new,
        }),
        Asked("minilm", sentences, 1000, {"epochs": 2.0, "evaluations": 6, "precision": "fp32"}, {
            ("tensor", 1): usual, ("global", 1): (*usual, 0.0414), ("relative", 1): (*usual, 1.23e-4),
        }),
        Asked(model, sentences, 8000, {"epochs": 2, "evaluations": 4, "train_limit": 7000}, {
            ("tensor", 1): (5e-3, 2e-2, 8e-2), ("global", 1): (0.0213,), ("relative", 1): (5e-3, 1.9e-4, 7.6e-4),
        }),
    ]  # fmt: skip


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    store = Store(RESULTS / "units.sqlite")
    print("| model | task | d | scale | rule | score at each factor of the default rate |\n|-|-|-|-|-|-|")
    for asked in questions(*sys.argv[1:]):
        task = None
        for (scale, rule), rates in asked.rates.items():
            spec = parse(f"full@d={asked.d},scale={scale}")
            shown = []
            for rate in rates:
                usual = default_lr(spec, stored_kind("classification", asked.model == "fc", ()))
                # the default as the default: its trials are those of the other studies
                lr = {} if rate == usual and asked.model == "minilm" else {"lr": rate}
                options = asked.options | {"step_rule": rule} | lr
                recipe = make_recipe(
                    asked.model, asked.task, spec, *from_fields(options, TrainingOptions(), TaskOptions())
                )
                task = task or open_task(asked.task, recipe)
                run = RunOptions(store=store, progress=progress_for(False))
                found = TrialRunner(asked.model, task, recipe, run).run([TrialRequest(spec, recipe)])[0].score
                shown.append(f"{rate / usual:.3g}: {found:.3f}")
            print(f"| {asked.model} | {asked.task} | {asked.d:,} | {scale} | {rule} | {', '.join(shown)} |")
    store.close()


if __name__ == "__main__":
    main()
