"""docs/extending.md: its files, written as it shows them, join d90 from outside the package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
FILES = dict(
    re.findall(r"^```python file=(\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page's files, and a table of numbers for the kind of task."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    rows = "".join(f'{{"text": "{n} degrees", "label": {n}.5}}\n' for n in range(-20, 20))
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    return tmp_path


def run(folder: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_one_file_for_each() -> None:
    assert set(FILES) == {"norms.py", "turns.py", "signs.py", "evens.py", "together.py"}


def test_the_files_work_together_and_are_listed(folder: Path) -> None:
    listed = run(
        folder, f"{FILES['together.py']}\nfrom d90.cli.lists import methods, tasks\ntasks()\nmethods(None, None)"
    )
    for line in ("evens +Is the number", "signs +one number for a text", "norms:biases=True", r"turns\[:sign"):
        assert re.search(line, listed), line


def test_a_kind_from_outside_reads_scores_and_has_a_chance(folder: Path) -> None:
    code = (
        "import signs, torch, d90\n"
        "task = d90.tasks.load('train.jsonl', kind='signs')\n"
        "outputs = (task.validation.labels[:, None] - task.kind.mean) / task.kind.deviation\n"
        "print(task.metric, task.score(outputs), task.chance())"
    )
    metric, perfect, chance = run(folder, code).split()
    assert metric == "signs-right"
    assert float(perfect) == 1
    assert 0 <= float(chance) < 1


def test_a_method_a_projection_and_a_task_from_outside_train(folder: Path) -> None:
    """As entry points of an installed package, which the command line finds."""
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[d90.methods]\nnorms = norms:Norms\n[d90.projections]\nturns = turns:Turns\n"
        "[d90.kinds]\nsigns = signs:Signs\n[d90.tasks]\nevens = evens:load\n"
    )
    listed = run(folder, "import sys; sys.argv = ['d90', 'methods']; from d90.cli.main import main; main()")
    assert "norms:biases=True" in listed
    assert "turns" in listed
    code = "import d90; print(d90.tasks.load('evens').fingerprint == d90.tasks.load('evens').fingerprint)"
    assert run(folder, code).strip() == "True"
