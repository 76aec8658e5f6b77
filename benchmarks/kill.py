"""kill -9 one search at random moments, resume it each time, and hold it against the same search left alone.

    python benchmarks/kill.py DATA [kills=50] [--out docs/results/kill.json]        DATA holds mnist/ (idx files)

A measurement of the fully connected network (1,500 MNIST images, so a dozen trials of a second or more) runs once undisturbed. Then the
same runs on a store of its own and is killed after a random time, start-up included, again and again; then it runs to its end.
The times follow the machine's pace, so that a trial ends in some 18 % of them: kills fall before, in and after a trial's end, and all
into one search, or the count of searches says so.
A finished trial counts as lost when its row is gone, as repeated when another moment of its end stands there or when
the log has two lines of it. The answers and all trials (key, threshold, score, steps) must be those of the undisturbed search.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

import d90
from d90.errors import StoreError
from d90.tasks import Task, load
from d90.trials.row import TrialRow
from d90.trials.store import Store

SIZES = {"train_limit": 1500, "validation_limit": 500, "epochs": 5, "evaluations": 4, "lr": None}
SEARCH = {"start": 100, "resolution": 1.02}
BEYOND = 1.3  # the first kill comes at most so many trials after start-up
# the time left to it after a kill in which no trial ended, and after one in which one did: it ends in some 18 % of them
LONGER, SHORTER = 1.05, 0.8


def begin(task: Task, folder: Path) -> int:
    """A process of its own that measures; it knows what the store in the folder knows. Its id."""
    child = os.fork()  # spares each of them the seconds that importing torch and reading the images takes
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        stored = {"store": folder / "s.sqlite", "log": folder / "s.jsonl"}
        found = d90.measure("fc", task, "full@scale=global", **SEARCH, **SIZES, **stored)
        (folder / "answer").write_text(str(found), encoding="utf-8")
        status = 0
    finally:
        os._exit(status)


def finish(task: Task, folder: Path) -> tuple[str, float]:
    """Run to the end; the line with the answer, and the seconds until there was a trial in the store."""
    began, first = time.monotonic(), 0.0
    child = begin(task, folder)
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        time.sleep(0.2)
        if not first and rows(folder):
            first = time.monotonic() - began
    if ended[1]:
        sys.exit(f"kill.py: the measurement failed with status {ended[1]}")
    return (folder / "answer").read_text(encoding="utf-8"), first


def rows(folder: Path) -> list[TrialRow]:
    try:
        store = Store(folder / "s.sqlite", write=False)
    except StoreError:  # not there yet, or without its tables
        return []
    found = store.trials()
    store.close()
    return found


def lines(folder: Path) -> list[tuple[str, int, float]]:
    """(method, seed, seconds) of each line of the log but a last one cut short."""
    path = folder / "s.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            trial = json.loads(line)
        except json.JSONDecodeError:
            continue
        found.append((str(trial["method"]), int(trial["seed"]), float(trial["seconds"])))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("kills", type=int, nargs="?", default=50)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--undisturbed", type=Path, help="the folder of an undisturbed search that was run before")
    parser.add_argument(
        "--longest", type=float, help="seconds until the first kill, at most; by default start-up and a trial"
    )
    asked = parser.parse_args()
    draw, began = random.Random(0), time.monotonic()
    task = load(f"idx:{asked.data}/mnist", limit=SIZES["train_limit"], validation_limit=SIZES["validation_limit"])
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        before = asked.undisturbed or Path(one)
        answer, first = finish(task, before)
        undisturbed = rows(before)
        seconds = [trial.result.seconds for trial in undisturbed]
        longest = asked.longest or first - seconds[0] + BEYOND * sum(seconds) / len(seconds)
        print(f"undisturbed: {answer}; kills within {longest:.0f} s", file=sys.stderr, flush=True)

        folder, done, searches, lost, early = Path(other), 0, 1, 0, 0
        kept: list[tuple[str, float | None, str, float]] = []
        while done < asked.kills:
            child = begin(task, folder)
            time.sleep(draw.uniform(0, longest))
            if os.waitpid(child, os.WNOHANG)[
                0
            ]:  # it finished first: begin another search, so that there is work to kill
                for path in folder.iterdir():
                    path.unlink()
                kept, searches = [], searches + 1
                continue
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1
            now = [(t.key, t.stop_at, t.ended, t.score) for t in rows(folder)]
            lost += sum(row not in now for row in kept)
            early += len(now) == len(kept)
            longest *= LONGER if len(now) == len(kept) else SHORTER
            kept = now
            print(f"kill {done}: {len(now)} trials finished", file=sys.stderr, flush=True)
        resumed, _ = finish(task, folder)
        stored, logged = rows(folder), Counter(lines(folder))
        by_pair = Counter((method, seed) for method, seed, _ in logged.elements())
        again = sum(many - 1 for many in by_pair.values()) - (len(stored) - len({t.key for t in stored}))

        def content(trials: list[TrialRow]) -> list[tuple[str, float | None, float, int]]:
            return sorted((t.key, t.stop_at, t.score, int(t.result.steps)) for t in trials)

        found = {
            "kills": done,
            "latest kill at the end, seconds": round(longest, 1),
            "searches killed": searches,
            "kills in which no further trial had ended": early,
            "finished trials lost": lost,
            "finished trials repeated": max(0, again),
            "trials": len(stored),
            "same answer as the undisturbed search": resumed == answer,
            "same trials, scores and steps": content(stored) == content(undisturbed),
            "answer": resumed,
            "seconds": round(time.monotonic() - began),
        }
    text = json.dumps(found)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
