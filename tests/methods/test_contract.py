"""The contract of every method, over the table: start, training, files, merge, and a model that is given back untouched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.methods import METHODS, Applied, AppliedMethod, Direct, apply, counts, load, parse, restore, snapshot
from d90.subspace import file as tune_file
from d90.subspace.options import STRUCTURES
from d90.subspace.subspace import Subspace
from tests.methods.table import APPLY, MODELS, ROWS, SPACES, Row, bert, context, loss_of, outputs_of, plain
from tests.reference.states import hooks_of

ids = [f"{row.method}-{row.model}" for row in ROWS]
applying = pytest.mark.parametrize("row", APPLY, ids=lambda row: f"{row.method}-{row.model}")


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def shape_of(model: nn.Module) -> Iterator[Any]:
    """Everything that is not a value: modules, classes, attributes, hooks, which object is which parameter, flags."""
    for name, module in model.named_modules():
        own = {key for key in vars(module) if key not in ("training",)}
        hooks = [len(value) for key, value in vars(module).items() if "hooks" in key]
        yield (
            name,
            type(module),
            own,
            hooks,
            [(key, id(p)) for key, p in module.named_parameters(recurse=False, remove_duplicate=False)],
        )
    for name, parameter in model.named_parameters():
        yield name, parameter.requires_grad, parameter.grad is None
    yield hooks_of(model)


def train(applied_method: AppliedMethod, steps: int = 12) -> list[float]:
    optimizer = torch.optim.Adam(list(applied_method.trained.parameters()), lr=0.01)
    losses = []
    applied_method.model.eval()  # no dropout; BatchNorm's statistics move in the test that is about them
    for _ in range(steps):
        loss = loss_of(applied_method.model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    applied_method.trained.flush()
    return losses


def test_the_table_has_every_method_on_every_model() -> None:
    seen = {(row.method.partition(":")[0], row.model) for row in ROWS}
    missing = {(method, model) for method in METHODS for model in MODELS} - seen
    assert not missing


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_apply_chooses_and_remove_gives_back(row: Row) -> None:
    module = MODELS[row.model]()
    frozen = next(name for name, _ in reversed(list(module.named_parameters())) if "weight" in name)
    kept = module.get_parameter(frozen).requires_grad_(False)  # what the user froze stays frozen
    before, weights, outputs = list(shape_of(module)), values(module), outputs_of(module)
    method = parse(row.method).method
    if row.error:
        with pytest.raises(InputError, match=row.error):
            method.apply(module, context(module))
        assert list(shape_of(module)) == before
        return
    applied = method.apply(module, context(module))
    assert not kept.requires_grad
    moving = {name for name, p in module.named_parameters() if p.requires_grad}
    if row.moves is not None:
        assert moving == {n for n, p in module.named_parameters() if row.moves(n) and p is not kept}
    assert method.starts_at_base == torch.equal(outputs_of(module), outputs)
    assert applied.remove() is module
    assert list(shape_of(module)) == before
    assert list(module.state_dict()) == list(weights)
    assert all(torch.equal(weights[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_what_the_user_froze_stays_frozen(name: str) -> None:
    module = bert().requires_grad_(False)
    before = list(shape_of(module))
    method = parse(name).method
    if name in ("full", "top", "bitfit", "sparse", "pafi"):  # the others move what they put in
        with pytest.raises(InputError, match=r"frozen.*[Uu]nfreeze"):
            method.apply(module, context(module))
    else:
        applied = method.apply(module, context(module))
        assert not any(p.requires_grad for p, _ in applied.flags.values())
        applied.remove()
    assert list(shape_of(module)) == before


@pytest.mark.parametrize("space", SPACES)
@applying
def test_a_method_from_start_to_release(row: Row, space: str, tmp_path: Path) -> None:
    module, spec = MODELS[row.model](), parse(row.method + space)
    untouched, outputs, before = values(module), outputs_of(module), list(shape_of(module))
    applied_method = apply(spec, module, 3, context(module))
    method = spec.method
    start = outputs_of(module)
    assert torch.equal(start, outputs) == method.starts_at_base
    numbers = counts(spec, applied_method.applied)
    moving = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert numbers.moved == sum(p.numel() for p in moving.values())
    assert numbers.trained == sum(p.numel() for p in applied_method.trained.parameters())

    begin = {name: p.detach().clone() for name, p in module.named_parameters()}
    losses = train(applied_method)
    assert losses[-1] < losses[0]
    tuned = outputs_of(module)
    assert not torch.equal(tuned, start)
    now = dict(module.named_parameters())
    assert all(torch.equal(begin[name], p) for name, p in now.items() if name not in moving)
    assert sum(not torch.equal(begin[name], now[name]) for name in moving) > 0.9 * len(moving)

    applied_method.save(tmp_path / "t.d90", "r")
    header, tensors = tune_file.read(tmp_path / "t.d90")
    mask = [name for name in tensors if name.endswith(".indices")]  # what a mask found with data costs besides
    counted = [name for name in tensors if not name.startswith("buffer:")] + mask
    assert sum(tensors[name].numel() for name in counted) == numbers.stored
    assert header.structure in (("direct",) if not space else STRUCTURES)
    if isinstance(applied_method.trained, Subspace):
        assert next(iter(applied_method.trained.parameters())).numel() == 18

    fresh = MODELS[row.model]()
    fresh_before = list(shape_of(fresh))
    again = load(spec, tmp_path / "t.d90", fresh, 3)
    assert torch.equal(outputs_of(fresh), tuned)
    again.release()
    assert list(shape_of(fresh)) == fresh_before
    assert all(torch.equal(untouched[name], tensor) for name, tensor in fresh.state_dict().items())

    assert applied_method.release() is module
    assert list(shape_of(module)) == before
    assert list(module.state_dict()) == list(untouched)
    assert all(torch.equal(untouched[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("space", SPACES[:2])
@applying
def test_a_merge_leaves_a_plain_model_with_the_same_outputs(row: Row, space: str) -> None:
    module, spec = MODELS[row.model](), parse(row.method + space)
    untouched = values(module)
    before = [line[:2] for line in shape_of(module)]
    applied_method = apply(spec, module, 3, context(module))
    train(applied_method, 4)
    tuned = outputs_of(module)
    if not spec.method.merges:
        with pytest.raises(InputError, match=r"cannot be merged: it adds .*Keep the tune beside the model"):
            applied_method.merge()
        assert torch.equal(outputs_of(module), tuned)
        return
    assert applied_method.merge() is module
    torch.testing.assert_close(outputs_of(module), tuned, rtol=1e-5, atol=1e-5)
    assert [line[:2] for line in shape_of(module)] == before
    changed = [name for name, tensor in module.state_dict().items() if not torch.equal(untouched[name], tensor)]
    assert changed
    assert counts(spec, applied_method.applied).added == 0


def test_direct_gives_back_gradients_and_running_statistics() -> None:
    module = plain()
    loss_of(module).backward()
    grad = module.classifier.weight.grad
    assert grad is not None
    value, untouched = grad.clone(), values(module)
    direct = Direct(module)
    assert module.classifier.weight.grad is None
    module.train()
    optimizer = torch.optim.SGD(direct.parameters(), lr=0.1)
    loss_of(module).backward()
    optimizer.step()
    assert not torch.equal(module.body[1].running_mean, untouched["body.1.running_mean"])
    assert direct.release() is module
    assert module.classifier.weight.grad is grad
    assert torch.equal(grad, value)
    assert all(torch.equal(untouched[name], tensor) for name, tensor in module.state_dict().items())
    assert sum(p.numel() for p in module.parameters()) == direct.D


@pytest.mark.parametrize("space", ["", "@d=20", "@d=20,head=outside"])
def test_a_snapshot_can_be_put_back(space: str) -> None:
    module = plain()
    trained = apply(parse("full" + space), module, 3).trained

    def step(lr: float) -> None:
        module.train()
        optimizer = torch.optim.SGD(list(trained.parameters()), lr=lr)
        optimizer.zero_grad()
        loss_of(module).backward()
        optimizer.step()
        trained.flush()

    step(0.1)
    best, saved = values(module), snapshot(trained)
    step(0.5)
    assert not torch.equal(values(module)["classifier.weight"], best["classifier.weight"])
    restore(trained, saved)
    assert all(torch.equal(best[name], tensor) for name, tensor in module.state_dict().items())


def test_direct_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    module = plain()
    direct = Direct(module)
    train(AppliedMethod(parse("full"), Applied.of(module), direct), 2)
    direct.save(tmp_path / "t.d90")
    space = Subspace(plain(), 9)
    space.save(tmp_path / "s.d90")
    other = plain()
    with torch.no_grad():
        other.body[0].weight[0, 0] += 1  # type: ignore[index,union-attr]
    fewer = plain()
    parse("bitfit").method.apply(fewer)
    for model, file, message in (
        (other, "t.d90", "another base model, .* fingerprint [0-9a-f]{16}, this model has [0-9a-f]{16}"),
        (fewer, "t.d90", "does not hold the .* tensors that this method trains"),
        (plain(), "s.d90", "does not hold the"),
        (bert(), "t.d90", "does not hold the"),
    ):
        before = values(model)
        with pytest.raises(InputError, match=message):
            Direct(model).restore(tmp_path / file)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(InputError, match="not the tune of a subspace"):
        Subspace.load(tmp_path / "t.d90", plain())
