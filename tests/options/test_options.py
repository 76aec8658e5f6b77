"""Options: one field each, from which keywords, command lines and checks come."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy
import pytest
import typer

import d90
from d90.cli.main import app
from d90.errors import InputError
from d90.options import (
    CertificateOptions,
    CompareOptions,
    LatencyOptions,
    LowDataOptions,
    Options,
    SearchOptions,
    SeriesOptions,
    StudyOptions,
    TaskOptions,
    TrainingOptions,
    fields_of,
    with_options,
)
from d90.options.certificate import CertificateFields
from d90.options.search import SearchFields
from d90.options.studies import CompareFields, LatencyFields, LowDataFields, SeriesFields, StudyFields
from d90.options.task import TaskFields
from d90.options.training import TrainingFields
from d90.subspace.options import SubspaceFields, SubspaceOptions
from d90.trials.options import ExecutorOptions, RunFields, RunOptions
from tests.reference.blobs import FAST, blobs

KEYWORDS: dict[type[Options], Any] = {
    TrainingOptions: TrainingFields,
    TaskOptions: TaskFields,
    SearchOptions: SearchFields,
    RunOptions: RunFields,
    CompareOptions: CompareFields,
    LowDataOptions: LowDataFields,
    SeriesOptions: SeriesFields,
    StudyOptions: StudyFields,
    LatencyOptions: LatencyFields,
    CertificateOptions: CertificateFields,
    SubspaceOptions: SubspaceFields,
}
COMMANDS = {
    "measure": (SearchOptions, TaskOptions, TrainingOptions, RunOptions, ExecutorOptions),
    "train": (TaskOptions, TrainingOptions),
    "compare": (CompareOptions, TaskOptions, TrainingOptions, RunOptions, ExecutorOptions),
    "trajectory": (SeriesOptions, SearchOptions, TaskOptions, TrainingOptions, RunOptions, ExecutorOptions),
    "family": (SeriesOptions, SearchOptions, TaskOptions, TrainingOptions, RunOptions, ExecutorOptions),
    "lowdata": (LowDataOptions, TrainingOptions, RunOptions, ExecutorOptions),
    "run": (ExecutorOptions,),
}


@pytest.mark.parametrize("kind", [*KEYWORDS, ExecutorOptions], ids=lambda kind: kind.__name__)
def test_every_field_has_a_default_a_help_text_and_stands_in_the_docstring(kind: type[Options]) -> None:
    for field in fields(kind):
        assert field.default is not MISSING, field.name
        assert len(field.metadata["help"]) > 10, field.name
        words = (kind.__doc__ or "").split("Attributes:")[1].split("Raises:")[0]
        assert field.name in words, f"{field.name} is not described by {kind.__name__}"


@pytest.mark.parametrize(("kind", "keywords"), KEYWORDS.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_the_keywords_of_functions_are_the_fields_and_their_types(kind: type[Options], keywords: Any) -> None:
    """An editor reads the typed dictionary: a field added to the options is added there, with its type."""
    assert get_type_hints(keywords) == {name: get_type_hints(kind)[name] for name in (f.name for f in fields(kind))}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_options_are_the_fields(name: str) -> None:
    found = {one.name: one for one in typer.main.get_command(app).commands[name].params}  # type: ignore[attr-defined]
    for kind in COMMANDS[name]:
        for field in fields_of(kind).values():
            if not field.shown or (name, field.name) in {("train", "until")}:
                continue
            assert found[field.name].help == field.help, field.name
            assert f"--{field.name.replace('_', '-')}" in found[field.name].opts or field.flags
    assert not [one for one in found.values() if one.name.startswith("old_") and not one.hidden]


@pytest.mark.parametrize("name", ["warmup", "weight_decay", "clip"])
@pytest.mark.parametrize("command", ["measure", "train", "compare", "trajectory", "family", "lowdata", "certify"])
def test_what_python_alone_had_is_an_option_of_every_command_that_trains(command: str, name: str) -> None:
    found = {one.name for one in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    assert name in found


def test_a_recipe_has_the_defaults_of_the_options() -> None:
    recipe, usual = d90.Recipe("m", "t"), TrainingOptions()
    for name in fields_of(TrainingOptions):
        if name not in ("lr", "step_rule", "weights"):  # settled in a recipe
            assert getattr(recipe, name) == getattr(usual, name)
    assert not {"until"} & recipe.to_dict().keys(), "what came later stands in no recipe that does not use it"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 0}, "got epochs=0, expected more than 0"),
        ({"epochs": float("inf")}, "got epochs=inf, expected more than 0"),
        ({"epochs": "2"}, "got epochs='2', expected a number"),
        ({"batch_size": 1.5}, "got batch_size=1.5, expected a whole number"),
        ({"batch_size": True}, "got batch_size=True, expected a whole number"),
        ({"warmup": 1}, "got warmup=1, expected a share of the steps, 0 <= warmup < 1"),
        ({"weight_decay": -1.0}, "got weight_decay=-1.0, expected 0 or more"),
        ({"clip": float("nan")}, "got clip=nan, expected 0 or more"),
        ({"precision": "fp16"}, "unknown precision 'fp16': expected one of auto, fp32, bf16"),
        ({"seed": -1}, "got seed=-1, expected 0 <= seed < 2^64"),
        ({"lr": "fast"}, "got learning rate 'fast', expected a positive number"),
        ({"lr": 0}, "got learning rate '0', expected a positive number"),
    ],
)
def test_options_that_cannot_be_are_refused_when_they_are_made(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match="^" + said.replace("(", r"\(").replace("^", r"\^")):
        TrainingOptions(**given)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (SearchOptions, {"rule": "papers"}, "unknown rule 'papers'.*Did you mean 'paper'"),
        (SearchOptions, {"fraction": 1.5}, "got fraction=1.5, expected a share of the baseline"),
        (SearchOptions, {"budget": 0.5}, "got budget=0.5, expected at least 1"),
        (SearchOptions, {"dims": 100}, "got dims=100, expected a list"),
        (SearchOptions, {"baseline_epochs": 0}, "got baseline_epochs=0, expected more than 0"),
        (TaskOptions, {"loss_on": "prompts"}, "unknown loss_on 'prompts'"),
        (TaskOptions, {"train_limit": 0}, "got train_limit=0, expected at least 1"),
        (SeriesOptions, {"target": "first"}, "unknown target 'first'"),
        (ExecutorOptions, {"num_gpus": 1.0}, "without --on ray"),
        (ExecutorOptions, {"on": "slurm"}, "unknown on 'slurm'"),
    ],
)
def test_each_kind_of_options_checks_its_own(kind: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        kind(**given)


def test_numbers_of_numpy_and_lists_are_taken_as_what_they_are() -> None:
    made = TrainingOptions(batch_size=numpy.int64(8), epochs=numpy.float32(2))
    assert (type(made.batch_size), made.epochs) == (int, 2)
    assert SearchOptions(dims=[10, 20]).dims == (10, 20)
    assert SearchOptions(baseline="0.9").baseline == 0.9, "a score in a text is that score"
    assert SearchOptions(baseline="lora:r=8").baseline == "lora:r=8"


def test_options_show_what_is_not_usual() -> None:
    assert repr(TrainingOptions(epochs=2)) == "TrainingOptions(epochs=2)"
    assert replace(TrainingOptions(epochs=2), epochs=3).to_dict() == {}


def test_keywords_and_options_are_the_same_call() -> None:
    @with_options
    def asked(
        training: TrainingOptions = TrainingOptions(epochs=5), data: TaskOptions = TaskOptions(), **fields: Any
    ) -> tuple[TrainingOptions, TaskOptions]:
        assert not fields
        return training, data

    assert asked() == (TrainingOptions(epochs=5), TaskOptions())
    assert asked(warmup=0.1, label="y") == (TrainingOptions(epochs=5, warmup=0.1), TaskOptions(label="y"))
    assert asked(training=TrainingOptions(clip=0), epochs=2)[0] == TrainingOptions(clip=0, epochs=2)
    assert asked(columns={"label": "y"}) == asked(label="y"), "as tasks were read before"
    with pytest.raises(InputError, match=r"unknown option .epoch..*Did you mean .epochs."):
        asked(epoch=2)


@pytest.mark.parametrize("name", ["measure", "compare", "train", "low_data", "trajectory", "family", "certify"])
def test_a_signature_shows_each_field_with_its_default(name: str) -> None:
    found = inspect.signature(getattr(d90, name)).parameters
    assert found["warmup"].default == TrainingOptions.warmup == 0.06
    assert found["label"].default is None
    assert "fields" not in found


def test_training_options_reach_the_recipe_and_the_key(tmp_path: Path) -> None:
    usual = d90.train("mlp:16-32-3", blobs(), **FAST).recipe
    given = d90.train("mlp:16-32-3", blobs(), training=TrainingOptions(weight_decay=0.1, warmup=0.5, **FAST)).recipe
    assert (given.weight_decay, given.warmup, given.lr) == (0.1, 0.5, FAST["lr"])
    assert given == replace(usual, weight_decay=0.1, warmup=0.5)
