"""What workers do in these tests; no torch, so that they start at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.training.progress import Progress
from d90.trials.executor import Job


def job(kind: str, **body: Any) -> Job:
    return Job(f"tests.trials.work:{kind}", body, f"{kind} {body.get('n', '')}".strip(), 1)


def square(body: dict[str, Any], progress: Progress) -> dict[str, Any]:
    print("a library that prints")
    progress.trial_started(f"square {body['n']}", 1)
    progress.trial_scored(1, float("inf"), 0.1 + 0.2)
    return {"square": body["n"] ** 2, "threads": os.environ["OMP_NUM_THREADS"]}


def refuse(body: dict[str, Any], progress: Progress) -> dict[str, Any]:
    raise InputError(f"got {body['n']}, expected less")


def wrong(body: dict[str, Any], progress: Progress) -> dict[str, Any]:
    raise ZeroDivisionError("a mistake of ours")


def die(body: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Dies as often as it is told, then lives."""
    marks = Path(body["folder"])
    count = len(list(marks.iterdir()))
    (marks / str(count)).touch()
    if count < body["times"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"tried": count + 1}


def sleep(body: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Leaves its process's number, and sleeps."""
    (Path(body["folder"]) / str(os.getpid())).touch()
    time.sleep(body["seconds"])
    return {"slept": body["seconds"]}
