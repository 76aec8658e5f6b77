"""The options of a subspace: one shape for files, methods, peft and constructors, and a clear error for each wrong field."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import d90
from d90 import Subspace, SubspaceOptions
from d90.errors import InputError
from d90.methods import parse
from d90.subspace import file as tune_file
from d90.subspace.options import SubspaceFields, option_help
from tests.reference.models import zoo

OTHER: dict[str, Any] = {
    "structure": "said",
    "projection": "onehot:one",
    "scale": "relative",
    "layer": "module",
    "head": "outside",
    "seed": 5,
    "step_rule": 1,
}


def test_every_option_goes_through_constructor_file_and_grammar(tmp_path: Path) -> None:
    options = SubspaceOptions(**OTHER)
    assert list(OTHER) == [field.name for field in fields(SubspaceOptions)]
    space = Subspace(zoo(), 40, options=options)
    assert space.options == options
    space.save(tmp_path / "a.d90")
    assert tune_file.read(tmp_path / "a.d90")[0].options == options
    assert Subspace.load(tmp_path / "a.d90", zoo()).options == options
    assert Subspace(zoo(), 40, **OTHER).options == options
    text = ",".join(f"{key}={value}" for key, value in OTHER.items() if key != "step_rule")
    found = parse(f"full@d=40,{text}").space
    assert found is not None
    assert replace(found.options, seed=found.seed or 0, step_rule=1) == options
    assert str(parse(f"full@d=40,{text}")) == f"full@d=40,{text}"


def test_a_single_keyword_replaces_the_options_field() -> None:
    space = Subspace(zoo(), 20, options=SubspaceOptions(seed=1, projection="onehot:one"), scale="global")
    assert space.options == SubspaceOptions(seed=1, projection="onehot:one", scale="global")
    assert set(SubspaceFields.__annotations__) <= inspect.signature(Subspace).parameters.keys()
    with pytest.raises(InputError, match=r"unknown option 'scal'.*Did you mean 'scale'"):
        Subspace(zoo(), 20, scal="global")  # type: ignore[call-arg]


def test_the_largest_seed_of_64_bits_is_one() -> None:
    assert SubspaceOptions(seed=(1 << 64) - 1).seed == d90.TrainingOptions(seed=(1 << 64) - 1).seed == (1 << 64) - 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("structure", "sald", "unknown structure 'sald': expected one of did, said. Did you mean 'said'"),
        ("projection", "fastfod", "unknown projection 'fastfod'.*Did you mean 'fastfood'"),
        ("projection", "fastfood:cosine", "got entries='cosine', expected 'sign' or 'gaussian'"),
        ("projection", 3, "got projection=3, expected its name"),
        ("scale", None, "unknown scale 'None'"),
        ("layer", "blocks", "unknown layer 'blocks'.*Did you mean 'block'"),
        ("head", True, "unknown head 'True'"),
        ("seed", -1, "got seed=-1, expected a 64-bit number"),
        ("seed", 1 << 64, "expected a 64-bit number"),
        ("seed", 1.5, "got seed=1.5, expected a whole number"),
        ("step_rule", 3, "unknown step_rule '3': expected one of 1, 2"),
    ],
)
def test_a_wrong_option_is_named_at_construction(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SubspaceOptions(**{field: value})  # type: ignore[arg-type]
    if field != "head":
        with pytest.raises(InputError, match=message):
            d90.SubspaceConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d", 0, "got d=0, expected a whole number of at least 1"),
        ("d", 2.5, "got d=2.5"),
        ("parameters", "(", "not a regular expression"),
        ("parameters", [3], "expected a pattern, a list of names or None"),
        ("modules_to_save", "classifier", "expected a list of modules"),
        ("base", 7, "got base=7, expected text"),
    ],
)
def test_a_wrong_field_of_a_peft_config_is_named_at_construction(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        d90.SubspaceConfig(**{field: value})  # type: ignore[arg-type]


def test_every_option_has_a_help_text_that_peft_shows_too() -> None:
    help_of = {field.name: field.metadata.get("help", "") for field in fields(d90.SubspaceConfig)}
    for field in fields(SubspaceOptions):
        assert len(option_help(field.name)) > 10
        assert field.name == "head" or help_of[field.name] == option_help(field.name)
    own = set(help_of) - {field.name for field in fields(d90.SubspaceConfig.__bases__[0])}
    assert all(help_of[name] for name in own)


def test_a_numpy_seed_is_a_seed() -> None:
    assert SubspaceOptions(seed=np.int64(7)) == SubspaceOptions(seed=7)
    assert type(SubspaceOptions(seed=np.int64(7)).seed) is int
