"""One learning rate for every d, projection and structure? The default beside the best of a grid, and what the default loses.

    python benchmarks/rates.py DATA [sst2|short|mnist ...] [--part I/N] [--table]
        DATA holds sst2_sentences/ (jsonl.gz) and mnist/ (idx files)

For each cell (task, structure, projection, d) runs at the default rate times 1/4, 1/2, 1, 2, 4 (texts: 1/2, 1, 2), one seed; where the
best of them lies at the grid's edge the grid goes on; where it beats the default by more than half a point both are repeated with two
more seeds, for the best of five noisy scores is better than the default by chance alone. Fastfood at d = 100 ... 100,000, the other
projections at one d. "sst2" is minilm on all of SST-2's sentences (seven hours on one core), "short" on 2,000 of them (a quarter of
that), "mnist" the fully connected network on 10,000 images (half an hour).
Texts are trained in fp32, so that trials of a GPU and of a processor answer one question; with --part 1/4 ... 4/4 four processes share
the cells. Trials lie in docs/results/rates.sqlite, a line each in rates.jsonl; the table in rates.md. Started again, it goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from grid import best_of, climb

from d90.methods import parse
from d90.options import TaskOptions, TrainingOptions, from_fields
from d90.tasks.kinds import stored_kind
from d90.training.console import progress_for
from d90.training.loop import open_task
from d90.training.recipe import Recipe, default_lr, make_recipe
from d90.trials.options import RunOptions
from d90.trials.request import TrialRequest
from d90.trials.row import TrialRow
from d90.trials.runner import TrialRunner
from d90.trials.store import Store

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
WIDEST = 16.0
NEAR = 0.005  # a regret above this is repeated with more seeds
SEEDS = 3


@dataclass(frozen=True)
class Study:
    """A task, and the cells asked of it."""

    model: str
    task: str
    text: bool
    scale: str
    options: dict[str, float | int | str]
    dims: tuple[int, ...]
    others: tuple[str, ...]  # projections tried at one d
    other_d: int
    factors: tuple[float, ...] = FACTORS

    def cells(self) -> list[tuple[str, str, int]]:
        """(structure, projection, d)."""
        full = [(structure, "fastfood", d) for structure in ("did", "said") for d in self.dims]
        return full + [("did", projection, self.other_d) for projection in self.others]


def studies(data: str) -> dict[str, Study]:
    """Dense over minilm's 22.7 million weights would draw 2e10 entries a step; it is tried where it can be."""
    text = {"epochs": 2, "evaluations": 6, "precision": "fp32"}
    images = {"epochs": 5, "batch_size": 128, "evaluations": 10, "train_limit": 10_000}
    sizes = (100, 1000, 10_000, 100_000)
    others = ("fastfood:gaussian", "sparse", "onehot")
    sst2 = Study("minilm", f"{data}/sst2_sentences", True, "tensor", text, sizes, others, 1000, FACTORS[1:-1])
    return {
        "sst2": sst2,
        "short": replace(sst2, options=text | {"evaluations": 3, "train_limit": 2000}),
        "mnist": Study("fc", f"idx:{data}/mnist", False, "tensor", images, sizes, (*others, "dense"), 1000),
    }


def method(study: Study, structure: str, projection: str, d: int) -> str:
    return f"full@d={d},structure={structure},projection={projection},scale={study.scale}"


def run(study: Study, store: Store, log: Path, part: int, parts: int) -> None:
    """Every trial that the store lacks."""
    for structure, projection, d in study.cells()[part - 1 :: parts]:
        spec = parse(method(study, structure, projection, d))
        recipe = make_recipe(
            study.model, study.task, spec, *from_fields(study.options, TrainingOptions(), TaskOptions())
        )
        task = open_task(study.task, recipe)
        runner = TrialRunner(study.model, task, recipe, RunOptions(store=store, progress=progress_for(False), log=log))
        rate = default_lr(spec, stored_kind("classification", not study.text, ()))

        def score(
            factor: float, seed: int = 0, runner: TrialRunner = runner, recipe: Recipe = recipe, rate: float = rate
        ) -> float:
            # the default as the default: its trials are those of the other studies
            asked = replace(recipe, lr=None if factor == 1.0 and recipe.lr is None else rate * factor, seed=seed)
            return runner.run([TrialRequest(parse(asked.method), asked)])[0].score

        scores = climb(score, study.factors, 2.0, WIDEST)
        best = best_of(scores)
        if scores[best] - scores[1.0] > NEAR:
            for seed in range(1, SEEDS):
                for factor in (1.0, best):
                    score(factor, seed)


