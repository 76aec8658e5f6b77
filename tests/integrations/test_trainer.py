"""The Trainer and accelerate over a subspace: checkpoints of the tune alone, and a resumed run that ends bit for bit equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import d90
from d90.errors import InputError
from d90.integrations.trainer import SubspaceModel
from tests.methods.table import LABELS, bert, gpt2, loss_of, outputs_of

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def examples(model: nn.Module, count: int = 12) -> list[dict[str, Any]]:
    rows = torch.randint(1, 50, (count, 7), generator=torch.Generator().manual_seed(4))
    language = "LMHead" in type(model).__name__
    return [
        {"input_ids": row, "labels": row if language else LABELS[i % 4], "unused": "a column the model does not take"}
        for i, row in enumerate(rows)
    ]


def trainer(model: nn.Module, out: Path, steps: int = 6, **options: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=0.02,
        save_strategy="steps",
        save_steps=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **options,
    )
    inner = model.space.model if isinstance(model, SubspaceModel) else model
    return Trainer(model=model, args=arguments, train_dataset=examples(inner), eval_dataset=examples(inner, 4))


def tuned(make: Callable[[], nn.Module] = bert, **options: Any) -> SubspaceModel:
    return SubspaceModel(d90.Subspace(make(), d=20, **options))


@pytest.mark.parametrize("options", [{}, {"structure": "said"}, {"head": "outside"}], ids=["did", "said", "head"])
@pytest.mark.parametrize("make", [bert, gpt2])  # gpt2: tied weights, which safetensors refuses
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    make: Callable[[], nn.Module], options: dict[str, Any], tmp_path: Path
) -> None:
    whole = tuned(make, **options)
    trainer(whole, tmp_path).train()
    again = tuned(make, **options)
    trainer(again, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert bool(whole.space.theta.any())
    for one, other in zip(whole.space.parameters(), again.space.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(outputs_of(whole.space.model), outputs_of(again.space.model))


def test_a_checkpoint_holds_the_tune_and_not_the_model(tmp_path: Path) -> None:
    model = tuned(gpt2)
    run = trainer(model, tmp_path)
    run.train()
    saved = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert sorted(saved) == ["mark", "theta"]
    assert torch.equal(saved["theta"], model.space.theta)
    assert (tmp_path / "checkpoint-6" / "model.safetensors").stat().st_size < 280  # 88 bytes of numbers
    held = run.optimizer.state_dict()["state"]
    assert sum(t.numel() for state in held.values() for t in state.values() if t.dim()) == 2 * 20
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 20
    model.space.save(tmp_path / "task.d90")
    fresh = gpt2()
    d90.Subspace.load(tmp_path / "task.d90", fresh)
    assert torch.equal(outputs_of(fresh), outputs_of(model.space.model))


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    model = tuned()
    run = trainer(
        model,
        tmp_path,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    run.train()
    best = run.state.best_model_checkpoint
    assert best is not None
    assert torch.equal(load_file(Path(best) / "model.safetensors")["theta"], model.space.theta)
    losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert run.evaluate()["eval_loss"] == min(losses)


def test_weight_decay_leaves_theta_alone_unless_asked(tmp_path: Path) -> None:
    def decays(model: SubspaceModel) -> list[float]:
        run = trainer(model, tmp_path, weight_decay=0.1)
        run.create_optimizer()
        groups = run.optimizer.param_groups
        return [g["weight_decay"] for g in groups if any(p is model.space.theta for p in g["params"])]

    assert decays(tuned()) == [0.0]
    assert decays(SubspaceModel(d90.Subspace(bert(), d=20), decay=True)) == [0.1]
    peft_model = _adapter()
    run = trainer(peft_model, tmp_path, weight_decay=0.1)
    run.create_optimizer()
    assert [len(g["params"]) for g in run.optimizer.param_groups if g["weight_decay"]] in ([], [0])


def test_the_trainer_takes_the_adapter_of_peft_too(tmp_path: Path) -> None:
    whole, again = _adapter(), _adapter()
    trainer(whole, tmp_path).train()
    assert (tmp_path / "checkpoint-4" / "adapter_model.safetensors").stat().st_size < 256
    trainer(again, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert torch.equal(outputs_of(again), outputs_of(whole))


def test_another_subspaces_checkpoint_is_refused(tmp_path: Path) -> None:
    state = tuned().state_dict()
    for other in (tuned(seed=1), tuned(gpt2)):
        with pytest.raises(InputError, match="the state is not of this subspace"):
            other.load_state_dict(state, strict=False)
    with pytest.raises(InputError, match="keep_theta0=False"):
        SubspaceModel(d90.Subspace(bert(), d=20, keep_theta0=False))


def test_a_subspace_model_shows_the_model_it_carries() -> None:
    model = tuned()
    assert model.config is model.space.model.config
    assert model.eval().space.model.training is False
    assert model.train().space.model.training is True
    assert torch.equal(outputs_of(model), outputs_of(model.space.model))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = model.no_such_thing


@pytest.mark.parametrize("head", ["inside", "outside"])
def test_accelerate_saves_and_resumes(head: str, tmp_path: Path) -> None:
    from accelerate import Accelerator

    def steps(count: int, save: int | None = None, load: bool = False) -> list[Tensor]:
        accelerator = Accelerator(cpu=True)
        model = tuned(head=head)
        model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.02))
        model.train()
        if load:
            accelerator.load_state(str(tmp_path / "state"))
        for step in range(count):
            loss = loss_of(model)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if step == save:
                accelerator.save_state(str(tmp_path / "state"))
        return [p.detach().clone() for p in accelerator.unwrap_model(model).space.parameters()]

    torch.manual_seed(5)
    whole = steps(4, save=1)
    torch.manual_seed(99)
    assert all(torch.equal(one, other) for one, other in zip(whole, steps(2, load=True), strict=True))
    assert (tmp_path / "state" / "model.safetensors").stat().st_size < 640


def _adapter() -> nn.Module:
    from peft import get_peft_model

    model: nn.Module = get_peft_model(bert(), d90.SubspaceConfig(d=20))
    return model
