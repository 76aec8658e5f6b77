"""Each row of a batch under its own tune: the outputs of every tune alone, within rounding, and never another's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import d90
from d90.errors import InputError, UnsupportedModelError
from d90.serving.bank import Bank
from tests.methods.table import VOCABULARY, bert, gpt2, llama
from tests.reference.states import hooks_of, same, values
from tests.reference.tunes import alone, put_tune


def causal() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, num_key_value_heads=1, **sizes))


MODELS: dict[str, Callable[[], nn.Module]] = {"bert": bert, "gpt2": gpt2, "llama": llama, "causal": causal}
TUNES: dict[str, dict[str, str]] = {
    "bert": {
        "a": "lora:r=2@d=40",
        "b": "lora:r=2@d=40",
        "said": "lora:r=3@d=60,structure=said,projection=onehot",
        "outside": "lora:r=2,alpha=8@d=40,head=outside",
        "wide": "lora:r=5,targets=qkvo/mlp,rslora=true",
        "bits": "bitfit",
        "bits_d": "bitfit@d=30",
        "hiwi": "hiwi:r=4",
        "hiwi_d": "hiwi:r=4@d=50",
        "both": "lora:r=2+bitfit",
        "theirs": "peft:type=lora,r=2",
        "square": "full@d=16,projection=kronecker",
        "square2": "full@d=16,projection=kronecker",
        "square_said": "full@d=20,projection=kronecker,structure=said",
        "square_out": "full@d=25,projection=kronecker,head=outside",
        "low_square": "lora:r=2@d=25,projection=kronecker",
    },
    "gpt2": {
        "a": "lora:r=2,targets=qkv@d=40",
        "b": "lora:r=2,targets=qkv@d=40",
        "wide": "lora:r=4,targets=all",
        "bits": "bitfit",
        "hiwi": "hiwi:r=3,targets=all",
        "square": "full@d=36,projection=kronecker",
    },
    "llama": {
        "a": "lora:r=2@d=40",
        "b": "lora:r=2@d=40",
        "wide": "lora:r=5,targets=qkvo/mlp",
        "outside": "lora:r=2@d=40,head=outside",
        "square": "full@d=36,projection=kronecker",
    },
    "causal": {
        "a": "lora:r=2@d=40",
        "b": "lora:r=2@d=40",
        "wide": "lora:r=5,targets=all",
        "square": "full@d=36,projection=kronecker",
    },
}
INPUTS = torch.randint(1, VOCABULARY, (40, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for kind, make in MODELS.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        for name, method in TUNES[kind].items():
            put_tune(found[kind], name, make().eval(), method, size=0.02 if method.startswith("full") else 0.3)
    return found


def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    mask = torch.ones_like(inputs)
    with torch.no_grad():
        return model(input_ids=inputs, attention_mask=mask).logits  # type: ignore[no-any-return]


def one_by_one(kind: str, folder: Path, names: Sequence[str | None], inputs: Tensor) -> Tensor:
    """Row by row, each on a fresh model that carries its tune alone."""
    rows: list[Tensor | None] = [None] * len(names)
    for name in dict.fromkeys(names):
        model = MODELS[kind]().eval()
        if name is not None:
            alone(folder, name, model, TUNES[kind][name])
        places = [i for i, other in enumerate(names) if other == name]
        for place, row in zip(places, logits(model, inputs[places]), strict=True):
            rows[place] = row
    return torch.stack(rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("order", ["each", "uneven", "without base", "one"])
def test_each_row_is_its_tune_alone(folders: dict[str, Path], kind: str, order: str) -> None:
    tunes = list(TUNES[kind])
    names: list[str | None] = {
        "each": [None, *tunes],
        "uneven": [tunes[0], None, tunes[1], tunes[0], tunes[-1], None, tunes[0], tunes[1], tunes[2]],
        "without base": [*tunes, *reversed(tunes)],
        "one": [tunes[2]] * 3,
    }[order]
    model = MODELS[kind]().eval()
    before, plain = values(model), logits(model, INPUTS)
    bank = Bank(model, folders[kind])
    inputs = INPUTS[: len(names)]
    expected = one_by_one(kind, folders[kind], names, inputs)
    with bank.batch(names) as batched:
        assert batched is model
        found = logits(model, inputs)
        assert torch.equal(found, logits(model, inputs))
    assert (found - expected).abs().max() < 1e-5
    differs = [name is not None for name in names]
    assert [bool((a - b).abs().max() > 1e-3) for a, b in zip(found, plain, strict=False)] == differs
    assert same(values(model), before)
    assert not hooks_of(model)
    assert torch.equal(logits(model, INPUTS), plain), "and the base is as it was"


@pytest.mark.parametrize("kind", ["gpt2", "causal"])
def test_greedy_generation_is_each_tune_alone(folders: dict[str, Path], kind: str) -> None:
    def written(model: Any, inputs: Tensor) -> Tensor:
        made: Tensor = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=6, min_new_tokens=6, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        return made

    names = ["a", None, "wide", "b", "square"]
    model = MODELS[kind]().eval()
    with Bank(model, folders[kind]).batch(names):
        found = written(model, INPUTS[:5])
    for row, name, prompt in zip(found, names, INPUTS, strict=False):
        single = MODELS[kind]().eval()
        if name is not None:
            alone(folders[kind], name, single, TUNES[kind][name])
        assert torch.equal(row, written(single, prompt[None])[0]), name
    assert len({tuple(row[7:].tolist()) for row in found}) > 1, "the tunes write differently"


def test_beams_are_rows(folders: dict[str, Path]) -> None:
    model: Any = gpt2().eval()
    options = {"num_beams": 2, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    bank = Bank(model, folders["gpt2"])
    prompts = INPUTS[:2]
    with (
        bank.batch(["a", "b"]),
        pytest.raises(InputError, match=r"batch of 4 rows for 2 names.*repeat a prompt's name"),
    ):
        model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
    with bank.batch(["a", "a", "b", "b"]):
        found = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
    for row, name, prompt in zip(found, "ab", prompts, strict=True):
        single: Any = gpt2().eval()
        alone(folders["gpt2"], name, single, TUNES["gpt2"][name])
        assert torch.equal(row, single.generate(prompt[None], attention_mask=torch.ones(1, 7), **options)[0])


def test_eight_threads_never_see_anothers_tune(folders: dict[str, Path]) -> None:
    """Each with batches of its own, through one model and one bank, whose cache holds a few tunes alone; some run the base."""
    kind, folder = "bert", folders["bert"]
    tunes: list[str | None] = [None, *TUNES[kind]]
    expected = {name: one_by_one(kind, folder, [name] * 6, INPUTS[:6]) for name in tunes}
    model = MODELS[kind]().eval()
    bank = Bank(model, folder, memory_limit=60_000)
    wrong: list[object] = []
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        start.wait()
        try:
            for turn in range(12):
                picks = torch.randint(len(tunes), (6,), generator=generator).tolist()
                names = [tunes[i] for i in picks] if (seed + turn) % 4 else [None] * 6
                if (seed + turn) % 4:
                    with bank.batch(names):
                        found = logits(model, INPUTS[:6])
                else:
                    found = logits(model, INPUTS[:6])
                right = torch.stack([expected[name][i] for i, name in enumerate(names)])
                if (found - right).abs().max() > 1e-5:
                    wrong.append((seed, turn, names))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 < bank.ready_bytes <= 60_000
    bank.release()  # refused while a batch is open


def test_what_cannot_be_batched_is_refused_by_name_and_the_rest_serve_on(tmp_path: Path) -> None:
    def other() -> nn.Module:
        model = bert()
        with torch.no_grad():
            model.get_parameter("bert.pooler.dense.bias").add_(0.1)
        return model

    def five() -> nn.Module:
        from transformers import BertForSequenceClassification

        config = bert().config
        config.num_labels = 5
        return BertForSequenceClassification(config)

    put_tune(tmp_path, "good", bert(), "lora:r=2@d=40")
    put_tune(tmp_path, "full", bert(), "full@d=40", size=0.01)
    put_tune(tmp_path, "weights", bert(), "hiwi:on=weight,r=2", size=0.01)
    put_tune(tmp_path, "adapter", bert(), "adapter:r=3")
    put_tune(tmp_path, "prefix", bert(), "preembed:prefix=2")
    put_tune(tmp_path, "dora", bert(), "peft:type=lora,r=2,use_dora=true")
    put_tune(tmp_path, "stranger", other(), "lora:r=2@d=40")
    put_tune(tmp_path, "five", five(), "lora:r=2@d=40,head=outside")
    put_tune(tmp_path, "bare", bert(), "lora:r=2@d=40")
    (tmp_path / "bare.json").unlink()
    raw = (tmp_path / "good.d90").read_bytes()
    (tmp_path / "short.d90").write_bytes(raw[:-1])
    put_tune(tmp_path, "swapped", bert(), "lora:r=2@d=50")
    (tmp_path / "swapped.json").write_bytes((tmp_path / "good.json").read_bytes())
    model = bert().eval()
    bank = Bank(model, tmp_path)
    before, plain = values(model), logits(model, INPUTS[:2])
    with bank.batch(["good", None]):
        good = logits(model, INPUTS[:2])
    wrong: dict[str, str] = {
        "full": r"full.d90' moves 'bert.embeddings.word_embeddings.weight'.*bank.use\(\), or train lora",
        "weights": "moves 'bert.encoder.layer.0.intermediate.dense.weight'",
        "adapter": "adapter.d90' moves",
        "prefix": "prefix.d90' moves",
        "dora": "dora.d90' moves",
        "stranger": "stranger.d90': the tune was trained on another base model",
        "five": r"its 'classifier.bias' has shape \(5,\), this model's has \(3,\); expected one size",
        "bare": "no record 'bare.json' lies beside it.*method=",
        "short": "short.d90' is not a sound d90 file",
        "swapped": "copy the right one",
        "nobody": r"unknown tune 'nobody': expected one of adapter, bare, .*refresh\(\)",
    }
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message), bank.batch(["good", name]):
            pass
        assert same(values(model), before)
        assert torch.equal(logits(model, INPUTS[:2]), plain), name
        with bank.batch(["good", None]):
            assert torch.equal(logits(model, INPUTS[:2]), good), name
    for names in ([], "good"):
        with pytest.raises(InputError, match="expected a list with one name a row"), bank.batch(names):
            pass


def test_a_batch_opened_in_inference_mode_serves_outside_of_it(folders: dict[str, Path]) -> None:
    model = bert().eval()
    bank = Bank(model, folders["bert"])
    with torch.inference_mode(), bank.batch(["a", None]):
        inside = logits(model, INPUTS[:2])
    with bank.batch(["a", None]):
        assert torch.equal(logits(model, INPUTS[:2]), inside)


def test_a_further_tune_of_a_kind_walks_no_modules(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its tensors stand is found with the first of its kind: a cold tune costs its own numbers."""
    bank = Bank(bert().eval(), folders["bert"])
    with bank.batch(["a", "hiwi", "wide"]):
        pass
    seen: list[nn.Module] = []
    named_modules = nn.Module.named_modules

    def noted(self: nn.Module, *args: Any, **options: Any) -> Any:
        for name, module in named_modules(self, *args, **options):
            seen.append(module)
            yield name, module

    monkeypatch.setattr(nn.Module, "named_modules", noted)
    with bank.batch(["b"]):
        pass
    monkeypatch.undo()
    assert len(seen) < len(list(bank.model.modules())), "less than one walk"


