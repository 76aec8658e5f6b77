"""Advice on 2,000 simulated worlds: how often "no worse" is false, how near the size is to the smallest that suffices, what it costs.

    python benchmarks/advise.py [--worlds 2000] [--table]

The worlds are those of the tests (tests/reference/advice_worlds.py): a gain of .3-3 nats, sizes that saturate at any speed, a best rate
that falls as r^-.35 ... r^-.65 about a guess off by a factor e, a cliff above it, seeds of .1-1.5 % of the gain, 400 validation
examples; held against r = 8, 16, 32 or 64, margins of 1, 2 and 5 % of the gain. A claim is false where the held-out loss of the size at
the rate that was found, without any noise, is above the best of the reference at any rate by more than the margin. A line a world
in advise.jsonl; the table in advise.json. Started again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from tests.reference.advice_worlds import SIZES, draw_world, problem_of

from d90.search.advice import advise

ROWS = Path(__file__).with_suffix(".jsonl")
REFERENCES, SHARES = (8, 16, 32, 64), (0.01, 0.02, 0.05)
GRID = 6 * len(SIZES)  # whole runs of a grid of one seed


def row_of(number: int) -> dict[str, Any]:
    """What advice says of one world, beside the truth."""
    world, reference = draw_world(number), REFERENCES[number % 4]
    advice = advise(world, problem_of(world, reference, SHARES[number // 4 % 3]))
    shown, guess = advice.shown, advice.guess
    limit = world.best(reference) + advice.margin
    return {
        "world": number,
        "reference": reference,
        "share": SHARES[number // 4 % 3],
        "noise": round(world.seed_deviation / world.gain, 5),
        "truth": world.smallest(reference, advice.margin),
        "shown": shown.candidate.size if shown else None,
        "guess": guess.candidate.size if guess else reference,
        "false": bool(shown and world.loss(shown.candidate.size, shown.lr) > limit),
        "worse": sum(one.worse for one in advice.verdicts),
        "worse_false": sum(one.worse and world.loss(one.candidate.size, one.lr) <= limit for one in advice.verdicts),
        "looks": advice.looks,
        "cost": advice.spent,
    }


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows in numbers."""

    def share(found: list[bool]) -> float:
        return round(sum(found) / len(found), 4)

    def steps(row: dict[str, Any], key: str) -> int:
        return abs(SIZES.index(row[key] or row["reference"]) - SIZES.index(row["truth"]))

    def of(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "worlds": len(chosen),
            "no worse, false": share([row["false"] for row in chosen]),
            "shown right": share([steps(row, "shown") == 0 for row in chosen]),
            "shown right or neighbour": share([steps(row, "shown") <= 1 for row in chosen]),
            "guess right": share([steps(row, "guess") == 0 for row in chosen]),
            "guess right or neighbour": share([steps(row, "guess") <= 1 for row in chosen]),
            "cost in shares of a grid": round(sum(row["cost"] for row in chosen) / len(chosen) / GRID, 4),
        }

    found = {"all": of(rows)}
    found |= {f"margin {share:g} of the gain": of([row for row in rows if row["share"] == share]) for share in SHARES}
    found["all"]["limit of false"] = round(0.05 + 2 * math.sqrt(0.05 * 0.95 / len(rows)), 4)
    said = sum(row["worse"] for row in rows)
    found["all"]["worse, false of those said"] = round(sum(row["worse_false"] for row in rows) / max(1, said), 4)
    return found


def main() -> None:
    """Simulate what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--table", action="store_true", help="only the table of the rows that are there")
    given = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []
    with ROWS.open("a", encoding="utf-8") as file:
        for number in range(len(rows), 0 if given.table else given.worlds):
            rows.append(row_of(number))
            file.write(json.dumps(rows[-1]) + "\n")
    found = table(rows)
    ROWS.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
