"""Language models in less memory: batches in parts, recomputed activations, weights in bf16 and four bits, and LoRA's targets there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.methods import parse
from d90.models.loading import count_weights, load
from d90.tasks.kinds import stored_kind
from d90.training.loading import open_tune
from d90.training.recipe import suited
from d90.training.weights import check_weights, memory, settled_weights
from tests.reference.blobs import blobs
from tests.reference.command import run as command
from tests.reference.tiny_causal import tiny_causal, tiny_documents

LANGUAGE, CLASSES = stored_kind("language", False, ()), stored_kind("classification", False, ("a", "b"))


def _train(folder: Path, method: str = "full", **options: Any) -> Any:
    tiny_causal(folder / "model")
    data = tiny_documents(folder / "data", 41)
    given: dict[str, Any] = {"lr": 1e-2, "epochs": 2, "batch_size": 8, "evaluations": 2, "precision": "fp32"}
    return d90.train(str(folder / "model"), f"text:{data}", method, **{**given, **options})


def _trained(run: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.trained.parameters()])


@pytest.mark.parametrize("method", ["full", "full@d=30,structure=said", "lora:r=2"])
def test_a_batch_in_parts_makes_the_same_step(method: str, tmp_path: Path) -> None:
    whole, parts = _train(tmp_path, method), _train(tmp_path, method, accumulate=3)
    assert parts.outcome.train_loss == pytest.approx(whole.outcome.train_loss, rel=1e-4)
    assert parts.outcome.steps == whole.outcome.steps
    # Adam divides a gradient by its own size: where it is nearly zero, rounding alone decides
    assert (_trained(parts) - _trained(whole)).norm() < 1e-2 * _trained(whole).norm()
    assert parts.score == pytest.approx(whole.score, abs=1e-3)


def test_one_step_in_parts_has_the_gradient_of_the_batch() -> None:
    for kind in ("classification", "regression"):
        made = [
            d90.train("mlp:16-8-3" if kind == "classification" else "mlp:16-8-1", blobs(kind=kind), "full", epochs=0.05, lr=1e-2, clip=0.0,
                      evaluations=1, accumulate=parts)
            for parts in (1, 5)
        ]  # fmt: skip
        assert made[0].outcome.train_loss == pytest.approx(made[1].outcome.train_loss, rel=1e-5)


@pytest.mark.parametrize("method", ["full", "full@d=30", "lora:r=2"])
def test_recomputed_activations_train_alike_and_leave_the_model_as_it_was(method: str, tmp_path: Path) -> None:
    plain, again = _train(tmp_path, method), _train(tmp_path, method, gradient_checkpointing=True)
    assert again.outcome.train_loss == pytest.approx(plain.outcome.train_loss, rel=1e-5)
    assert again.outcome.curve[-1].loss == pytest.approx(plain.outcome.curve[-1].loss, rel=1e-5)
    assert not any(getattr(part, "gradient_checkpointing", False) for part in again.model.module.modules())


def test_a_network_without_checkpointing_is_refused() -> None:
    with pytest.raises(InputError, match="got gradient checkpointing for a Sequential, which has none"):
        d90.train("mlp:16-8-3", blobs(), "full", epochs=0.1, gradient_checkpointing=True)


def test_options_of_memory_change_a_key_only_where_they_differ(tmp_path: Path) -> None:
    recipe = _train(tmp_path, "full@d=5", epochs=0.1).recipe
    assert (
        not {"accumulate", "gradient_checkpointing", "weights", "forgetting", "keep", "forget_at_most"}
        & recipe.to_dict().keys()
    )
    other = _train(tmp_path, "full@d=5", epochs=0.1, accumulate=2, weights="bf16").recipe.to_dict()
    assert (other["accumulate"], other["weights"]) == (2, "bf16")


def test_loras_targets_of_a_language_model_are_all_linear_layers(tmp_path: Path) -> None:
    assert str(suited("lora:r=2", LANGUAGE)) == "lora:r=2,alpha=2,targets=all,init=code"
    assert str(suited("lora:r=2,targets=qv@d=9", LANGUAGE)).startswith("lora:r=2,alpha=2,targets=qv,init=code@d=9")
    assert "targets=all" in str(suited("lora:r=2+preembed:prefix=2", LANGUAGE))
    assert suited("lora:r=2", CLASSES) == parse("lora:r=2,targets=qv")
    assert suited(parse("lora:r=2"), LANGUAGE) == parse("lora:r=2,targets=qv")
    run = _train(tmp_path, "lora:r=2", epochs=0.1)
    assert run.recipe.method == "lora:r=2,alpha=2,targets=all,init=code"
    lora = {
        name.split(".lora_A")[0].rpartition(".")[2]
        for name, _ in run.model.module.named_parameters()
        if "lora_A" in name
    }
    assert lora == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    data = tmp_path / "data"
    store = tmp_path / "t.sqlite"
    found = d90.compare(
        str(tmp_path / "model"),
        f"text:{data}",
        ["lora:r=2"],
        lr=1e-2,
        epochs=0.1,
        evaluations=1,
        costs=False,
        store=store,
    )
    assert found.entries[0].method == run.recipe.method
    done = command(
        "train",
        "model",
        "text:data",
        "-m",
        "lora:r=2",
        "--epochs",
        "0.1",
        "--evaluations",
        "1",
        "--out",
        "x.d90",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "x.json").read_text())["recipe"]["method"] == run.recipe.method


def test_rslora_scales_by_the_root_of_the_rank(tmp_path: Path) -> None:
    assert str(parse("lora:r=4,rslora").method) == "lora:r=4,alpha=4,targets=qv,init=code,rslora=True"
    assert parse("lora:r=4,rslora=false") == parse("lora:r=4")
    run = _train(tmp_path, "lora:r=4,alpha=8,rslora")
    layers = [m for m in run.model.module.modules() if hasattr(m, "scaling") and "default" in getattr(m, "lora_A", ())]
    assert {layer.scaling["default"] for layer in layers} == {8 / 4**0.5}
    run.save(tmp_path / "x.d90")
    done = command("convert", "x.d90", "--to", "lora", "--out", "folder", cwd=tmp_path)
    assert "holds exactly" in done.stdout, done.stderr
    before, after = done.stdout.split("loss ")[1].split()[0], done.stdout.split("the tune, ")[1].split()[0]
    assert before == after
    assert json.loads((tmp_path / "folder" / "adapter_config.json").read_text())["use_rslora"] is True


@pytest.mark.parametrize("method", ["lora:r=2", "full@d=40", "lora:r=2@d=20", "adapter:r=2", "preembed:prefix=2"])
def test_a_bf16_base_trains_what_is_added_in_fp32_and_opens_again(method: str, tmp_path: Path) -> None:
    run = _train(tmp_path, method, weights="bf16", precision="auto", forgetting=True)
    named = dict(run.model.module.named_parameters())
    base = {name: p.dtype for name, p in named.items() if name.endswith("q_proj.weight") or "base_layer" in name}
    assert set(base.values()) == {torch.bfloat16}
    assert {p.dtype for p in run.trained.parameters()} == {torch.float32}
    assert run.outcome.improved
    assert run.outcome.precision == "bf16"
    run.save(tmp_path / "x.d90")
    again = open_tune(tmp_path / "x.d90", forgetting=True)
    assert again.evaluate().loss == pytest.approx(run.outcome.best.loss, abs=1e-6)
    assert again.forgotten()[0].mean == pytest.approx(run.outcome.forgetting[0].mean, abs=1e-6)


def test_weights_that_cannot_train_are_refused_in_one_line(tmp_path: Path) -> None:
    for method, weights, words in (
        ("full", "bf16", "steps would be lost"), ("bitfit", "bf16", "steps would be lost"), ("full", "4bit", "packed integers cannot move"),
        ("bitfit", "4bit", "packed integers cannot move"), ("full@d=9", "4bit", "packed integers cannot move"),
        ("lora:r=2+bitfit", "4bit", "with 'bitfit', which moves"), ("pafi", "4bit", "with 'sparse.*', which moves"),
        ("hiwi:on=weight", "4bit", "with 'hiwi.*', which moves"), ("lora:r=2+hiwi@d=9", "4bit", "with 'hiwi.*', which moves"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            check_weights(weights, parse(method), LANGUAGE)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="got weights=4bit, which needs a GPU; expected weights=bf16 here"):
            check_weights("4bit", parse("lora:r=2"), LANGUAGE)
    with pytest.raises(InputError, match="got weights=bf16 for a classification, expected fp32"):
        check_weights("bf16", parse("lora:r=2"), CLASSES)
    tiny_causal(tmp_path / "model")
    tiny_documents(tmp_path / "data", 10)
    done = command("train", "model", "text:data", "-m", "bitfit", "--weights", "4bit", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_weights_are_bf16_where_fp32_takes_more_than_half_the_memory(tmp_path: Path) -> None:
    name = str(tiny_causal(tmp_path / "model"))
    count = count_weights(name, LANGUAGE)
    assert count == sum(p.numel() for p in load(name, 0, "language").module.parameters())

    def settled(method: str, have: int) -> str:
        return settled_weights("auto", name, [parse(method)], LANGUAGE, "cpu", have)[0]

    assert settled("lora:r=2", 8 * count) == "fp32"
    assert settled("lora:r=2", 8 * count - 1) == "bf16"
    assert settled("full@d=9", 8 * count) == "bf16"
    assert settled("full@d=9", 16 * count) == "fp32"
    assert settled("full", 1) == "fp32"
    assert settled_weights("auto", name, [parse("lora:r=2"), parse("full")], LANGUAGE, "cpu", 1)[0] == "fp32"
    assert settled_weights("auto", name, [parse("lora:r=2")], CLASSES, "cpu", 1)[0] == "fp32"
    assert "more than half of the memory" in settled_weights("auto", name, [parse("lora:r=2")], LANGUAGE, "cpu", 1)[1]
    assert memory("cpu") > 1 << 28
