"""Tunes of several bases: each bank serves those of its own, refuses the others by name, and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.serving.bank import Bank
from tests.methods.table import VOCABULARY
from tests.reference.states import hooks_of, same, values
from tests.reference.tunes import alone, put_tune

METHODS = {"a": "lora:r=2@d=40", "b": "lora:r=3,targets=all", "square": "full@d=36,projection=kronecker"}
PROMPTS = torch.randint(1, VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(2))


def decoder(seed: int = 0, vocabulary: int = VOCABULARY) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, pad_token_id=0, num_key_value_heads=1, **sizes)).eval()


def written(model: Any, prompts: Tensor) -> Tensor:
    made: Tensor = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=5, min_new_tokens=5, do_sample=False
    )
    return made


def expected(folder: Path, seed: int, names: list[str | None]) -> Tensor:
    rows = []
    for name, prompt in zip(names, PROMPTS, strict=False):
        model = decoder(seed)
        if name is not None:
            alone(folder, name, model, METHODS[name])
        rows.append(written(model, prompt[None])[0])
    return torch.stack(rows)


def test_generation_with_a_tune_of_another_vocabulary_is_refused_and_the_bank_goes_on(tmp_path: Path) -> None:
    """Its output matrix has more rows than this base's: no batch may hold both."""
    for name in ("a", "square"):
        put_tune(tmp_path, name, decoder(), METHODS[name], size=0.02)
    for name in ("low", "wide"):
        method = {"low": METHODS["a"], "wide": METHODS["square"]}[name]
        put_tune(tmp_path, name, decoder(vocabulary=VOCABULARY + 8), method, size=0.02)
    model = decoder()
    bank = Bank(model, tmp_path)
    before, names = values(model), ["a", None, "square"]
    right = expected(tmp_path, 0, names)
    for wrong in ("low", "wide"):
        refusal = rf"{wrong}\.d90': the tune was trained on another base model"
        with pytest.raises(InputError, match=refusal), bank.batch(["a", wrong]):
            written(model, PROMPTS[:2])
        assert same(values(model), before)
        assert not hooks_of(model)
        with bank.batch(names):
            assert torch.equal(written(model, PROMPTS), right)


def test_two_banks_of_two_bases_serve_side_by_side(tmp_path: Path) -> None:
    """Batches of both are open at once; a tune of the other base is refused by name, and the rest serve on."""
    folders, banks = [tmp_path / "first", tmp_path / "second"], []
    for seed, folder in enumerate(folders):
        folder.mkdir()
        for name, method in METHODS.items():
            put_tune(folder, name, decoder(seed), method, size=0.02 if name == "square" else 0.3)
    for kind in ("d90", "json"):
        (folders[0] / f"stranger.{kind}").write_bytes((folders[1] / f"a.{kind}").read_bytes())
    for seed, folder in enumerate(folders):
        banks.append(Bank(decoder(seed), folder))
    names: list[str | None] = ["square", "a", None]
    right = [expected(folder, seed, names) for seed, folder in enumerate(folders)]
    with banks[0].batch(names), banks[1].batch(names):
        found = [written(bank.model, PROMPTS) for bank in banks]
        refusal = r"stranger\.d90': the tune was trained on another base model"
        with pytest.raises(InputError, match=refusal), banks[0].batch(["a", "stranger"]):
            pass
        again = [written(bank.model, PROMPTS) for bank in banks]
    assert all(torch.equal(one, other) for one, other in zip(found, right, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(again, right, strict=True))
    assert not torch.equal(*right)
