"""docs/results: studies as tables, from the stores and analyses in a folder alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from d90.trials.store import Store
from tests.reference.results import (
    made_analysis,
    made_cell,
    made_comparison,
    made_likeness,
    made_low_data,
    made_row,
    made_series,
)

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


def test_an_empty_folder_has_no_section(script: ModuleType, tmp_path: Path) -> None:
    assert script.study_tables(tmp_path) == []


def test_a_trajectory_is_a_table_with_its_command_and_its_verdict(script: ModuleType, tmp_path: Path) -> None:
    cells = [
        made_cell(0, None, "unreachable"),
        made_cell(10, 900),
        made_cell(20, 300),
        made_cell(40, None, "failed", error="broken file"),
    ]
    study = made_series(*cells, command="d90 trajectory run/step-*", givers={"data/t": "run/step-20"})
    store = Store(tmp_path / "trajectory.sqlite")
    store.put_study("k", "trajectory", study.to_dict())
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
    assert "are apart: **points that way, not shown**" in text, "one interval each, all of which overlap"


def test_few_examples_and_analyses(script: ModuleType, tmp_path: Path) -> None:
    few, more = (
        made_comparison(seeds=2, full=[full, full], lora_8=[lora, lora]) for full, lora in ((0.6, 0.7), (0.9, 0.8))
    )
    store = Store(tmp_path / "lowdata.sqlite")
    store.put_study("k", "lowdata", made_low_data([100, 1000], few, more, command="d90 lowdata m data/t").to_dict())
    store.close()
    row, other = made_row("q", (2, 6.0), own=0.5), made_row("q", (3, 1.0), own=3.0)
    found = made_analysis(
        [row], [other], [made_likeness("q", [[0.2]], [[0.01]])], method="lora:r=2", other_method="lora:r=3", command="d90 analyze a b"
    )  # fmt: skip
    (tmp_path / "analyze_two.json").write_text(json.dumps(found.to_dict()))
    text = "\n".join(script.study_tables(tmp_path))
    assert "| `lora:r=8` | 10 | 0.7000 ± 0.0000 | 0.8000 ± 0.0000 |" in text
    assert text.count("LoRA is no worse than full: **") == 2
    assert text.count("LoRA is no worse than full: **points the other way, not shown**") == 1
    assert "| `lora:r=2` | W_q | 1.5 of 3 | 2 | 5 | 3 | 0.5 | 4 | 0.1 | 6 |" in text
    assert "| q | A | 1 | 0.200 | 0.010 | 0.90 | 1.10 |" in text
    assert "in 0 of 1 matrices; at full rank 0.200 (random 0.010): **does not hold**" in text
    assert "6 at r = 2, 1 at r = 3: larger at the smaller r: **holds**" in text
