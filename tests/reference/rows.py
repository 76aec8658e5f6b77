"""Rows of a table as a file that d90 reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["write_rows", "write_split"]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """A JSONL file, in folders that are made; its path as d90 takes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_split(folder: Path, rows: Sequence[dict[str, Any]], name: str = "train.jsonl") -> str:
    """A split of a task's folder; the folder's path as d90 takes it."""
    write_rows(folder / name, rows)
    return str(folder)
