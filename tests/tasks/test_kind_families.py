"""Every kind of task with every family that the papers measured, where transformers has its Auto class: trained, opened again, merged."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.integrations.merge import merge
from d90.models.loading import load as load_model
from d90.tasks import Task
from d90.tasks import load as load_task
from d90.tasks.kinds import find_kind
from d90.training.batches import Batches
from d90.training.evaluation import predict
from d90.training.loading import open_tune
from tests.reference.families import save_family
from tests.reference.tokenizer import save_tokenizer

PAPERS = ("bert", "roberta", "bart", "electra", "albert", "xlnet", "t5", "xlm-roberta", "deberta", "gpt2")
WRITERS = ("t5", "bart", "mbart", "marian", "pegasus", "m2m_100", "umt5", "blenderbot")
VISION = ("vit", "beit", "swin", "convnext", "resnet")
KINDS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "tokens": (PAPERS, {"bart": "transformers has no head for words"}),
    "multi-label": (PAPERS, {}),
    "question-answering": (PAPERS, {}),
    "embeddings": (PAPERS, {"t5": "an encoder-decoder", "bart": "an encoder-decoder"}),
    "seq2seq": (WRITERS, {}),
    "multiple-choice": (
        PAPERS,
        dict.fromkeys(("bart", "t5"), "an encoder-decoder")
        | {"deberta": "transformers has no head for choices, nor a causal model"},
    ),
    "masked": (
        PAPERS,
        dict.fromkeys(("bart", "t5"), "an encoder-decoder")
        | dict.fromkeys(("xlnet", "gpt2"), "no masked language model"),
    ),
    "image-classification": (VISION, {}),
}
CASES = [(kind, family) for kind, (families, cannot) in KINDS.items() for family in families if family not in cannot]


def rows(kind: str) -> list[dict[str, Any]]:
    draw, found = random.Random(0), []
    for _ in range(24):
        words = draw.choices("abc", k=draw.randint(3, 6))
        text = " ".join(words)
        place = 2 * draw.randrange(len(words))
        found.append({
            "tokens": {"tokens": words, "tags": ["O" if word == "c" else f"B-{word}" for word in words]},
            "multi-label": {"text": text, "labels": sorted({*words} - {"c"})},
            "question-answering": {
                "question": "a", "context": text, "answers": {"text": [text[place]], "answer_start": [place]}
            },
            "embeddings": {"anchor": text, "positive": text[::-1]},
            "seq2seq": {"source": text, "target": words[0]},
            "multiple-choice": {"question": text, "choices": ["a", "b", "c"], "answer": words[0]},
            "masked": {"text": text},
        }.get(kind, {}))  # fmt: skip
    return found


def task_of(kind: str, folder: Path) -> Task:
    if kind == "image-classification":
        from PIL import Image

        for i in range(24):
            (folder / "ab"[i % 2]).mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (200 * (i % 2), i, 50)).save(folder / "ab"[i % 2] / f"{i}.png")
        return load_task(str(folder))
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(kind)))
    return load_task(str(folder / "t.jsonl"), kind=kind)


def save_vision(family: str, folder: Path) -> Path:
    import transformers as t

    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    }
    given = {
        "swin": {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    }.get(family, sizes)  # fmt: skip
    torch.manual_seed(0)
    config = t.CONFIG_MAPPING[family](**given)
    t.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    settings = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def add_mask(folder: Path) -> None:
    """The unknown token of the tests' tokenizer is its mask."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": "[UNK]"}))


def test_what_is_left_out_has_a_reason() -> None:
    for families, cannot in KINDS.values():
        assert set(cannot) <= set(families)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(("kind", "family"), CASES, ids=lambda value: value)
def test_a_family_serves_a_kind(kind: str, family: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    task = task_of(kind, tmp_path / "data")
    auto = "AutoModelForCausalLM" if (kind, family) == ("multiple-choice", "gpt2") else find_kind(kind).auto_class
    assert auto is not None
    vision = kind == "image-classification"
    base = save_vision(family, tmp_path / "m") if vision else save_family(family, tmp_path / "m", auto)
    if kind == "masked":
        add_mask(base)
    if auto == "AutoModelForCausalLM":
        save_tokenizer(base, marks=False)
    for method in ("full@d=50", "lora:r=2"):
        if family in ("swin", "convnext", "resnet") and method.startswith("lora"):
            continue  # convolutions, and blocks of several widths: named in the methods' own tests
        run = d90.train(str(base), task, method, epochs=1, batch_size=8, evaluations=1, lr=1e-3, precision="fp32")
        assert run.outcome.status == "finished"
        before = predict(run.model, Batches(run.model, task.validation, task.kind), "fp32")
        run.save(tmp_path / "t.d90")
        run.release()
        tuned = open_tune(tmp_path / "t.d90")
        after = predict(tuned.model, Batches(tuned.model, task.validation, task.kind), "fp32")
        torch.testing.assert_close(after, before, rtol=0, atol=2e-5)
        out = merge(tmp_path / "t.d90", tmp_path / method[:4])
        plain = load_model(str(out), task.outputs, task.kind)
        assert plain.fresh == ()
        torch.testing.assert_close(
            predict(plain, Batches(plain, task.validation, task.kind), "fp32"), before, rtol=0, atol=2e-4
        )
