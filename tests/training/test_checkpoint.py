"""A killed trial goes on from its checkpoint and ends bit for bit where an uninterrupted one does."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import d90
from d90.methods import parse
from d90.models.loading import Model
from d90.tasks import Task
from d90.training.checkpoint import Checkpoint
from d90.training.loop import Data, fit
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.training.steps import RunControl
from tests.reference.blobs import blobs


class Killed(BaseException):
    """What a kill is to a test: nothing behind it runs."""


class Kill(Progress):
    def __init__(self, at: int) -> None:
        self.at, self.notes = at, list[str]()

    def trial_step(self, step: int, loss: float) -> None:
        if step >= self.at:
            raise Killed

    def note(self, message: str) -> None:
        self.notes.append(message)


class Dropping(nn.Module):
    """Dropout, running statistics and an embedding-free head: all that a resumed run must put back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3))
        self.classifier = nn.Linear(32, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(images))


def data() -> Data:
    task: Task = blobs()
    return Data(Model("dropping", Dropping()), task)


def recipe(method: str) -> Recipe:
    return Recipe("dropping", "blobs", method, lr=1e-2, epochs=4, batch_size=16, evaluations=4, precision="fp32")


def trained(method: str, **given: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[torch.Tensor]]:
    """The outcome but for its seconds, the weights that are kept, and the best predictions."""
    best: list[torch.Tensor] = []
    progress = given.pop("progress", Progress())
    control = RunControl(best=best.append, **given)
    outcome, applied = fit(data(), parse(method), recipe(method), progress=progress, control=control)
    found = outcome.to_dict()
    found.pop("seconds")
    return found, {n: t.clone() for n, t in applied.model.state_dict().items()}, best


METHODS = ("full", "full@d=20,structure=said,layer=module", "bitfit", "full@d=20,head=outside")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep_best", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, method: str, keep_best: bool) -> None:
    whole = trained(method, keep_best=keep_best)
    checkpoint = Checkpoint(tmp_path / "s.trials" / "one.safetensors", "key", minutes=0)
    steps = whole[0]["steps"]
    assert steps > 30
    for at in (10, 20, steps - steps % 10):  # killed three times
        kill = Kill(at)
        with pytest.raises(Killed):
            trained(method, keep_best=keep_best, checkpoint=checkpoint, progress=kill)
        assert any("goes on from step" in note for note in kill.notes) == (at > 10)
    again = trained(method, keep_best=keep_best, checkpoint=checkpoint)
    assert again[0] == whole[0]
    assert again[1].keys() == whole[1].keys()
    assert all(torch.equal(again[1][name], tensor) for name, tensor in whole[1].items())
    assert torch.equal(again[2][-1], whole[2][-1])
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_trial_or_a_damaged_one_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    with pytest.raises(Killed):
        trained("full@d=20", checkpoint=Checkpoint(path, "key", minutes=0), progress=Kill(20))
    assert Checkpoint(path, "key").load().step == 19  # type: ignore[union-attr]
    assert Checkpoint(path, "other").load() is None
    whole = trained("full@d=20")
    other = Kill(10**9)
    assert trained("full@d=12", checkpoint=Checkpoint(path, "key"), progress=other)[0]["trained"] == 12, "another shape"
    assert not other.notes
    raw = path.read_bytes()
    for damaged in (raw[:-5], raw[:40], b"", raw[:8] + b"x" + raw[9:]):
        path.write_bytes(damaged)
        assert Checkpoint(path, "key").load() is None
        assert trained("full@d=20", checkpoint=Checkpoint(path, "key", minutes=99))[0] == whole[0]


def test_a_checkpoint_that_cannot_be_written_ends_no_trial(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    progress = Kill(10**9)
    found = trained("full@d=20", checkpoint=Checkpoint(tmp_path / "file" / "c", "key", minutes=0), progress=progress)
    assert found[0] == trained("full@d=20")[0]
    assert progress.notes[0].startswith("no checkpoint: ")


@pytest.mark.slow
def test_a_killed_measurement_goes_on_within_its_trial_and_leaves_no_state(tmp_path: Path) -> None:
    from d90.trials.store import Store

    options: dict[str, Any] = {
        "epochs": 8,
        "batch_size": 8,
        "dims": (8,),
        "budget": 2,
        "seeds": 1,
        "lr": 1e-2,
        "low": 8,
        "high": 8,
    }
    child = os.fork()
    if child == 0:

        class Die(Progress):
            def trial_step(self, step: int, loss: float) -> None:
                if step >= 20:
                    os._exit(9)

        try:
            d90.measure(
                "mlp:16-32-3",
                blobs(),
                store=Store(tmp_path / "s.sqlite", checkpoint_minutes=0),
                progress=Die(),
                **options,
            )
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list((tmp_path / "s.sqlite.trials").iterdir())) == 1
    progress = Kill(10**9)
    result = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", progress=progress, **options)
    assert any("goes on from step" in note for note in progress.notes)
    assert not (tmp_path / "s.sqlite.trials").exists()
    fresh = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "t.sqlite", **options)
    assert (result.baseline, [p.score for p in result.curve]) == (fresh.baseline, [p.score for p in fresh.curve])


def test_train_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    options: dict[str, Any] = {"d": 20, "epochs": 8, "batch_size": 8, "lr": 1e-2}
    where = (tmp_path / "c", 0.0)
    with pytest.raises(Killed):
        d90.train("mlp:16-32-3", blobs(), progress=Kill(20), checkpoint=where, **options)
    kill = Kill(10**9)
    again = d90.train("mlp:16-32-3", blobs(), progress=kill, checkpoint=where, **options)
    assert any("goes on from step 19" in note for note in kill.notes)
    again.release()
    whole = d90.train("mlp:16-32-3", blobs(), **options)
    assert again.outcome.curve == whole.outcome.curve


@pytest.mark.parametrize("evaluations", [3, 4, 8])
@pytest.mark.parametrize("method", ["full", "full@d=20,head=outside"])
def test_a_whole_run_goes_on_from_its_reading_bit_for_bit(tmp_path: Path, method: str, evaluations: int) -> None:
    """A reading looks at the validation split where the whole run may not: that look is not the whole run's."""
    asked = replace(recipe(method), evaluations=evaluations)

    def ran(asked: Recipe, **given: Any) -> tuple[dict[str, Any], list[torch.Tensor]]:
        best: list[torch.Tensor] = []
        control = RunControl(best=best.append, keep_best=True, **given)
        outcome, applied = fit(data(), parse(method), asked, progress=Progress(), control=control)
        return {**outcome.to_dict(), "seconds": 0.0}, [*best[-1:], *applied.model.state_dict().values()]

    at_once = ran(asked)
    pause = Checkpoint(tmp_path / "s.trials" / "one.safetensors", "key")
    reading = ran(replace(asked, until=1 / 4), pause=pause)
    assert reading[0]["status"] == "read"
    assert pause.load() is not None
    again = ran(asked, checkpoint=pause)
    assert again[0] == at_once[0]
    assert all(torch.equal(a, b) for a, b in zip(again[1], at_once[1], strict=True))
