"""How often certificates hold where the true risk is known: simulated tasks, one line for each kind of certificate.

python benchmarks/certificate_coverage.py [--tasks 2000] [--kind errors] [--out docs/results/certify_coverage.jsonl]

Each task is drawn anew: labels of a random half-space, flipped with a probability of its own (up to one half: coins), or documents of
random steps around a circle of words. `d90.certify` and `d90.certify_language` are called as a user calls them, on a tiny network;
the true risk is that of the certified model, decoded from its message (`certificate_worlds.py`).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from pathlib import Path
from typing import Any

from certificate_worlds import (
    WIDTH,
    certified_start,
    chain,
    decoded,
    half_space,
    step_model,
    true_bits,
    true_error,
    true_error_of_draws,
)

from d90.certificates.classification import certify
from d90.certificates.gaussian import certify_gaussian
from d90.certificates.language import certify_language
from d90.models.loading import load as load_model

FAST: dict[str, Any] = {
    "epochs": 2,
    "quantise_epochs": 1,
    "prior_epochs": 1,
    "precision": "fp32",
    "evaluations": 1,
    "store": ":memory:",
}
KINDS: dict[str, dict[str, Any]] = {
    "errors": {},
    "errors, prior": {"prior": 0.5},
    "errors, shared codebook, prior": {"prior": 0.5, "codebook": "shared"},
    "errors, gaussian": {"posterior": "gaussian"},
    "errors, gaussian, prior": {"posterior": "gaussian", "prior": 0.5},
    "errors, draw": {"posterior": "draw"},
    "errors, draw, prior": {"posterior": "draw", "prior": 0.5},
    "bits per token": {},
    "bits per token, prior": {"prior": 0.5},
    "bits per token, betting": {"form": "betting"},
    "bits per token, a part evaluated": {"evaluated": 30},
    "bits per token, prior, a part evaluated": {"evaluated": 20, "prior": 0.5},
}
PROMISED, RARE = 0.95, 1e-3


def one(kind: str, seed: int) -> dict[str, Any]:
    """A simulated task's certificate, and the truth."""
    row = (_errors if kind.startswith("errors") else _bits_per_token)(seed, {**FAST, **KINDS[kind]})
    return {"kind": kind, "seed": seed, **row}


def holds_as_promised(held: int, tasks: int) -> bool:
    """Whether certificates that hold with 95 % would hold so seldom in more than one of 1,000 such simulations."""
    missed = tasks - held
    more = sum(math.comb(tasks, k) * (1 - PROMISED) ** k * PROMISED ** (tasks - k) for k in range(missed))
    return 1.0 - more > RARE


def _errors(seed: int, options: dict[str, Any]) -> dict[str, Any]:
    task, probability = half_space(seed)
    model = load_model(f"mlp:{WIDTH}-6-2", 2, seed=0)
    if "posterior" in options:
        drawn = certify_gaussian(model, task, dims=(6,), lr=0.1, **options)
        truth = true_error_of_draws(drawn, certified_start(drawn, model, task), probability, seed)
        return {"n": drawn.n, "certified": drawn.certified, "bound": drawn.bound, "truth": truth}
    found = certify(model, task, dims=(6,), levels=(3,), lr=0.1, **options)
    truth = true_error(found, certified_start(found, model, task), probability, seed)
    return {"n": found.n, "certified": found.certified, "bound": found.bound, "truth": truth}


def _bits_per_token(seed: int, options: dict[str, Any]) -> dict[str, Any]:
    task, steps = chain(seed)
    model = step_model()
    found = certify_language(
        model, task, "full@structure=did", dims=(8,), levels=(3,), lr=0.5, batch_size=64, copies="drop", **options
    )
    truth = true_bits(decoded(found, certified_start(found, model, task)), steps, found.alpha)
    return {"n": found.n, "certified": found.certified, "bound": found.bound, "truth": truth}


def main() -> None:
    """Draw the tasks that the file does not have, and say how often each kind held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--out", type=Path, default=Path("docs/results/certify_coverage.jsonl"))
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="Stop after so long; the same command goes on."
    )
    asked = parser.parse_args()
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    began, kinds = time.perf_counter(), asked.kind or list(KINDS)
    done = {(row["kind"], row["seed"]) for row in rows}
    gc.freeze()  # what is imported is never garbage: looking through it took a quarter of the time
    for seed in range(asked.tasks):
        for kind in kinds:
            if (kind, seed) in done or time.perf_counter() - began > asked.seconds:
                continue
            rows.append(one(kind, seed))
            with asked.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    for line in summary([row for row in rows if row["kind"] in kinds]):
        print(line)


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each kind: how many hold, how many change something, and how far the bound lies from the truth."""
    lines = []
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        if not mine:
            continue
        held = sum(row["truth"] <= row["bound"] for row in mine)
        changed = sum(not row["certified"].startswith("no change") for row in mine)
        slack = sorted(row["bound"] - row["truth"] for row in mine)[len(mine) // 2]
        lines.append(
            f"{kind}: {held:,} of {len(mine):,} hold ({held / len(mine):.2%}); {changed:,} change something; median slack {slack:.3f}"
        )
    return lines


if __name__ == "__main__":
    main()
