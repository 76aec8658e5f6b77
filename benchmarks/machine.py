"""What a benchmark ran on, and results of several machines side by side in one file."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

__all__ = ["beside", "processor"]


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def beside(path: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The results that `path` holds, with this one in place of an older one of the same machine (processor, threads, clock)."""

    def machine(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["processor"], one["threads"], one.get("clock", "wall")

    held = json.loads(path.read_text()) if path.exists() else []
    held = held if isinstance(held, list) else [held]
    return [*(one for one in held if machine(one) != machine(result)), result]
