"""The grammar of methods: texts, canonical texts, errors."""

from __future__ import annotations

import copy

import pytest

from d90.errors import InputError
from d90.methods import METHODS, Space, parse
from d90.subspace.options import SubspaceOptions
from tests.methods.table import plain


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("full", "full"),
        ("  bitfit ", "bitfit"),
        ("top", "top:n=2"),
        ("top:n=3", "top:n=3"),
        ("full@d=1000", "full@d=1000,structure=did,projection=fastfood,scale=tensor,layer=block,head=inside"),
        (
            "top:n=1@structure=said, d=7,seed=18446744073709551615,projection=fastfood:gaussian",
            "top:n=1@d=7,structure=said,projection=fastfood:gaussian,scale=tensor,layer=block,head=inside,"
            "seed=18446744073709551615",
        ),
        (" top:n=1 + bitfit", "top:n=1+bitfit"),
        ("full@scale=relative", "full@structure=did,projection=fastfood,scale=relative,layer=block,head=inside"),
    ],
)
def test_parse_gives_the_canonical_text(text: str, canonical: str) -> None:
    spec = parse(text)
    assert str(spec) == canonical
    again = parse(canonical)
    assert str(again) == canonical
    assert again.space == spec.space


def test_at_adds_changes_and_takes_off_a_subspace() -> None:
    spec = parse("top:n=1")
    assert str(spec.at(50, structure="said")) == str(parse("top:n=1@d=50,structure=said"))
    assert spec.at(50, structure="said").at(60).space == Space(60, SubspaceOptions("said"))
    assert str(spec.at(50).at(None)) == "top:n=1"
    assert spec.space is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown method ''"),
        ("ful", r"unknown method 'ful'.*Did you mean 'full'.*d90 methods"),
        ("full:n=2", r"unknown option of method 'full' 'n'.*takes none"),
        ("top:m=2", r"unknown option of method 'top' 'm': expected one of n"),
        ("top:n=two", r"got n=two, expected an integer"),
        ("top:n", r"got 'n', expected key=value"),
        ("top:n=", r"got 'n=', expected key=value"),
        ("full@d=many", r"got d=many, expected an integer"),
        ("full@d=1.5", r"got d=1.5, expected an integer"),
        ("full@dim=5", r"unknown subspace option 'dim'.*expected one of d, structure"),
        ("full@d", r"got 'd', expected key=value"),
        ("full+", r"unknown method ''"),
        ("bitfit+bitfit", r"different methods on the two sides of '\+'"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


def test_a_subspace_without_its_dimension_is_refused_when_it_is_laid() -> None:
    space = parse("full@structure=said").space
    assert space is not None
    with pytest.raises(InputError, match=r"needs its dimension: expected d=.*full@d=1000"):
        space.apply(plain(), 0)


def test_the_run_gives_the_seed_unless_the_method_names_one() -> None:
    seeds = []
    for text in ("full@d=9", "full@d=9,seed=0"):
        space = parse(text).space
        assert space is not None
        seeds.append(space.apply(plain(), 77).options.seed)
    assert seeds == [77, 0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_described(name: str) -> None:
    kind = METHODS[name]
    assert kind.name == name
    assert kind.summary
    assert kind.__doc__
    assert str(parse(name).method).partition(":")[0] == getattr(kind, "short_for", name)
    left_open = {key for key, (_, default) in kind.options.items() if default is None}
    values = copy.deepcopy(kind()).values
    assert {key: values[key] for key in kind.options.keys() - left_open} == {
        key: default for key, (_, default) in kind.options.items() if key not in left_open
    }
    assert str(parse(str(kind()))) == str(kind())
