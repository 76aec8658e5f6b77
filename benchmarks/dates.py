"""A task with one right answer for an instruction model: a date in words, to be written as YYYY-MM-DD.

    python benchmarks/dates.py runs/dates              # 480 for training, 120 for validation, as conversations
    d90 train smollm2 runs/dates -m lora:r=8,targets=all --lr 3e-3 --batch-size 8 --epochs 0.334 --metric exact --validation-limit 48

Dates, their spelling and which split they fall in come from one fixed seed; no date stands in both splits. What came of it stands in
docs/results/language.md.
"""

from __future__ import annotations

import datetime
import json
import random
import sys
from pathlib import Path

TRAIN, VALIDATION = 480, 120


def spelled(date: datetime.date, how: int) -> str:
    """A date in one of six spellings."""
    day, month, year = date.day, date.strftime("%B"), date.year
    ending = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return (
        f"{day} {month} {year}", f"{month} {day}, {year}", f"the {day}{ending} of {month}, {year}", f"{month[:3]} {day} {year}",
        f"{day}.{date.month}.{year}", f"{date.strftime('%A')}, {day}{ending} {month} {year}",
    )[how]  # fmt: skip


def examples() -> list[dict[str, list[dict[str, str]]]]:
    """All of them, in the order they are drawn."""
    draw = random.Random(0)
    days = draw.sample(
        range(datetime.date(1900, 1, 1).toordinal(), datetime.date(2050, 1, 1).toordinal()), TRAIN + VALIDATION
    )
    found = []
    for day in days:
        date = datetime.date.fromordinal(day)
        asked = f"Which date is this in the form YYYY-MM-DD? {spelled(date, draw.randrange(6))}"
        found.append(
            {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": date.isoformat()}]}
        )
    return found


def write(folder: Path) -> None:
    """train.jsonl and validation.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = examples()
    for name, part in (("train", rows[:TRAIN]), ("validation", rows[TRAIN:])):
        text = "".join(f"{json.dumps(row)}\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/dates"))
