"""The README's Python runs as written, and its commands exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["loss"].item() < 0.3, "the example learns"
    assert (tmp_path / "task.d90").stat().st_size < 1024


def test_the_commands_of_the_readme_exist() -> None:
    from d90.cli.main import app

    known = {command.callback.__name__ for command in app.registered_commands}
    shown = set(re.findall(r"^d90 (\w+)", README, flags=re.MULTILINE))
    assert shown
    assert shown <= known


def test_the_tree_is_made_from_the_docstrings() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "tree.py"))["tree"]()
    page = (ROOT / "docs" / "explanation" / "design.md").read_text(encoding="utf-8")
    assert made in page, "run python docs/tree.py --write"


def test_the_figures_are_those_of_the_stored_trials() -> None:
    measured = runpy.run_path(str(ROOT / "docs" / "measured.py"))
    assert measured["block"]() in README, "run python docs/measured.py --write"
    assert measured["demo"]() in README, "run python docs/measured.py --write"
    study = measured["mnist"]("fc", False)
    assert f"d90 = {study.d90:,}, {measured['spread'](study)}" in measured["FIGURE"].read_text(encoding="utf-8")


def test_the_readme_is_read_in_one_sitting_and_names_no_package_index() -> None:
    assert len(README.splitlines()) < 120
    assert not re.search(r"index-url|pypi|download\.pytorch", README, re.IGNORECASE)
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://arxiv.org") or (ROOT / link).exists(), link
