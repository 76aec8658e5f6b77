"""The registry of variants: d90's own, registered ones, and those of installed packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from d90.errors import InputError
from d90.registry import Registry


def package(folder: Path, code: str, points: str) -> None:
    """An installed package as the import system finds it: a module, and metadata with entry points."""
    (folder / "rows_of_mine.py").write_text(code)
    info = folder / "rows_of_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rows-of-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_an_installed_package_brings_a_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "class Rows: pass\n", "[d90.things]\nrows = rows_of_mine:Rows\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    things: Registry[type] = Registry("thing", "d90.things", {"own": int})
    assert list(things) == ["own", "rows"]
    assert "rows_of_mine" not in sys.modules, "listing names must not import the package"
    assert things.find("rows").__name__ == "Rows"
    assert len(things) == 2


def test_a_package_that_fails_to_load_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "import a_module_that_is_not_there\n", "[d90.things]\nrows = rows_of_mine:Rows\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rows_of_mine", raising=False)
    things: Registry[type] = Registry("thing", "d90.things", {"own": int})
    assert things.find("own") is int
    with pytest.raises(InputError, match=r"'rows' comes with the package 'rows-of-mine', which fails to load"):
        things.find("rows")


def test_a_name_is_taken_once_and_checked() -> None:
    def check(kind: type) -> None:
        if kind is str:
            raise InputError("no numbers in it")

    things: Registry[type] = Registry("thing", "d90.things", {"own": int}, check=check)
    with pytest.raises(InputError, match=r"'own' is there already \(builtins.int\)"):
        things.register("own", float)
    with pytest.raises(InputError, match="expected small letters"):
        things.register("a,b", float)
    with pytest.raises(InputError, match="no numbers in it"):
        things.register("words", str)
    things.register("mine", float)
    things.register("mine", float)
    assert things["mine"] is float


def test_an_unknown_name_lists_what_there_is() -> None:
    things: Registry[type] = Registry("thing", "d90.things", {"own": int}, hint="Run 'd90 things'.")
    with pytest.raises(InputError, match=r"unknown thing 'owm'.*own.*Run 'd90 things'"):
        things.find("owm")