def test_rows_and_names_must_agree(folders: dict[str, Path]) -> None:
    model = bert().eval()
    bank = Bank(model, folders["bert"])
    with bank.batch(["a", None]):
        for rows in (3, 1):
            with pytest.raises(InputError, match=f"batch of {rows} rows for 2 names; expected one name a row"):
                logits(model, INPUTS[:rows])
        assert logits(model, INPUTS[:2]).shape == (2, 3), "and the batch goes on"
    with pytest.raises(InputError, match=r"a.d90' takes [\d,]+ bytes when it is ready, above memory_limit=100"):
        Bank(model, folders["bert"], memory_limit=100).batch(["a"]).__enter__()
    with pytest.raises(InputError, match="memory_limit=0"):
        Bank(model, folders["bert"], memory_limit=0)


def test_use_and_batch_do_not_mix(folders: dict[str, Path], tmp_path: Path) -> None:
    put_tune(tmp_path, "full", bert(), "full@d=40", size=0.01)
    put_tune(tmp_path, "a", bert(), "lora:r=2@d=40")
    model = bert().eval()
    bank = Bank(model, tmp_path)
    with bank.batch(["a"]):
        for act in (lambda: bank.use("full"), bank.release):
            with pytest.raises(InputError, match="while a batch is open"):
                act()
    bank.use("full")
    with pytest.raises(InputError, match=r"the model holds the tune 'full'.*release\(\)"), bank.batch(["a"]):
        pass
    bank.release()
    space = d90.Subspace(model, 12)
    with pytest.raises(InputError, match="enabled Subspace"), bank.batch(["a"]):
        pass
    space.release()
    with pytest.raises(UnsupportedModelError, match="compiled"):
        Bank(torch.compile(model), tmp_path).batch(["a"]).__enter__()  # type: ignore[arg-type]


