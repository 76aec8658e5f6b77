"""The default rates of language models beside the best of a ladder, and what an early reading of a run would have chosen.

    python benchmarks/rates_language.py MODEL TASK [--methods "full lora:r=8 full@d=4096"] [name=value ...]    runs, a line each
    python benchmarks/rates_language.py                                                                        the table alone

For each method whole runs at the default rate times 3^k, widened while the best lies at an end. Eight evaluations a run: the first is
the reading after an eighth of the steps that `--lr auto` goes by (d90.training.rates). Lines lie in docs/results/rates_language.jsonl,
the table in rates_language.md; what is there is not run again. `name=value` are fields of d90.train's recipe.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import groupby
from pathlib import Path
from typing import Any

from machine import named_values, processor

import d90
from d90.errors import RunFailed
from d90.methods import parse
from d90.tasks.kinds import find_kind
from d90.training.recipe import default_lr

RESULTS = Path(__file__).parents[1] / "docs" / "results"
LINES, TABLE = RESULTS / "rates_language.jsonl", RESULTS / "rates_language.md"
RATIO, WIDEST = 3.0, 5
HEAD = """# Rates of language models

Made by `python benchmarks/rates_language.py`; a line for each run in rates_language.jsonl. Validation loss in nats a token: of whole
runs, and after an eighth of the steps (the reading that `--lr auto` goes by). The best of a column is bold. Encoders and images are in
rates.md.
"""


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def loss_of(row: dict[str, Any]) -> float:
    return math.inf if row["loss"] is None else float(row["loss"])


def run(model: str, task: str, method: str, lr: float, options: dict[str, Any]) -> dict[str, Any]:
    about = {"model": Path(model).name, "task": Path(task).name, "method": method, "lr": lr, "options": options}
    done = next((row for row in rows() if all(row[name] == value for name, value in about.items())), None)
    if done is not None:
        return done
    found: dict[str, Any] = {"loss": None, "reading": None, "untrained": None, "steps": None}
    try:
        outcome = d90.train(model, task, method, lr=lr, evaluations=8, **options).outcome
        found["untrained"] = round(outcome.curve[0].loss, 4)
        if outcome.status != "diverged":
            found |= {"loss": round(outcome.curve[-1].loss, 4), "reading": round(outcome.curve[1].loss, 4)}
        found |= {"steps": outcome.steps, "seconds": round(outcome.seconds, 1)}
    except RunFailed:
        pass
    row = {**about, **found, "processor": processor()}
    with LINES.open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)
    return row


def ladder(model: str, task: str, method: str, options: dict[str, Any]) -> None:
    """Runs at the default times 3^k: k = 0 and 1, then on while the best lies at an end."""
    default = default_lr(parse(method), find_kind("language")())
    made: dict[int, dict[str, Any]] = {}

    def tried(k: int) -> None:
        made[k] = run(model, task, method, float(f"{default * RATIO**k:.2g}"), options)

    tried(0)
    tried(1)
    while len(made) < WIDEST:
        best = min(made, key=lambda k: loss_of(made[k]))
        if best == min(made):
            tried(best - 1)
        elif best == max(made):
            tried(best + 1)
        else:
            break


def table() -> str:
    text = [HEAD]
    key = lambda row: (row["model"], row["task"], json.dumps(row["options"]))  # noqa: E731
    for (model, task, options), of_model in groupby(sorted(rows(), key=key), key):
        runs = list(of_model)
        text.append(
            f"\n## {model} on {task}\n\n`{options}`, {runs[0]['steps']} steps; untrained {runs[0]['untrained']:.3f}.\n"
        )
        lost: list[str] = []
        text.append("| method | rate | whole run | reading |\n|-|-|-|-|")
        for method, of_method in groupby(sorted(runs, key=lambda r: (r["method"], r["lr"])), lambda r: r["method"]):
            ladder_rows = list(of_method)
            default = default_lr(parse(method), find_kind("language")())
            cells = {}
            for name in ("loss", "reading"):
                values = [math.inf if row[name] is None else row[name] for row in ladder_rows]
                cells[name] = [
                    f"**{v:.3f}**" if v == min(values) else (f"{v:.3f}" if v < math.inf else "diverged") for v in values
                ]
            for row, whole, reading in zip(ladder_rows, cells["loss"], cells["reading"], strict=True):
                mark = " (default)" if math.isclose(row["lr"], default, rel_tol=0.02) else ""
                text.append(f"| {method} | {row['lr']:.2g}{mark} | {whole} | {reading} |")
                if mark and len(ladder_rows) > 2:
                    lost.append(f"{method} {loss_of(row) - min(map(loss_of, ladder_rows)):.3f}")
        text.append(f"\nThe default loses to the best of its ladder, in nats: {', '.join(lost)}.")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("task", nargs="?")
    parser.add_argument("options", nargs="*", help="name=value, the value in JSON where it is no text")
    parser.add_argument("--methods", default="full lora:r=8 full@d=4096")
    arguments = parser.parse_args()
    options = named_values(arguments.options)
    if arguments.model:
        for method in arguments.methods.split():
            ladder(arguments.model, arguments.task, method, options)
    TABLE.write_text(table())


if __name__ == "__main__":
    main()
