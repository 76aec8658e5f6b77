"""What a tune changed: the right matrices, peft's folders, the page, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.utils import logging

import d90
from d90.analysis import subspace_similarity
from d90.errors import InputError
from d90.methods import apply, parse
from d90.report.weight_change import analysis_page
from d90.results.weight_change import Analysis
from d90.studies.weight_change import analyze, changes
from tests.reference.chat import chat_model
from tests.reference.tokenizer import save_tokenizer

# by the loss, which every tune improves: one that never beats the untrained model keeps its weights, and changes nothing
FAST: dict[str, Any] = {"epochs": 10, "batch_size": 8, "evaluations": 4, "lr": 0.1, "precision": "fp32"}
FAST |= {"columns": {"metric": "loss"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pretrained model and a task beside it, and four tunes."""
    home = tmp_path_factory.mktemp("a")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=7, max_position_embeddings=16, pad_token_id=0, **sizes)
    logging.disable_progress_bar()
    transformers.BertForSequenceClassification(config).save_pretrained(home / "base")
    config.hidden_size = 12
    transformers.BertForSequenceClassification(config).save_pretrained(home / "wide")
    save_tokenizer(home / "wide", marks=True)
    logging.enable_progress_bar()
    save_tokenizer(home / "base", marks=True)
    rows = [{"text": "a a b" if i % 2 else "c b c", "label": i % 2} for i in range(32)]
    (home / "data").mkdir()
    for split in ("train", "validation"):
        (home / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tunes = {
        "r2": "lora:r=2",
        "r4": "lora:r=4,alpha=4",
        "full": "full",
        "space": "lora:r=2@d=30",
        "bias": "bitfit",
        "k": "lora:r=2,targets=k",
    }
    for name, method in [*tunes.items(), ("wide", "lora:r=2")]:
        run = d90.train(str(home / ("wide" if name == "wide" else "base")), str(home / "data"), method, **FAST)
        run.save(home / f"{name}.d90")
        run.release()
    return home


def test_changes_are_those_of_the_model(folder: Path) -> None:
    found = changes(folder / "r2.d90")
    assert {one.role for one in found} == {"q", "v"}
    for one in found:
        assert one.a is not None
        assert one.b is not None
        torch.testing.assert_close(one.delta, one.b @ one.a, rtol=1e-4, atol=1e-6)
        assert torch.linalg.matrix_rank(one.delta) <= 2
    assert {one.role for one in changes(folder / "full.d90")} == {"q", "k", "v", "o", "mlp_in", "mlp_out"}
    assert {one.role for one in changes(folder / "space.d90")} == {"q", "v"}
    assert {one.role for one in changes(folder / "full.d90", targets="k")} == {"k"}


def test_two_tunes_are_compared_on_both_sides(folder: Path, tmp_path: Path) -> None:
    found = analyze(folder / "r2.d90", folder / "r4.d90", ranks=(1, 2, 3))
    assert {row.role for row in found.rows} == {"q", "v"}
    assert all([one.r for one in row.against] == [1, 2] for row in found.rows), "none above the tune's rank"
    assert all([one.r for one in row.against] == [1, 2, 3, 4] for row in found.other_rows), "and its own"
    assert {like.side for like in found.likeness} == {"A", "B"}
    ours = {one.name: one for one in changes(folder / "r2.d90")}
    for like, theirs in zip(found.likeness[::2], changes(folder / "r4.d90"), strict=True):
        mine = ours[like.name].a
        assert mine is not None
        assert theirs.a is not None
        torch.testing.assert_close(
            torch.tensor(like.phi, dtype=torch.float64), subspace_similarity(mine, theirs.a), atol=1e-4, rtol=0
        )
        assert (len(like.null), len(like.null[0])) == (2, 4)
        assert [p for p, _, _ in like.distances] == [1, 2]
        for p, projection, geodesic in like.distances:
            assert projection == pytest.approx(math.sqrt(max(0.0, p * (1 - like.phi[p - 1][p - 1]))), abs=0.01)
            assert projection <= geodesic + 1e-4
    assert Analysis.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    page = analysis_page(found)
    assert "amplification" in page
    assert "lora:r=4" in page
    assert page.count("<svg") == 2
    for word in ("geodesic", "two random subspaces", "larger at the smaller r"):
        assert word in page
    assert analysis_page(found) == page


def test_a_change_of_any_rank_is_compared_by_its_own_directions(folder: Path) -> None:
    found = analyze(folder / "full.d90", folder / "r2.d90", targets="qv")
    assert {like.side for like in found.likeness} == {"inputs", "outputs"}
    assert all((len(like.phi), len(like.phi[0])) == (8, 2) for like in found.likeness)
    assert all(like.phi[7][1] == pytest.approx(1, abs=1e-3) for like in found.likeness), (
        "all directions hold every span"
    )
    own = analyze(folder / "full.d90", folder / "full.d90", targets="k")
    assert all(like.phi[0][0] == pytest.approx(1) and like.distances[-1][1] < 1e-3 for like in own.likeness)
    assert all(row.spectrum.effective_rank > 2 for row in own.rows)
    assert 'class="scroll"' in analysis_page(found)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_other_adapters_of_peft_are_what_merging_them_changes(folder: Path, tmp_path: Path) -> None:
    import peft

    from d90.models.loading import load

    torch.manual_seed(0)
    plain = load(str(folder / "base"), 2).module
    config = peft.LoHaConfig(r=2, alpha=3, target_modules=["query", "value"], modules_to_save=["classifier"])
    wrapped = peft.get_peft_model(load(str(folder / "base"), 2).module, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "hada" in name:
                parameter.normal_()
    wrapped.save_pretrained(tmp_path / "loha")
    merged = wrapped.merge_and_unload()
    found = changes(tmp_path / "loha", str(folder / "base"))
    assert len(found) == 4
    assert all(one.a is None for one in found)
    for one in found:
        expected = merged.get_parameter(f"{one.name}.weight") - plain.get_parameter(f"{one.name}.weight")
        torch.testing.assert_close(one.delta, expected.detach(), rtol=1e-4, atol=1e-5)
    shape = analyze(tmp_path / "loha", folder / "r2.d90", model=str(folder / "base"))
    assert shape.method == "peft LOHA"
    assert shape.other_method.startswith("lora:r=2")


def test_a_peft_folder_is_read(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from d90.models.loading import load

    model = load(str(folder / "base"), 2).module
    applied_method = apply(parse("lora:r=2,alpha=6"), model)
    state = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
                state["base_model.model." + name.replace(".default", "")] = parameter.detach().clone()
    applied_method.merge()
    plain = load(str(folder / "base"), 2).module
    save_file(state, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": str(folder / "base")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = changes(tmp_path)
    assert len(found) == 4
    for one in found:
        merged = model.get_parameter(f"{one.name}.weight") - plain.get_parameter(f"{one.name}.weight")
        torch.testing.assert_close(one.delta, merged.detach(), rtol=1e-4, atol=1e-5)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"alpha_pattern": {"layer.1.attention.self.query": 12}})
    )
    for one, again in zip(found, changes(tmp_path), strict=True):
        doubled = "layer.1" in one.name and one.role == "q"
        torch.testing.assert_close(again.delta, one.delta * (2 if doubled else 1))
    prompt = {"peft_type": "PROMPT_TUNING", "task_type": "SEQ_CLS", "num_virtual_tokens": 2, "token_dim": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | prompt))
    with pytest.raises(InputError, match="of type PROMPT_TUNING, which does not merge"):
        changes(tmp_path)


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="change no matrix in common"):
        analyze(folder / "r2.d90", folder / "k.d90")
    with pytest.raises(InputError, match=r"in one tune and .* likely tunes of two models"):
        analyze(folder / "r2.d90", folder / "wide.d90")
    with pytest.raises(InputError, match="changes no matrix among targets=all"):
        analyze(folder / "bias.d90")
    with pytest.raises(InputError, match="changes no matrix among targets=mlp"):
        analyze(folder / "r2.d90", targets="mlp")
    with pytest.raises(InputError, match="holds no peft adapter"):
        analyze(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        analyze(tmp_path / "none.d90")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rslora", [False, True])
def test_a_peft_folder_of_a_language_model_is_read_as_peft_merges_it(rslora: bool, tmp_path: Path) -> None:
    """Ranks and alphas by pattern, tied embeddings, an output matrix and a block's matrix that were trained whole."""
    import peft

    chat_model(tmp_path / "base")

    def fresh() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")

    config = peft.LoraConfig(
        r=2, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"], use_rslora=rslora,
        rank_pattern={"q_proj": 4, r".*\.up_proj": 1}, alpha_pattern={"layers.0.self_attn.v_proj": 12, "down_proj": 3, "q_proj": 1},
        modules_to_save=["lm_head", "gate_proj"], task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(fresh(), config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    wrapped.save_pretrained(tmp_path / "adapter")
    merged, plain = wrapped.merge_and_unload(), fresh()
    found = changes(tmp_path / "adapter", str(tmp_path / "base"))
    ranks = {one.name.rpartition(".")[2]: None if one.a is None else len(one.a) for one in found}
    assert ranks == {"q_proj": 4, "k_proj": 2, "v_proj": 2, "up_proj": 1, "down_proj": 2, "gate_proj": None}
    for one in found:
        name = f"{one.name}.weight"
        expected = (merged.get_parameter(name) - plain.get_parameter(name)).detach()
        torch.testing.assert_close(one.delta, expected, rtol=1e-4, atol=1e-5)