def test_a_replaced_tune_is_a_new_id_that_refresh_finds(tmp_path: Path) -> None:
    put_tune(tmp_path, "a", bert(), "lora:r=2@d=40")
    put_tune(tmp_path, "b", bert(), "lora:r=2@d=40")
    model = bert().eval()
    bank = Bank(model, tmp_path)
    ids = bank.ids()
    assert len(set(ids.values())) == 2
    assert bank.refresh() == []
    with bank.batch(["a", "b"]):
        first = logits(model, INPUTS[:2])
    put_tune(tmp_path, "a", bert(), "lora:r=3@d=50")
    (tmp_path / "b.d90").unlink()
    put_tune(tmp_path, "c", bert(), "bitfit")
    with bank.batch(["a", "b"]):
        assert torch.equal(logits(model, INPUTS[:2]), first), "as it was read, until refresh()"
        assert bank.refresh() == ["a", "b", "c"]
        assert torch.equal(logits(model, INPUTS[:2]), first), "an open batch keeps its tunes"
    assert bank.ids().keys() == {"a", "c"}
    assert bank.ids()["a"] != ids["a"]
    with bank.batch(["a", None]):
        again = logits(model, INPUTS[:2])
    single = bert().eval()
    alone(tmp_path, "a", single, "lora:r=3@d=50")
    assert (again[0] - logits(single, INPUTS[:1])[0]).abs().max() < 1e-5
    with pytest.raises(InputError, match="unknown tune 'b'"), bank.batch(["b"]):
        pass


