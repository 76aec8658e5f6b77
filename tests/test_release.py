"""The wheel and the sdist, installed where nothing of the source tree is seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import d90

ROOT = Path(__file__).parents[1]
PREDICTION = """
import torch, d90
from d90.tasks import Split, Task
assert "site-packages" in d90.__file__, d90.__file__
pixels = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
split = Split(pixels, (pixels.mean((1, 2, 3)) > 0).long())
run = d90.train("mlp:16-8-2", Task("t", "classification", ("no", "yes"), "accuracy", split, split), d=20, epochs=1)
run.save("t.d90")
print(run.model.module(pixels[:1]).argmax().item() in (0, 1))
"""


def call(*words: object, where: Path) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(word) for word in words], cwd=where, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_declared_python_begins_where_the_tests_run() -> None:
    """3.10 was declared, where `from typing import Self` fails at the first result that is read."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["project"]["requires-python"])
    assert declared
    oldest, newest = int(declared[1]), int(declared[2]) - 1
    version = f"3.{oldest}"
    assert project["tool"]["mypy"]["python_version"] == version, "types are checked for the oldest"
    named = [word.rpartition(" ")[2] for word in project["project"]["classifiers"] if "Python :: 3" in word]
    assert named == [version, f"3.{newest}"], "each version that is named is one that the tests run on"
    assert f"NEWEST ?= python3.{newest}\n" in (ROOT / "Makefile").read_text(encoding="utf-8"), (
        "make pythons runs the newest"
    )
    assert (3, oldest) <= sys.version_info[:2] <= (3, newest)


@pytest.mark.slow
def test_wheel_and_sdist_install_into_an_empty_environment_and_work(tmp_path: Path) -> None:
    """The wheel is built from the sdist, as an index would have it; its dependencies are those of this environment."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT, where=tmp_path)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as file:
        packed = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "src/d90/py.typed"} <= packed
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "d90").rglob("*.py")}
    data = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "d90" / "report").glob("*.html")}
    assert sources | data | {"d90/py.typed"} <= names
    assert not any(name.startswith("tests/") for name in names)

    venv.create(tmp_path / "empty", with_pip=False)
    scripts = tmp_path / "empty" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    call(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
        where=tmp_path,
    )
    own = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", where=tmp_path).strip())
    (own / "dependencies.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # after its own packages; no .pth there is read
    assert call(scripts / "d90", "--version", where=tmp_path).strip() == f"d90 {d90.__version__}"
    assert "measure" in call(scripts / "d90", "--help", where=tmp_path)
    assert call(python, "-c", PREDICTION, where=tmp_path).strip().endswith("True")
    shown = call(scripts / "d90", "inspect", "t.d90", where=tmp_path)
    assert re.search(r"\b20\b", shown), shown
