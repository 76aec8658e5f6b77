"""kill -9 a measurement at random moments, resume it, and count what was lost or repeated.

    python benchmarks/kill.py [kills=20]

A measurement of minilm on docstrings (a small subset) runs in a process of its own and is killed after a random share
of the time one trial takes, until it has been killed `kills` times; then it runs to its end. One JSON line to standard
output.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from d90.sweep.store import Store

SIZES = ["--train-limit", "320", "--validation-limit", "100", "--epochs", "1", "--evaluations", "2"]
SEARCH = ["--start", "64", "--resolution", "1.3", "--fraction", "0.85"]
COMMAND = ["measure", "minilm", "docstrings", *SIZES, *SEARCH]


def main(kills: int) -> None:
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.sqlite")
        command = [sys.executable, "-m", "d90.cli", *COMMAND, "--store", str(path)]
        lost, done, kept = 0, 0, []
        began = time.monotonic()
        while done < kills:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(draw.uniform(3, 25))
            if process.poll() is not None:
                path.unlink()  # it finished first: begin another measurement, so that there is work to kill
                for rest in Path(folder).glob("s.sqlite-*"):
                    rest.unlink()
                kept = []
                continue
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            rows = [(t.key, t.stop_at, t.ended, t.score) for t in Store(path).trials()] if path.exists() else []
            lost += sum(row not in rows for row in kept)
            kept = rows
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        trials = [(t.key, t.stop_at) for t in Store(path).trials()]
        print(
            json.dumps(
                {
                    "kills": done,
                    "finished trials lost": lost,
                    "finished trials repeated": len(trials) - len(set(trials)),
                    "trials in the last measurement": len(trials),
                    "answer": finished.stdout.strip().splitlines()[-2],
                    "seconds": round(time.monotonic() - began),
                }
            )
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
