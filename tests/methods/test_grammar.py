"""The grammar of methods: texts, canonical texts, errors."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from d90.errors import InputError
from d90.methods import (
    METHODS,
    Adapter,
    Applied,
    Context,
    HiWi,
    LoRA,
    Method,
    PaFi,
    PreEmbed,
    Space,
    SparseMask,
    TopLayers,
    parse,
    register_method,
)
from d90.methods.fields import fields_of
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


def test_a_subspace_without_its_dimension_is_refused_when_it_is_applied() -> None:
    space = parse("full@structure=said").space
    assert space is not None
    with pytest.raises(InputError, match=r"needs its dimension; expected d=.*full@d=1000"):
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
    made = kind()
    for field in fields_of(kind).values():
        if field.default is not None:
            assert getattr(made, field.name) == field.default
    assert str(parse(str(made))) == str(made)
    assert parse(str(made)).method == made
    assert hash(copy.deepcopy(made)) == hash(made)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(r="8"), r"lora: got r='8', expected an integer"),
        (lambda: LoRA(r=True), r"lora: got r=True, expected an integer"),
        (lambda: LoRA(alpha=2.5), r"lora: got alpha=2.5, expected an integer or None"),
        (lambda: LoRA(init="codes"), r"unknown init of lora 'codes'.*Did you mean 'code'"),
        (lambda: TopLayers(n=None), r"top: got n=None, expected an integer"),
        (lambda: SparseMask(per="matrix"), r"unknown per of sparse 'matrix'"),
        (lambda: HiWi(on="weights"), r"unknown on of hiwi 'weights'.*Did you mean 'weight'"),
        (lambda: Adapter(kind="pfeifer"), r"unknown kind of adapter 'pfeifer'.*Did you mean 'pfeiffer'"),
        (lambda: PaFi(fraction="many"), r"sparse: got fraction='many', expected a number or None"),
        (lambda: PreEmbed(prefix=1.5), r"preembed: got prefix=1.5, expected an integer"),
    ],
)
def test_a_wrong_value_from_python_is_said(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_methods_have_a_signature_an_equality_and_a_repr() -> None:
    assert list(inspect.signature(LoRA).parameters) == ["r", "alpha", "targets", "init", "rslora"]
    assert LoRA(r=4) == LoRA(r=4, alpha=4) != LoRA(r=4, alpha=8)
    assert repr(LoRA(r=4)) == "LoRA(r=4, alpha=4, targets='qv', init='code', rslora=False)"
    assert PaFi(k=7) == SparseMask(mask="magnitude", k=7)
    assert {parse("lora:r=4").method, LoRA(r=4)} == {LoRA(r=4)}
    with pytest.raises(TypeError, match="rank"):
        LoRA(rank=4)  # type: ignore[call-arg]


@pytest.fixture
def methods_given_back() -> Iterator[None]:
    with METHODS.scope():
        yield


def test_a_method_from_outside_joins_the_grammar(methods_given_back: None) -> None:
    @register_method
    @dataclasses.dataclass(frozen=True)
    class Norms(Method):
        """Delta is zero outside one-dimensional weights."""

        name: ClassVar[str] = "norms"
        summary: ClassVar[str] = "one-dimensional weights and the head move"

        biases: bool = True

        def move(self, applied: Applied, context: Context) -> set[str]:
            return {n for n, (p, _) in applied.flags.items() if p.dim() == 1 and (self.biases or "bias" not in n)}

    assert str(parse("norms@d=3").method) == "norms:biases=True"
    assert parse("norms:biases=false").method == Norms(biases=False)
    with pytest.raises(InputError, match=r"got biases=perhaps, expected true or false"):
        parse("norms:biases=perhaps")
    model = plain()
    applied = parse("norms").method.apply(model)
    assert {p.dim() for p in model.parameters() if p.requires_grad} == {1}
    applied.remove()
    with pytest.raises(InputError, match="expected a frozen dataclass"):
        register_method(dict)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        ("full", "full"),
        ("full@structure=did", "full"),
        ("full@d=1000,structure=did,projection=fastfood,scale=tensor,layer=block,head=inside", "full@d=1000"),
        ("bitfit@d=10,structure=said,seed=4", "bitfit@d=10,structure=said,seed=4"),
    ],
)
def test_a_brief_name_leaves_out_what_every_subspace_has(text: str, brief: str) -> None:
    assert parse(text).brief == brief
