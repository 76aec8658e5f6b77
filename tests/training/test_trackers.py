"""Curves to trackers: accelerate's classes do the work, one run for each trial."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import d90
from d90.errors import InputError
from d90.training.progress import Progress
from d90.training.trackers import TRACKERS, Tracked, TrackerOptions
from tests.reference.blobs import FAST, blobs
from tests.reference.command import run


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A stand-in for the package `wandb`: what accelerate's tracker told it."""
    pytest.importorskip("accelerate")
    progress: list[tuple[Any, ...]] = []
    module: Any = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)

    class Run:
        def log(self, values: dict[str, float], step: int | None = None) -> None:
            progress.append(("log", step, values))

        def finish(self) -> None:
            progress.append(("finish",))

    def init(project: str, name: str) -> Run:
        progress.append(("init", project, name))
        return Run()

    module.init = init
    module.config = type(
        "Config", (), {"update": staticmethod(lambda values, **_: progress.append(("config", values)))}
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    return progress


def test_a_run_for_each_trial(wandb: list[tuple[Any, ...]]) -> None:
    with TrackerOptions(report_to="wandb").tracking(Progress()) as progress:
        d90.train("mlp:16-32-3", blobs(), "full@d=20", progress=progress, **FAST)
        d90.train("mlp:16-32-3", blobs(), "full@d=10", progress=progress, **FAST)
    kinds = [entry[0] for entry in wandb]
    assert kinds.count("init") == kinds.count("finish") == 2
    label = "full@d=20 seed 0, rate 0.01"
    assert wandb[0] == ("init", "d90", label)
    assert ("config", {"trial": label, "steps": 30}) in wandb
    first = wandb[: kinds.index("finish")]
    losses = [step for kind, step, *values in (e for e in first if e[0] == "log") if "train/loss" in values[0]]
    scored = [values for kind, step, values in (e for e in first if e[0] == "log") if "validation/score" in values]
    assert losses == [10, 20, 30]
    assert len(scored) == 3
    assert wandb[-1] == ("finish",)


def test_a_failed_run_is_closed_and_all_is_passed_on(wandb: list[tuple[Any, ...]]) -> None:
    progress: list[str] = []

    class Inner(Progress):
        def note(self, message: str) -> None:
            progress.append(message)

        def trial_ended(self, label: str, message: str) -> None:
            progress.append(label)

    def interrupted() -> None:
        with TrackerOptions(report_to="wandb").tracking(Inner()) as progress:
            progress.trial_started("a", 1)
            progress.note("said")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert wandb[-1] == ("finish",)
    passed = Tracked(Inner(), [])
    passed.trial_ended("b", "")
    assert progress == ["said", "b"]
    ours = {name for name in vars(Progress) if not name.startswith("_")}
    assert ours <= vars(Tracked).keys(), "every event is passed on"


def test_none_is_the_progress_itself() -> None:
    inner = Progress()
    for nothing in ("", "none", " , "):
        with TrackerOptions(report_to=nothing).tracking(inner) as progress:
            assert progress is inner


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"unknown tracker 'wandbb'.*Did you mean 'wandb'"):
        Tracked(Progress(), ["wandbb"])
    real = importlib.util.find_spec
    gone = {package for packages in TRACKERS.values() for package in packages}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else real(name))
    for name in TRACKERS:
        with pytest.raises(InputError, match=rf"not installed: pip install {name}$"):
            Tracked(Progress(), [name])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install accelerate"):
        Tracked(Progress(), ["wandb"])


def test_train_and_measure_report_to_a_tracker(digits: Path, tmp_path: Path, wandb: list[tuple[Any, ...]]) -> None:
    task = f"idx:{digits}"
    short = ("--lr", "0.01", "--epochs", "1", "--report-to", "wandb")
    done = run("train", "mlp:16-8-3", task, "--d", "20", *short, "--out", "a.d90", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [entry[0] for entry in wandb].count("finish") == 1
    wandb.clear()
    many = ("--baseline-lr", "0.01", "--start", "8", "--high", "16", "--seeds", "1")
    done = run("measure", "mlp:16-8-3", task, *short, *many, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kinds = [entry[0] for entry in wandb]
    assert kinds.count("init") == kinds.count("finish") >= 1
    wrong = run("train", "mlp:16-8-3", task, "--report-to", "paper", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_tensorboard_has_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TrackerOptions(report_to="tensorboard", logs=str(tmp_path)).tracking(Progress()) as progress:
        d90.train("mlp:16-32-3", blobs(), "full@d=20", progress=progress, **FAST)
    (folder,) = {file.parent for file in tmp_path.rglob("events.*")}
    read = EventAccumulator(str(folder)).Reload()
    assert len(read.Scalars("validation/score")) == 3


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_train_stores_theta_in_fewer_bytes(digits: Path, tmp_path: Path, dtype: str) -> None:
    from d90.subspace import file as tune_file

    command = ("train", "mlp:16-8-3", f"idx:{digits}", "--lr", "0.01", "--epochs", "1", "--out", "a.d90")
    done = run(*command, "--d", "20", "--dtype", dtype, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tune_file.about(tmp_path / "a.d90").dtype == dtype
    assert run("evaluate", "a.d90", cwd=tmp_path).returncode == 0
    for wrong in (("--dtype", dtype), ("--d", "20", "--dtype", "int4")):
        done = run(*command, *wrong, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "fp32" in done.stderr
