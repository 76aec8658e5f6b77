"""kill -9 one search at random moments, resume it each time, and hold it against the same search left alone.

    python benchmarks/kill.py DATA [kills=50] [--out docs/results/kill.json]        DATA holds mnist/ (idx files)

A measurement of the fully connected network (4,000 MNIST images, so a dozen trials of some seconds) runs once undisturbed. Then the
same runs on a store of its own and is killed after a random time, start-up included, again and again; then it runs to its end.
The times are drawn so that few trials end between two kills: all kills fall into one search, or the count of searches says so.
A finished trial counts as lost when its row is gone, as repeated when another moment of its end stands there or when
the log has two lines of it. The answers and all trials (key, threshold, score, steps) must be those of the undisturbed search.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from d90.sweep.store import Store, Stored

SIZES = ["--train-limit", "4000", "--validation-limit", "1000", "--epochs", "8", "--evaluations", "4"]
ONE = os.environ | {"OMP_NUM_THREADS": "1"}
SEARCH = ["--method", "full@scale=global", "--start", "100", "--resolution", "1.02"]
BEYOND = 1.3  # the latest kill, in trials after start-up


def command(data: str, folder: Path) -> list[str]:
    stored = ["--store", str(folder / "s.sqlite"), "--log", str(folder / "s.jsonl")]
    return [sys.executable, "-m", "d90.cli", "measure", "fc", f"idx:{data}/mnist", *SIZES, *SEARCH, *stored]


def finish(data: str, folder: Path) -> str:
    """Run to the end; the line with the answer."""
    done = subprocess.run(command(data, folder), env=ONE, capture_output=True, text=True, check=True)
    return next(line for line in reversed(done.stdout.splitlines()) if line.startswith("d90 ="))


def rows(folder: Path) -> list[Stored]:
    path = folder / "s.sqlite"
    if not path.exists():
        return []
    store = Store(path)
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
    asked = parser.parse_args()
    draw, began = random.Random(0), time.monotonic()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        answer = finish(asked.data, Path(one))
        undisturbed = rows(Path(one))
        trained = sum(trial.outcome["seconds"] for trial in undisturbed)
        longest = time.monotonic() - began - trained + BEYOND * trained / len(undisturbed)
        print(f"undisturbed: {answer}; kills within {longest:.0f} s", file=sys.stderr, flush=True)

        folder, done, searches, lost, early = Path(other), 0, 1, 0, 0
        kept: list[tuple[str, float | None, str, float]] = []
        while done < asked.kills:
            process = subprocess.Popen(
                command(asked.data, folder), env=ONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(draw.uniform(0, longest))
            if process.poll() is not None:  # it finished first: begin another search, so that there is work to kill
                for path in folder.glob("s.*"):
                    path.unlink()
                kept, searches = [], searches + 1
                continue
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            now = [(t.key, t.stop_at, t.ended, t.score) for t in rows(folder)]
            lost += sum(row not in now for row in kept)
            early += len(now) == len(kept)
            kept = now
            print(f"kill {done}: {len(now)} trials finished", file=sys.stderr, flush=True)
        resumed = finish(asked.data, folder)
        stored, logged = rows(folder), Counter(lines(folder))
        by_pair = Counter((method, seed) for method, seed, _ in logged.elements())
        again = sum(many - 1 for many in by_pair.values()) - (len(stored) - len({t.key for t in stored}))

        def content(trials: list[Stored]) -> list[tuple[str, float | None, float, int]]:
            return sorted((t.key, t.stop_at, t.score, int(t.outcome["steps"])) for t in trials)

        found = {
            "kills": done,
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
