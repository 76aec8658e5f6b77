"""Mixed batches over the families of transformers: each row its tune alone, or a refusal; never another's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from d90.errors import InputError, UnsupportedModelError
from d90.serving.bank import Bank
from tests.reference.families import save_family
from tests.reference.tunes import alone, put_tune


def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits  # type: ignore[no-any-return]


FAMILIES = (
    "albert", "deberta-v2", "distilbert", "electra", "gemma2", "gpt_neox", "modernbert", "mpnet", "opt", "phi3", "qwen2", "roberta", "t5",
)  # fmt: skip
REFUSED: dict[str, str] = {"opt": r"fc1' was called with inputs of shape \(18, "}  # rows and tokens in one dimension


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    """Equal to each tune alone, or refused: never another's."""
    from transformers import AutoModelForSequenceClassification

    folder = save_family(family, tmp_path / "base")

    def make() -> nn.Module:
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()  # type: ignore[no-any-return]

    tunes = {"a": "lora:r=2@d=40", "wide": "lora:r=3,targets=all"}
    for name, method in tunes.items():
        put_tune(tmp_path, name, make(), method)
    inputs = torch.tensor([[2, 4, 5, 6, 4, 3], [2, 6, 6, 5, 4, 3], [2, 5, 4, 4, 5, 3]])
    model = make()
    if family in REFUSED:
        with (
            pytest.raises((InputError, UnsupportedModelError), match=REFUSED[family]),
            Bank(model, tmp_path).batch(["wide", None, "a"]),
        ):
            logits(model, inputs)
        return
    with Bank(model, tmp_path).batch(["wide", None, "a"]):
        found = logits(model, inputs)
    for i, name in enumerate(["wide", None, "a"]):
        single = make()
        if name is not None:
            alone(tmp_path, name, single, tunes[name])
        right = logits(single, inputs[i : i + 1])[0]
        assert ((found[i] - right).abs() / right.abs().clamp_min(1)).max() < 1e-5, name


def test_a_longformer_of_as_many_rows_as_tokens_is_refused(tmp_path: Path) -> None:
    """Its attention sees tokens first: with as many rows as tokens no shape would tell."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(save_family("longformer", tmp_path / "base")).eval()
    put_tune(tmp_path, "a", model, "lora:r=2@d=40")
    with (
        pytest.raises(UnsupportedModelError, match="a longformer model has tokens along the first dimension"),
        Bank(model, tmp_path).batch(["a"]),
    ):
        pass
