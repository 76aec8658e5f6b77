"""Latency: what is timed, how it is summed up, what is refused, and the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from d90.errors import InputError
from d90.methods import parse
from d90.studies import latency as room
from d90.studies.latency import SHAPES, latency, usual_methods
from tests.reference.command import run
from tests.reference.states import hooks_of


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two shapes that take a millisecond."""
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 40}
    bert = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    found: dict[str, Any] = {"gpt2": ("gpt2", sizes), "bert-base": ("bert", bert)}
    monkeypatch.setattr(room, "SHAPES", found)
    return found


METHODS = ["lora:r=2,targets=all", "adapter:kind=lin,r=2", "adapter:r=2", "preembed:prefix=3", "prelayer:prefix=3"]
QUICK: dict[str, Any] = {"pairs": [(1, 8), (3, 12)], "rounds": 3, "seconds": 0.0}


def modules_of(model: nn.Module) -> list[tuple[str, str]]:
    return [(name, type(module).__name__) for name, module in model.named_modules()]


@pytest.mark.parametrize("shape", ["gpt2", "bert-base"])
def test_a_row_for_every_method_and_size(tiny: dict[str, Any], shape: str) -> None:
    found = latency(shape=shape, methods=METHODS, **QUICK)
    assert [(row.batch, row.length, row.asked) for row in found.rows] == [
        (*pair, asked) for pair in QUICK["pairs"] for asked in ("base", *METHODS)
    ]
    for row in found.rows:
        assert row.rounds == 3
        assert row.milliseconds > 0
        assert row.low <= row.added <= row.high
        assert row.merged == row.asked.startswith("lora")
        assert row.method == ("base" if row.asked == "base" else str(parse(row.asked)))
        if row.asked == "base":
            assert row.added == row.low == row.high == 0
    assert found.model == f"{shape} (shapes, random weights)"
    assert {"processor", "threads", "torch", "attention"} <= found.definitions.keys()


def test_the_copies_share_the_weights_and_a_merged_one_is_the_bare_model(tiny: dict[str, Any]) -> None:
    module = room.random_model("gpt2", 0)
    weights = {name: p.clone() for name, p in module.named_parameters()}
    bare, own = modules_of(module), {id(p) for p in module.parameters()}
    for method in METHODS:
        other = room.with_method(parse(method), module, 0)
        assert not other.training
        shared = sum(id(p) in own for p in other.parameters())
        if method.startswith("lora"):
            assert modules_of(other) == bare
            assert not hooks_of(other)
        else:
            assert shared == len(own)
            extra = sum(p.numel() for p in other.parameters() if id(p) not in own)
            assert extra > 0
            assert hooks_of(other)
    assert modules_of(module) == bare
    assert not hooks_of(module)
    assert all(torch.equal(weights[name], p) for name, p in module.named_parameters())


