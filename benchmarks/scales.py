"""Which scale needs the fewest parameters? d90 of tensor, global and relative, one line a measurement.

    python benchmarks/scales.py MODEL TASK [--rule gain] [--seeds 0 1000] [--scales tensor ...] [--train-limit N] [--epochs E] ...
    python benchmarks/scales.py --table [--out FILE]

For each scale (`layout.tensor_scale`) and each first seed a search of its own. So that no scale loses by its rate, rates are tried
first, at the search's first d: the default and it times 1/4 and 4, and on by factors of 4 while the best lies at an end; it is
taken where it beats the default by more than half a point. Lines are added to docs/results/scales.jsonl as they come, a finished
one is not made again, and trials lie in a store (--store), so a search that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from grid import best_of, climb

import d90
from d90.methods import parse
from d90.options import TaskOptions, TrainingOptions, from_fields
from d90.subspace.options import SCALES, STEP_RULE
from d90.training.console import progress_for
from d90.training.loop import open_task
from d90.training.recipe import default_lr, make_recipe, step_rule_of
from d90.trials.options import RunOptions
from d90.trials.request import TrialRequest
from d90.trials.runner import TrialRunner
from d90.trials.store import Store

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FACTORS = (1 / 4, 1.0, 4.0)
WIDEST = 256.0
NEAR = 0.005
OPTIONS = ("epochs", "batch_size", "evaluations", "train_limit", "validation_limit", "max_length", "precision")


def asked_for(given: argparse.Namespace, scale: str, seed: int) -> dict[str, Any]:
    """What identifies a line."""
    options = {name: getattr(given, name) for name in OPTIONS if getattr(given, name) is not None}
    method = f"full@structure={given.structure},scale={scale}"
    return {
        "model": given.model, "task": given.task, "method": method, "scale": scale, "rule": given.rule, "seed": seed,
        "start": given.start, "budget": given.budget, "step_rule": step_rule_of(parse(method).at(1)), **options,
        **({"baseline_lr": given.baseline_lr} if given.baseline_lr else {}),
        "rates": f"{given.factor:g}" if given.factor else "tried",
    }  # fmt: skip


def measured(given: argparse.Namespace, asked: dict[str, Any], store: Store) -> dict[str, Any]:
    """The rate, and one search with it."""
    options: dict[str, Any] = {name: asked[name] for name in (*OPTIONS, "seed") if name in asked}
    progress = progress_for(False)
    spec = parse(asked["method"]).at(given.start)
    task = open_task(
        given.task, make_recipe(given.model, given.task, spec, *from_fields(options, TrainingOptions(), TaskOptions()))
    )
    rate = default_lr(spec, task.kind)

    def score(factor: float) -> float:
        rate_of_its_own = {} if factor == 1 else {"lr": factor * rate}
        asked = from_fields(options | rate_of_its_own, TrainingOptions(), TaskOptions())
        recipe = make_recipe(given.model, given.task, spec, *asked)
        run = RunOptions(store=store, progress=progress)
        return TrialRunner(given.model, task, recipe, run).run([TrialRequest(spec, recipe)])[0].score

    pilot = {given.factor: score(given.factor)} if given.factor else climb(score, FACTORS, 4.0, WIDEST)
    best = best_of(pilot)
    if not given.factor and pilot[best] <= pilot[1.0] + NEAR:
        best = 1.0
    found = d90.measure(
        given.model, given.task, asked["method"], rule=given.rule, start=given.start, budget=given.budget,
        baseline_lr=given.baseline_lr, store=store, progress=progress, **options, lr="default" if best == 1 else best * rate,
    )  # fmt: skip
    return {
        "status": found.status, "d90": found.d90, "interval": found.interval, "confirmed": found.confirmed,
        "baseline": found.baseline, "threshold": found.threshold, "chance": max(found.majority, found.zero),
        "spent": round(found.spent, 2), "trials": len(found.curve), "rate": best * rate, "factor": best,
        "pilot": {f"{factor:g}": pilot[factor] for factor in sorted(pilot)},
    }  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    """A line from before there were two step rules is of the first; one that says nothing of rates tried them."""
    return (
        [{"step_rule": 1, "rates": "tried"} | json.loads(line) for line in path.read_text().splitlines()]
        if path.exists()
        else []
    )


def table(found: list[dict[str, Any]]) -> str:
    """A row a question (model, task, rule, sizes), a column a scale; each cell d90 and its interval, by seed."""
    questions: dict[str, dict[str, list[str]]] = {}
    newest = [line for line in found if line["step_rule"] == (1 if line["scale"] == "tensor" else STEP_RULE)]
    for line in newest:
        sizes = ", ".join(f"{name} {line[name]}" for name in ("train_limit", "epochs") if name in line)
        rule = line["rule"] or "default"
        question = f"{line['model']} | {line['task'].rsplit('/', 1)[-1]} ({sizes}) | {rule}"
        ends = " ... ".join("open" if end is None else f"{end:,}" for end in line["interval"])
        rate = f", {line['factor']:g} x the rate" if line["factor"] != 1 else ""
        rate += "" if line["rates"] == "tried" else ", no other rate tried"
        answer = f"{line['d90']:,}" if line["d90"] is not None else line["status"]
        questions.setdefault(question, {}).setdefault(line["scale"], []).append(f"{answer} ({ends}{rate})")
    rows = ["| model | task | rule | tensor | global | relative |", "|-|-|-|-|-|-|"]
    for question, cells in questions.items():
        rows.append(f"| {question} | " + " | ".join("; ".join(cells.get(scale, [""])) for scale in SCALES) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="")
    parser.add_argument("task", nargs="?", default="")
    parser.add_argument("--rule", choices=("paper", "gain"), help="by default the task's own")
    parser.add_argument("--structure", default="did")
    parser.add_argument("--factor", type=float, help="try no rates: the default times this")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--start", type=int, default=1000)
    parser.add_argument("--budget", type=float, default=12.0)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--baseline-lr", type=float, help="of full fine-tuning")
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--scales", nargs="+", choices=SCALES, default=list(SCALES))
    for name in ("--batch-size", "--evaluations", "--train-limit", "--validation-limit", "--max-length"):
        parser.add_argument(name, type=int)
    parser.add_argument("--store", type=Path, default=Path("runs/scales.sqlite"))
    parser.add_argument("--out", type=Path, default=RESULTS / "scales.jsonl")
    parser.add_argument("--table", action="store_true", help="print the table of the lines there are, train nothing")
    given = parser.parse_args()
    if not given.table:
        if not given.task:
            sys.exit("scales.py: expected a model and a task, or --table")
        store = Store(given.store)
        for seed in given.seeds:
            for scale in given.scales:
                asked = asked_for(given, scale, seed)
                if any(all(line.get(key) == value for key, value in asked.items()) for line in lines(given.out)):
                    continue
                line = {**asked, **measured(given, asked, store)}
                with open(given.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
        store.close()
    print(table(lines(given.out)))


if __name__ == "__main__":
    main()
