"""A subspace as a method of peft: bit for bit what `d90.Subspace` trains, through everything peft does with adapters."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

import d90
from d90.errors import InputError, UnsupportedModelError
from d90.integrations.peft import from_tune, to_tune
from tests.methods.table import INPUTS, bert, checkpoint_layers, gpt2, llama, outputs_of, plain
from tests.methods.table import loss_of as loss_of_plain
from tests.reference.states import hooks_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning"
)  # peft asks transformers so
SAID: dict[str, Any] = {"structure": "said", "projection": "onehot", "scale": "relative", "seed": 7}


def loss_of(model: nn.Module) -> Tensor:
    """Of the model inside: the table tells tasks apart by its name."""
    return loss_of_plain(model.get_base_model() if isinstance(model, PeftModel) else model)


def trained(model: nn.Module, parameters: list[nn.Parameter], steps: int = 4) -> list[float]:
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    torch.manual_seed(1)
    losses = []
    model.train()
    for _ in range(steps):
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def adapted(make: Callable[[], nn.Module] = bert, steps: int = 4, **options: Any) -> Any:
    model = get_peft_model(make(), d90.SubspaceConfig(d=20, **options))
    trained(model, [p for p in model.parameters() if p.requires_grad], steps)
    return model


def theta(model: Any, adapter: str = "default") -> Tensor:
    return model.base_model.d90_bias[adapter].detach()


@pytest.mark.parametrize("options", [{}, SAID], ids=["did", "said"])
@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_peft_trains_what_a_subspace_trains(make: Callable[[], nn.Module], options: dict[str, Any]) -> None:
    model, plain_model = get_peft_model(make(), d90.SubspaceConfig(d=20, **options)), make()
    space = d90.Subspace(plain_model, d=20, **options)
    ours = trained(model, [p for p in model.parameters() if p.requires_grad])
    assert ours == trained(plain_model, list(space.parameters()))
    assert torch.equal(theta(model), space.theta)
    assert torch.equal(outputs_of(model), outputs_of(plain_model))
    assert ours[-1] != ours[0]
    assert bool(theta(model).any())


@pytest.mark.parametrize("make", [bert, gpt2])
def test_checkpointed_layers_give_the_same_gradient(make: Callable[[], nn.Module]) -> None:
    one, other = (get_peft_model(make(), d90.SubspaceConfig(d=20)) for _ in range(2))
    checkpoint_layers(other.base_model.model)
    for model in (one, other):
        model.train()
        torch.manual_seed(2)
        loss_of(model).backward()
    gradients = [model.base_model.d90_bias["default"].grad for model in (one, other)]
    assert torch.allclose(*gradients, rtol=1e-5)
    assert bool(gradients[0].any())


def test_the_base_looks_frozen_and_theta_is_all_that_trains(capsys: pytest.CaptureFixture[str]) -> None:
    model = get_peft_model(bert(), d90.SubspaceConfig(d=20))
    before = dict(model.base_model.model.named_parameters())
    model.print_trainable_parameters()
    assert "trainable params: 20 ||" in capsys.readouterr().out
    loss_of(model).backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["base_model.d90_bias.default"]
    after = dict(model.base_model.model.named_parameters())
    assert all(after[name] is p and not p.requires_grad for name, p in before.items())


def test_a_folder_holds_theta_and_reloads_bit_for_bit(tmp_path: Path) -> None:
    model = adapted(gpt2, structure="said")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 256  # 80 bytes of numbers
    again = PeftModel.from_pretrained(gpt2(), tmp_path)
    assert torch.equal(outputs_of(again), outputs_of(model))
    assert not any(p.requires_grad for p in again.parameters()), "from_pretrained is for inference"
    assert not again(input_ids=INPUTS).logits.requires_grad
    on = PeftModel.from_pretrained(gpt2(), tmp_path, is_trainable=True)
    trained(on, [p for p in on.parameters() if p.requires_grad], 1)
    assert not torch.equal(theta(on), theta(model))


def test_a_folder_loads_without_memory_for_fresh_weights(tmp_path: Path) -> None:
    model = adapted()
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(bert(), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(outputs_of(again), outputs_of(model))


def test_several_adapters_switch_and_leave(tmp_path: Path) -> None:
    base = outputs_of(bert())
    first, second = adapted(steps=3), adapted(steps=5, **SAID)
    for name, model in (("first", first), ("second", second)):
        model.save_pretrained(tmp_path / name)
    both = PeftModel.from_pretrained(bert(), tmp_path / "first", adapter_name="first")
    both.load_adapter(tmp_path / "second", adapter_name="second")
    assert torch.equal(outputs_of(both), outputs_of(first)), "loading a second one does not activate it"
    for name, model in (("second", second), ("first", first), ("second", second)):
        both.set_adapter(name)
        assert both.active_adapters == [name]
        assert torch.equal(outputs_of(both), outputs_of(model))
        assert [n for n, p in both.named_parameters() if p.requires_grad] == [f"base_model.d90_bias.{name}"]
    with both.disable_adapter():
        assert torch.equal(outputs_of(both), base)
    assert torch.equal(outputs_of(both), outputs_of(second))
    with pytest.raises(InputError, match="expected one at a time"):
        both.base_model.set_adapter(["first", "second"])
    both.save_pretrained(tmp_path / "both", selected_adapters=["first"])
    assert (tmp_path / "both" / "first" / "adapter_model.safetensors").exists()
    with pytest.warns(UserWarning, match="Setting active adapter to first"):
        both.delete_adapter("second")
    assert torch.equal(outputs_of(both), outputs_of(first))
    assert list(both.peft_config) == ["first"]


@pytest.mark.parametrize("make", [bert, gpt2])
def test_merge_and_unload_leaves_a_plain_model(make: Callable[[], nn.Module]) -> None:
    model = adapted(make)
    expected, names = outputs_of(model), list(make().state_dict())
    merged = model.merge_and_unload()
    assert type(merged) is type(make())
    assert list(merged.state_dict()) == names
    assert torch.equal(outputs_of(merged), expected)
    assert not hooks_of(merged)
    assert not any(getattr(p, "_d90_space", None) for p in merged.parameters())
    assert torch.equal(outputs_of(adapted(make).unload()), outputs_of(make()))


def test_merge_adapter_and_back() -> None:
    model = adapted()
    expected = outputs_of(model)
    model.merge_adapter()
    assert torch.equal(outputs_of(model), expected)
    assert model.get_model_status().merged_adapters == ["default"]
    model.unmerge_adapter()
    assert trained(model, [p for p in model.parameters() if p.requires_grad], 1)
    assert not torch.equal(outputs_of(model), expected)


def test_modules_to_save_are_trained_and_stored_whole(tmp_path: Path) -> None:
    model = adapted(modules_to_save=["classifier"])
    plain_model = bert()
    space = d90.Subspace(plain_model, d=20, head="outside")
    trained(plain_model, list(space.parameters()))
    assert torch.allclose(outputs_of(model), outputs_of(plain_model), atol=1e-6)
    model.save_pretrained(tmp_path)
    fresh = bert()
    fresh.classifier.weight.data.normal_()  # another new head: the trained one is in the folder
    again = PeftModel.from_pretrained(fresh, tmp_path)
    assert torch.equal(outputs_of(again), outputs_of(model))
    assert torch.equal(outputs_of(again.merge_and_unload()), outputs_of(model))
    with pytest.raises(InputError, match="expected the same for all"):
        model.add_adapter("other", d90.SubspaceConfig(d=20))


def test_a_task_type_keeps_the_head_outside() -> None:
    model = get_peft_model(bert(), d90.SubspaceConfig(d=20, task_type="SEQ_CLS"))
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trainable) == 3
    assert sum("modules_to_save.default" in name for name in trainable) == 2
    assert trained(model, [p for p in model.parameters() if p.requires_grad])


def test_frozen_parts_stay_and_are_recorded(tmp_path: Path) -> None:
    partly = bert()
    partly.bert.embeddings.requires_grad_(False)
    model = get_peft_model(partly, d90.SubspaceConfig(d=20))
    trained(model, [p for p in model.parameters() if p.requires_grad])
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(bert(), tmp_path)  # where nothing was frozen
    assert torch.equal(outputs_of(again), outputs_of(model))
    merged = again.merge_and_unload()
    assert torch.equal(merged.bert.embeddings.word_embeddings.weight, bert().bert.embeddings.word_embeddings.weight)
    biases = get_peft_model(bert(), d90.SubspaceConfig(d=20, parameters=r".*\.bias"))
    assert 20 < biases.base_model.space("default").D < 1000


@pytest.mark.parametrize("options", [{}, SAID, {"modules_to_save": ["classifier"]}], ids=["did", "said", "head"])
def test_a_tune_goes_over_and_back(options: dict[str, Any], tmp_path: Path) -> None:
    head = "outside" if "modules_to_save" in options else "inside"
    own = {key: value for key, value in options.items() if key != "modules_to_save"}
    plain_model = bert()
    space = d90.Subspace(plain_model, d=20, head=head, **own)
    trained(plain_model, list(space.parameters()))
    space.save(tmp_path / "task.d90")
    model = from_tune(tmp_path / "task.d90", bert())
    assert torch.equal(outputs_of(model), outputs_of(plain_model))
    model.save_pretrained(tmp_path / "folder")
    again = PeftModel.from_pretrained(bert(), tmp_path / "folder")
    to_tune(again, tmp_path / "back.d90")
    assert (tmp_path / "back.d90").read_bytes() == (tmp_path / "task.d90").read_bytes()
    fresh = bert()
    d90.Subspace.load(tmp_path / "back.d90", fresh)
    assert torch.equal(outputs_of(fresh), outputs_of(plain_model))


def test_another_base_or_another_p_is_refused(tmp_path: Path) -> None:
    adapted().save_pretrained(tmp_path)
    other = bert()
    other.bert.pooler.dense.weight.data.add_(1)
    with pytest.raises(InputError, match="was trained on another base model"):
        PeftModel.from_pretrained(other, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "seed": 5}))
    with pytest.raises(InputError, match="P is another one here"):
        PeftModel.from_pretrained(bert(), tmp_path)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"'body.1.num_batches_tracked|running_mean' is a buffer that training moves"
    ):
        get_peft_model(plain(), d90.SubspaceConfig(d=20))
    with pytest.raises(InputError, match=r"none called 'nothing.weight'"):
        get_peft_model(bert(), d90.SubspaceConfig(d=20, parameters=["nothing.weight"]))
    with pytest.raises(InputError, match="moves nothing"):
        get_peft_model(bert(), d90.SubspaceConfig(d=20, parameters="nothing"))
    with pytest.raises(InputError, match="got no adapter 'other'"):
        to_tune(adapted(steps=1), tmp_path / "task.d90", "other")
    with pytest.raises(InputError, match="expected the model's head or nothing"):
        to_tune(adapted(steps=1, modules_to_save=["pooler"]), tmp_path / "task.d90")


def test_an_adapter_that_is_refused_leaves_the_active_one() -> None:
    model = adapted()
    expected = outputs_of(model)
    with pytest.raises(InputError, match="another base model"):
        model.add_adapter("second", d90.SubspaceConfig(d=20, base="0" * 16))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(outputs_of(model), expected)
    loss_of(model).backward()
    assert bool(model.base_model.d90_bias["default"].grad.any())


def test_a_deep_copy_is_a_snapshot() -> None:
    model = adapted()
    expected = outputs_of(model)  # a forward pass writes the weights of the last step
    snapshot = copy.deepcopy(model)
    trained(model, [p for p in model.parameters() if p.requires_grad], 1)
    assert torch.equal(outputs_of(snapshot), expected)
    assert not torch.equal(outputs_of(model), expected)


def test_a_language_model_generates() -> None:
    model = adapted(gpt2, task_type="CAUSAL_LM")
    model.eval()
    words = model.generate(input_ids=INPUTS[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(
        words, model.merge_and_unload().generate(INPUTS[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    )