def test_a_tune_replaced_before_it_was_ever_used_says_refresh(tmp_path: Path) -> None:
    put_tune(tmp_path, "a", bert(), "lora:r=2@d=40")
    bank = Bank(bert().eval(), tmp_path)
    put_tune(tmp_path, "a", bert(), "lora:r=3@d=50")
    with pytest.raises(InputError, match=r"a.d90' was replaced since.*bank.refresh\(\)"), bank.batch(["a"]):
        pass


def test_a_tune_without_a_record_takes_the_banks_method(tmp_path: Path) -> None:
    put_tune(tmp_path, "a", bert(), "lora:r=2@d=40", seed=3)
    (tmp_path / "a.json").unlink()
    model = bert().eval()
    with Bank(model, tmp_path, method="lora:r=2", seed=3).batch(["a", None]):
        found = logits(model, INPUTS[:2])
    single = bert().eval()
    alone(tmp_path, "a", single, "lora:r=2@d=40", 3)
    assert (found[0] - logits(single, INPUTS[:1])[0]).abs().max() < 1e-5
    with pytest.raises(InputError, match="another base model"), Bank(model, tmp_path, method="lora:r=2").batch(["a"]):
        pass  # another seed draws other factors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types(tmp_path: Path, dtype: torch.dtype) -> None:
    def make() -> nn.Module:
        return bert().to(dtype).eval()

    put_tune(tmp_path, "a", make(), "lora:r=2@d=40")
    model = make()
    with Bank(model, tmp_path).batch([None, "a"]):
        found = logits(model, INPUTS[:2])
    single = make()
    alone(tmp_path, "a", single, "lora:r=2@d=40")
    right = logits(single, INPUTS[1:2])[0]
    assert found.dtype == dtype
    assert (found[1] - right).abs().max() <= (1e-5 if dtype == torch.float64 else 0.02 * right.abs().max())
