"""What a benchmark ran on, and results of several machines side by side in one file."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["beside", "named_values", "processor", "save"]


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def beside(path: Path, result: dict[str, Any], key: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The results that `path` holds, with this one in place of an older one of the same machine (processor, threads, clock).

    With `key`, `result["lines"]` is a table: the older one's lines stay where no new line has the same values of these.
    """

    def machine(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["processor"], one["threads"], one.get("clock", "wall")

    held = json.loads(path.read_text()) if path.exists() else []
    held = held if isinstance(held, list) else [held]
    if key:
        new = [[line.get(name) for name in key] for line in result["lines"]]
        old = (line for one in held if machine(one) == machine(result) for line in one["lines"])
        kept = [line for line in old if [line.get(name) for name in key] not in new]
        result = result | {"lines": [*kept, *result["lines"]]}
    return [*(one for one in held if machine(one) != machine(result)), result]


def save(path: Path, results: list[dict[str, Any]]) -> None:
    """Write results with a table of lines, one line of the table to a line."""
    texts = []
    for one in results:
        head = json.dumps({key: value for key, value in one.items() if key != "lines"})[:-1]
        rows = ",\n".join("    " + json.dumps(line) for line in one["lines"])
        texts.append(f'  {head}, "lines": [\n{rows}\n  ]}}')
    path.write_text("[\n" + ",\n".join(texts) + "\n]\n")


def named_values(pairs: Sequence[str]) -> dict[str, Any]:
    """{name: value} from "name=value", as JSON reads the value, or as text where it is none."""
    found: dict[str, Any] = {}
    for name, value in (pair.split("=", 1) for pair in pairs):
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
