"""`--device`: on every command that trains or predicts, and refused in one line where it is not here."""

from __future__ import annotations

import os

import pytest
import typer

from d90.cli.device import on_device
from d90.cli.main import app
from d90.errors import InputError

EXPECTED = {
    *("measure", "advise", "train", "generate", "predict", "evaluate", "compare", "gap", "pretrain"),
    *("trajectory", "family", "lowdata", "run", "convert"),
}


def test_the_commands_that_train_or_predict_take_a_device() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    takes = {name for name, one in commands.items() if any(p.name == "device" for p in one.params)}
    assert takes - {"preflight"} == EXPECTED  # which says of which device the memory is


def test_the_device_holds_for_the_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("D90_DEVICE", raising=False)
    seen = []
    on_device(lambda: seen.append(os.environ["D90_DEVICE"]))(device="cpu")
    assert seen == ["cpu"]
    assert "D90_DEVICE" not in os.environ
    with pytest.raises(InputError, match="got device 'cuda:99'"):
        on_device(lambda: seen.append("ran"))(device="cuda:99")
    assert seen == ["cpu"]