def test_what_is_added_is_taken_inside_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down tenfold half-way changes the milliseconds and not what is added."""
    clock, speed = [0.0], [1.0]

    class Slow(nn.Module):
        def __init__(self, takes: float) -> None:
            super().__init__()
            self.takes, self.runs = takes, 0

        def forward(self, input_ids: torch.Tensor) -> None:
            self.runs += 1
            clock[0] += self.takes * (1 if self.runs <= 2 else 10) * speed[0]

    monkeypatch.setattr(room.time, "perf_counter", lambda: clock[0])
    models: dict[str, nn.Module] = {"base": Slow(1.0), "a": Slow(1.1), "b": Slow(0.9)}
    passes = room.time_rounds(models, torch.zeros(1, 1), rounds=5, seconds=0.0, seed=0)
    assert [len(taken) for taken in passes.values()] == [5, 5, 5]
    row = room.latency_row("a", "a", False, (1, 1), passes, noise=0.0)
    assert row.added == pytest.approx(0.1)
    assert (row.low, row.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert row.milliseconds == pytest.approx(11_000)
    more = room.time_rounds({"base": Slow(1.0)}, torch.zeros(1, 1), rounds=2, seconds=20.0, seed=0)
    assert len(more["base"]) == 4, "it goes on while seconds have not gone by: 1 + 1 + 10 + 10"


def test_a_merged_model_is_the_bare_one_within_its_interval(tiny: dict[str, Any]) -> None:
    found = latency(
        shape="gpt2", methods=["lora:r=2,targets=all", "adapter:r=2"], pairs=[(2, 16)], rounds=9, seconds=0.0
    )
    merged = next(row for row in found.rows if row.merged)
    assert merged.low <= 0 <= merged.high
    for row in found.rows[1:]:
        assert row.noise == merged.noise > 0
        assert row.high - row.low >= 2 * row.noise


def test_the_noise_of_equal_models_widens_every_interval() -> None:
    passes = {"base": [1.0] * 9, "a": [1.2] * 9}
    row = room.latency_row("a", "a", False, (1, 1), passes, noise=0.05)
    assert (row.low, row.added, row.high) == (pytest.approx(0.15), pytest.approx(0.2), pytest.approx(0.25))


def test_minilm_by_name() -> None:
    found = latency(methods=["adapter:r=4"], pairs=[(1, 8)], rounds=2, seconds=0.0)
    assert found.model == "minilm"
    assert found.weights == 22_713_986


def test_threads_and_torchs_generator_are_given_back(tiny: dict[str, Any]) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    found = latency(shape="gpt2", methods=["bitfit"], threads=threads + 1, **QUICK)
    assert found.definitions["threads"] == threads + 1
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bf16(tiny: dict[str, Any]) -> None:
    assert latency(shape="gpt2", methods=METHODS, dtype="bf16", **QUICK).dtype == "bf16"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shape": "gpt3"}, "unknown shape 'gpt3': expected one of gpt2, bert-base.*Did you mean 'gpt2'"),
        ({"shape": "gpt2", "pairs": []}, "expected .batch, tokens. of at least 1 each"),
        ({"shape": "gpt2", "pairs": [(1, 0)]}, "expected .batch, tokens. of at least 1 each"),
        ({"shape": "gpt2", "pairs": [(1, 41)]}, "got 41 tokens, expected at most 40, the positions of the model"),
        ({"shape": "gpt2", "pairs": [(1, 40)]}, "got 40 tokens, which with 3 trained positions makes 43"),
        ({"shape": "gpt2", "rounds": 1}, "got rounds=1, expected at least 2"),
        ({"shape": "gpt2", "dtype": "fp8"}, "unknown dtype 'fp8'"),
        ({"shape": "gpt2", "threads": 0}, "got threads=0, expected at least 1"),
        ({"shape": "gpt2", "methods": ["full@d=10"]}, "expected a method without '@'"),
        ({"model": "fc"}, "model 'fc' takes images, expected a text model"),
        ({"model": "mlp:4-2"}, "model 'mlp:4-2' takes images, expected a text model"),
    ],
)
def test_what_is_refused(tiny: dict[str, Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        latency(**{"methods": METHODS, **QUICK, **given})


def test_the_shapes_are_the_architectures_they_are_called() -> None:
    millions = {"gpt2": 124, "gpt2-medium": 355, "gpt2-large": 774, "bert-base": 109, "bert-large": 335}
    for name in SHAPES:
        with torch.device("meta"):
            size = sum(p.numel() for p in room.random_model(name, 0).parameters()) / 1e6
        assert round(size) == {**millions, "roberta-base": 125, "roberta-large": 355}[name]


def test_the_usual_methods_are_the_papers_rows() -> None:
    assert usual_methods([8, 16], 4) == [
        "lora:r=8,targets=all",
        *(f"adapter:kind={kind},r={r}" for kind in ("lin", "houlsby") for r in (8, 16)),
        "preembed:prefix=4",
        "prelayer:prefix=4",
    ]


def test_latency_command_prints_a_table_and_writes_the_figures(tiny: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "l.json"
    quick = ("--pairs", "1x8,2x8", "--rounds", "2", "--seconds", "0", "--out", str(out))
    done = run("latency", "--shape", "gpt2", "--r", "2,4", "--prefix", "3", *quick)
    assert done.returncode == 0, done.stderr
    for word in ("1 x 8", "2 x 8", "full, or merged", "adapter:kind=houlsby,r=4", "preembed:prefix=3", "rounds: 2, 2"):
        assert word in done.stdout
    body = json.loads(out.read_text())
    assert len(body["rows"]) == 2 * (1 + 1 + 4 + 2)
    assert body["command"] == "d90 " + " ".join(["latency", "--shape", "gpt2", "--r", "2,4", "--prefix", "3", *quick])
    assert "d90.studies.latency" in sys.modules
    one = run("latency", "--shape", "gpt2", "--methods", "bitfit adapter:r=2", *quick)
    assert [row["asked"] for row in json.loads(out.read_text())["rows"]] == ["base", "bitfit", "adapter:r=2"] * 2
    assert one.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pairs", "8"), "got '8' among --pairs, expected BATCHxTOKENS"),
        (("--pairs", "1x8,axb"), "got 'axb' among --pairs"),
        (("--pairs", ","), "expected BATCHxTOKENS joined by commas"),
        (("--r", "four"), "got 'four' among --r, expected whole numbers"),
        (("--shape", "gpt5"), "unknown shape 'gpt5'"),
        (("--methods", "adaptor"), "unknown method 'adaptor'"),
        (("--shape", "gpt2", "--pairs", "1x8"), "got --r 64, but the sublayers of this model give 16 numbers"),
    ],
)
def test_latency_command_refuses_bad_options_in_one_line(tiny: dict[str, Any], arguments: Any, message: str) -> None:
    done = run("latency", *arguments)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert len(lines) == 1
    assert message in lines[0]
