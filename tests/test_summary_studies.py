"""docs/results: studies as tables, from the stores and analyses in a folder alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from d90.trials.store import Store

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "summary_studies.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("summary_studies", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(SCRIPT.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules["summary_studies"] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(SCRIPT.parent))
    return module


def cell(x: int, d90: int | None, status: str = "found", error: str = "") -> dict[str, Any]:
    return {
        "model": f"run/step-{x}", "task": "data/t", "x": x, "target": "last", "status": status, "d90": d90, "error": error,
        "interval": (d90 and d90 // 2, d90 and 2 * d90), "score": 0.7 if d90 else None, "threshold": 0.63, "chance": 0.5,
    }  # fmt: skip


def test_an_empty_folder_has_no_section(script: ModuleType, tmp_path: Path) -> None:
    assert script.study_tables(tmp_path) == []


def test_a_trajectory_is_a_table_with_its_command_and_its_verdict(script: ModuleType, tmp_path: Path) -> None:
    cells = [cell(0, None, "unreachable"), cell(10, 900), cell(20, 300), cell(40, None, "failed", "broken file")]
    study = {
        "kind": "trajectory", "method": "full@structure=did", "rule": "paper", "xlabel": "pretraining step", "cells": cells,
        "command": "d90 trajectory run/step-*", "givers": {"data/t": "run/step-20"},
    }  # fmt: skip
    store = Store(tmp_path / "trajectory.sqlite")
    store.put_study("k", "trajectory", study)
    store.close()
    text = "\n".join(script.study_tables(tmp_path))
    assert "d90 trajectory run/step-*" in text
    assert (
        "| t | the last one's, 0.6300 | none reaches it | **900**, 450 to 1,800 | **300**, 150 to 600 | failed |"
        in text
    )
    assert "run/step-40 could not be trained on t: the target for all is that of run/step-20" in text
    assert "run/step-40 failed: broken file" in text
    assert "in 3 of 3 pairs; the intervals of " in text
    assert "are apart: **holds**" in text


def test_few_examples_and_analyses(script: ModuleType, tmp_path: Path) -> None:
    def comparison(full: float, lora: float) -> dict[str, Any]:
        entries = [
            {"asked": n, "stored": 10, "test": [], "validation": [v, v]}
            for n, v in (("full", full), ("lora:r=8", lora))
        ]
        return {"split": "validation", "metric": "accuracy", "seeds": 2, "chance": 0.5, "entries": entries}

    study = {"model": "m", "task": "data/t", "counts": [100, 1000], "command": "d90 lowdata m data/t"}
    store = Store(tmp_path / "lowdata.sqlite")
    store.put_study("k", "lowdata", {**study, "comparisons": [comparison(0.6, 0.7), comparison(0.9, 0.8)]})
    store.close()
    against = {"r": 2, "weight": 5.0, "delta": 3.0, "own": 0.5, "top": 4.0, "random": 0.1}
    spectrum = {"values": [3.0, 1.0, 0.0], "effective_rank": 1.5, "stable_rank": 1.1, "energy_rank": 1}
    row = {"role": "q", "spectrum": spectrum, "against": [against]}
    other = {**row, "against": [{**against, "r": 3, "own": 3.0}]}
    like = {"role": "q", "side": "A", "phi": [[0.2]], "null": [[0.01]], "distances": [[1, 0.9, 1.1]]}
    body = {"method": "lora:r=2", "other_method": "lora:r=3", "rows": [row], "other_rows": [other], "likeness": [like]}
    (tmp_path / "analyze_two.json").write_text(json.dumps({**body, "command": "d90 analyze a b"}))
    text = "\n".join(script.study_tables(tmp_path))
    assert "| `lora:r=8` | 10 | 0.7000 ± 0.0000 | 0.8000 ± 0.0000 |" in text
    assert text.count("LoRA is no worse than full: **holds**") == 1
    assert text.count("LoRA is no worse than full: **does not hold**") == 1
    assert "| `lora:r=2` | W_q | 1.5 of 3 | 2 | 5 | 3 | 0.5 | 4 | 0.1 | 6 |" in text
    assert "| q | A | 1 | 0.200 | 0.010 | 0.90 | 1.10 |" in text
    assert "in 0 of 1 matrices; at full rank 0.200 (random 0.010): **does not hold**" in text
    assert "6 at r = 2, 1 at r = 3: larger at the smaller r: **holds**" in text
