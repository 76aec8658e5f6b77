"""kill -9 a measurement at random moments, resume it, and count what was lost or repeated.

    python benchmarks/kill.py DATA [kills=20]        DATA holds mnist/ (idx files)

A measurement of the fully connected network (4,000 MNIST images, a fine bracket, so a dozen trials of some seconds) runs in a
process of its own and is killed after a random time, until it has been killed `kills` times; then it runs to its end. A
finished trial counts as repeated when its row is not the one that was there before: rows carry the moment they ended.
One JSON line to standard output, one line a kill to standard error.
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

SIZES = ["--train-limit", "4000", "--validation-limit", "1000", "--epochs", "8", "--evaluations", "4"]
ONE = os.environ | {"OMP_NUM_THREADS": "1"}
SEARCH = ["--method", "full@scale=global", "--start", "100", "--resolution", "1.02"]


def main(data: str, kills: int) -> None:
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.sqlite")
        measure = ["measure", "fc", f"idx:{data}/mnist", *SIZES, *SEARCH, "--store", str(path)]
        command = [sys.executable, "-m", "d90.cli", *measure]
        lost, done, whole, kept = 0, 0, 0, []
        began = time.monotonic()
        while done < kills:
            process = subprocess.Popen(command, env=ONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(draw.uniform(6, 26))
            if process.poll() is not None:
                path.unlink()  # it finished first: begin another measurement, so that there is work to kill
                for rest in Path(folder).glob("s.sqlite-*"):
                    rest.unlink()
                kept, whole = [], whole + 1
                continue
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            rows = [(t.key, t.stop_at, t.ended, t.score) for t in Store(path).trials()] if path.exists() else []
            lost += sum(row not in rows for row in kept)
            kept = rows
            print(f"kill {done}: {len(rows)} trials finished", file=sys.stderr, flush=True)
        finished = subprocess.run(command, env=ONE, capture_output=True, text=True, check=True)
        trials = [(t.key, t.stop_at) for t in Store(path).trials()]
        print(
            json.dumps(
                {
                    "kills": done,
                    "finished trials lost": lost,
                    "finished trials repeated": len(trials) - len(set(trials)),
                    "measurements killed to pieces": whole + 1,
                    "trials in the last measurement": len(trials),
                    "answer": finished.stdout.strip().splitlines()[-2],
                    "seconds": round(time.monotonic() - began),
                }
            )
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20)
