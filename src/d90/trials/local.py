"""Trials in processes of this machine: one for each trial, which dies with its driver and takes nothing with it when it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import IO, Any

import torch

from d90.files import Json
from d90.trials.executor import Died, Executor, Job, Tell
from d90.trials.worker import result_of

__all__ = ["Local"]

# the driver's own path, so that both import the same modules
WORKER = "import os, sys; sys.path[:] = sys.argv.pop().split(os.pathsep); from d90.trials.worker import main; main()"


class Local(Executor):
    """One process for each trial, `slots` at once, which share the driver's threads between them."""

    shares_disk = True  # a worker writes beside the driver's store

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.threads = max(1, torch.get_num_threads() // slots)

    def _attempt(self, job: Job, tell: Tell) -> Json:
        with tempfile.TemporaryFile() as errors, self._running(lambda: self._start(errors)) as process, process:
            assert process.stdin
            assert process.stdout
            try:
                process.stdin.write(json.dumps([job.work, job.body]).encode() + b"\n")
                process.stdin.flush()
                for line in process.stdout:
                    name, *what = json.loads(line)
                    if name in ("result", "error"):
                        return result_of([name, *what])
                    tell(name, what)
            except (BrokenPipeError, json.JSONDecodeError):
                pass  # it died before it read its job, or in the middle of a line
            finally:
                process.kill()
                status = process.wait()
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise Died(f"{how}: {last}" if last else how)

    def _start(self, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        threads = str(self.threads)
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, os.pathsep.join(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            start_new_session=True,  # Ctrl-C is the driver's, which ends them
        )

    def _end(self, live: Any) -> None:
        live.kill()
