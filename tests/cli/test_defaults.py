"""The command line and Python agree: every option that a command and its function share has one default."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

from d90.training.recipe import Recipe

SHARED = {  # command, and the functions whose parameters it passes on
    "cli.measure:measure": ["studies.measure:measure"],
    "cli.compare:compare": ["studies.compare:compare"],
    "cli.series:trajectory": ["studies.series:trajectory", "studies.series:_series", "studies.measure:measure"],
    "cli.series:family": ["studies.series:family", "studies.series:_series", "studies.measure:measure"],
    "cli.series:lowdata": ["studies.low_data:low_data"],
    "cli.certify:certify": ["certificates.classification:certify"],
    "cli.tunes:train": ["training.loop:train"],
}
OPEN = (None, "", inspect.Parameter.empty)  # on a command line: what the function decides
SAID_OTHERWISE = {("cli.tunes:train", "lr", "default"), *((name, "lr", "auto") for name in SHARED)}


def parameters(where: str) -> dict[str, Any]:
    module, name = where.split(":")
    found = inspect.signature(getattr(import_module(f"d90.{module}"), name)).parameters
    return {key: one.default for key, one in found.items()}


def as_number(value: Any) -> Any:
    """Numbers joined by commas as what they mean."""
    if (
        isinstance(value, str)
        and "," in value
        and value.replace(",", "").replace(".", "").removesuffix("all").isdecimal()
    ):
        return tuple(None if part == "all" else float(part) for part in value.split(","))
    return value


@pytest.mark.parametrize("command", SHARED)
def test_a_command_and_its_function_have_one_default(command: str) -> None:
    fields: dict[str, Any] = {name: field.default for name, field in Recipe.__dataclass_fields__.items()}
    fields = {name: value for name, value in fields.items() if name not in ("model", "task", "columns")}
    for where in reversed(SHARED[command]):
        fields |= {key: value for key, value in parameters(where).items() if value is not inspect.Parameter.empty}
    given = parameters(command)
    assert len(given.keys() & fields.keys()) > 5
    for name in sorted(given.keys() & fields.keys()):
        value = as_number(given[name])
        if value in OPEN or (command, name, value) in SAID_OTHERWISE or name == "store":
            continue
        assert value == fields[name], (
            f"--{name.replace('_', '-')}: {value!r} on the command line, {fields[name]!r} in Python"
        )


def test_the_defaults_that_differed() -> None:
    assert parameters("cli.series:family")["target"] == parameters("studies.series:family")["target"] == "own"
    assert parameters("cli.series:trajectory")["start"] == parameters("studies.measure:measure")["start"]
    assert parameters("cli.measure:measure")["lr"] == parameters("studies.measure:measure")["lr"] == "auto"


@pytest.mark.parametrize("name", ["measure", "train", "compare"])
def test_wrapped_commands_keep_their_arguments(name: str) -> None:
    """Annotations that a wrapper cannot resolve become plain text options: `d90 measure MODEL TASK` was then refused."""
    import typer

    from d90.cli.main import app

    command = typer.main.get_command(app).commands[name]
    kinds = {parameter.name: parameter.param_type_name for parameter in command.params}
    assert (kinds["model"], kinds["task"], kinds["device"], kinds["lr"]) == ("argument", "argument", "option", "option")