def belongs(trial: TrialRow, study: Study) -> bool:
    """Whether a trial answers the study's question; the folder of the data is no part of it."""
    recipe = trial.recipe
    same_model = recipe.model == study.model
    same_task = recipe.task.rsplit("/", 1)[-1] == study.task.rsplit("/", 1)[-1]
    wanted = {"train_limit": None, "precision": "auto"} | study.options
    return same_model and same_task and all(getattr(recipe, name) == value for name, value in wanted.items())


def table(known: dict[str, Study]) -> str:
    """What the store says so far."""
    store = Store(RESULTS / "rates.sqlite", write=False)
    trials = store.trials()
    store.close()
    rows = [
        "# One learning rate\n",
        "Made by `python benchmarks/rates.py DATA`, which says what the tasks are. Validation score at the default rate and at the best "
        "of a grid around it (factors of the default), seed 0, and the regret in points. The best of five noisy scores beats the "
        "default by chance alone; where it does by more than half a point both were repeated, and those seeds alone, "
        "which chose nothing, give the regret (with its standard error).\n",
        "| task | structure | projection | d | default rate | at the default | best factor | at the best | seed 0 | regret |",
        "|-|-|-|-|-|-|-|-|-|-|",
    ]
    regrets, above = [], []
    for name, study in known.items():
        mine = [trial for trial in trials if belongs(trial, study)]
        for structure, projection, d in study.cells():
            spec = parse(method(study, structure, projection, d))
            rate = default_lr(spec, stored_kind("classification", not study.text, ()))
            found: dict[float, dict[int, float]] = {}
            for trial in mine:
                if trial.recipe.method == str(spec):
                    factor = round((trial.recipe.lr or rate) / rate, 6)
                    found.setdefault(factor, {})[trial.seed] = trial.score
            if any(0 not in found.get(factor, {}) for factor in study.factors):
                continue
            best = best_of({factor: seeds.get(0, 0.0) for factor, seeds in found.items()})
            first = 100 * (found[best][0] - found[1.0][0])
            fresh = sorted((found[1.0].keys() & found[best].keys()) - {0}) if best != 1.0 else []
            differences = [100 * (found[best][seed] - found[1.0][seed]) for seed in fresh]
            regret = statistics.fmean(differences) if fresh else first
            spread = f" ({statistics.stdev(differences) / len(fresh) ** 0.5:.1f})" if len(fresh) > 1 else ""
            regrets.append(regret)
            if regret > 1.0:
                above.append(f"{name} {structure} {projection} d = {d:,}")
            numbers = f"{found[1.0][0]:.4f} | {best:g} | {found[best][0]:.4f} | {first:.1f} | {regret:.1f}{spread}"
            rows.append(f"| {name} | {structure} | {projection} | {d:,} | {rate:g} | {numbers} |")
    if regrets:
        shown = f"; the others: {', '.join(above)}" if above else ""
        rows.append(
            f"\n{len(regrets) - len(above)} of {len(regrets)} cells lose at most one point, the median cell "
            f"{statistics.median(regrets):.2f}{shown}."
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("names", nargs="*", default=["sst2", "mnist"])
    parser.add_argument("--part", default="1/1", help="I/N: every N-th cell, from the I-th")
    parser.add_argument("--table", action="store_true", help="write the table of what is stored, train nothing")
    asked = parser.parse_args()
    known = studies(asked.data)
    if unknown := set(asked.names) - set(known):
        sys.exit(f"rates.py: unknown study {sorted(unknown)}, expected some of {sorted(known)}")
    if not asked.table:
        store = Store(RESULTS / "rates.sqlite")
        for name in asked.names:
            run(known[name], store, RESULTS / "rates.jsonl", *map(int, asked.part.split("/")))
        store.close()
    (RESULTS / "rates.md").write_text(table(known), encoding="utf-8")


if __name__ == "__main__":
    main()
