"""The engine computes what its equation says: a slow twin has the same loss and gradient, however the loop runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from d90 import Subspace
from d90.subspace.layout import step_factor
from d90.subspace.options import LAYERS, SCALES
from d90.subspace.subspace import LAMBDA_STEP
from tests.reference.models import WIDTH, ZOO_LAYERS, loss_of, words, zoo
from tests.reference.space import SlowSpace
from tests.reference.table import SPECS, suited

D_ = 24
RULE = step_factor, LAMBDA_STEP
TABLE = [("did", p, s, "block") for p in SPECS for s in SCALES]
TABLE += [("said", p, s, layer) for p in SPECS for s in SCALES for layer in LAYERS]


def layers_of(names: list[str], layer: str) -> list[str]:
    if layer == "tensor":
        return names
    return [ZOO_LAYERS[name][0 if layer == "block" else 1] for name in names]


def some_theta(d: int, seed: int = 5) -> Tensor:
    return 0.02 * torch.randn(d, generator=torch.Generator().manual_seed(seed))


def near(a: Tensor, b: Tensor, rtol: float = 1e-5) -> bool:
    return bool((a.double() - b.double()).norm() <= rtol * b.double().norm())


def gradient(space: Subspace, loss: Tensor) -> Tensor:
    space.theta.grad = None
    loss.backward()
    assert space.theta.grad is not None
    return space.theta.grad.clone()


@pytest.mark.parametrize(("structure", "projection", "scale", "layer"), TABLE)
def test_loss_and_gradient_equal_the_slow_twin(structure: str, projection: str, scale: str, layer: str) -> None:
    """Tied, frozen, 0-dim, empty and non-contiguous parameters included."""
    model = zoo()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert set(names) == set(ZOO_LAYERS)
    layers = layers_of(names, layer) if structure == "said" else []
    m = len(set(layers))
    d = m + suited(projection, D_ - m)
    twin = SlowSpace(copy.deepcopy(model), names, d, projection, scale, layers, seed=3, rule=RULE)
    theta = some_theta(d).requires_grad_()
    expected = twin.loss(theta, loss_of, words())
    (slow,) = torch.autograd.grad(expected, theta)

    space = Subspace(model, d, structure=structure, projection=projection, scale=scale, layer=layer, seed=3)
    assert space.m == len(set(layers))
    with torch.no_grad():
        space.theta.copy_(theta)
    loss = loss_of(model, words())
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-5)
    assert near(gradient(space, loss), slow)
    if space.m:
        assert near(space.lambdas, 1 + LAMBDA_STEP * theta.detach()[-space.m :])
        assert near(space.theta.grad[-space.m :], slow[-space.m :])  # type: ignore[index]
    assert all(p.grad is None for p in model.parameters())
    for name, weight in twin.weights(theta.detach()).items():
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), weight, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=["did", "said"])
def enabled(request: pytest.FixtureRequest) -> Iterator[Subspace]:
    space = Subspace(zoo(), D_, structure=request.param, seed=3)
    with torch.no_grad():
        space.theta.copy_(some_theta(D_))
    yield space
    space.release()


def test_the_first_outputs_are_the_base_outputs() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = zoo().to(dtype)
        expected = model(words())
        for structure in ("did", "said"):
            space = Subspace(model, D_, structure=structure, scale="relative")
            assert torch.equal(model(words()), expected)
            with torch.no_grad():
                space.theta.copy_(some_theta(D_))
            assert not torch.equal(model(words()), expected)
            with torch.no_grad():
                space.theta.zero_()
            assert torch.equal(model(words()), expected)
            space.release()


@pytest.mark.parametrize("together", [False, True])
def test_micro_batches_accumulate(enabled: Subspace, together: bool) -> None:
    """Equal parts: the mean of the gradients is the gradient of the mean, also when all forwards come first."""
    batch = words(8)
    full = gradient(enabled, loss_of(enabled.model, batch))
    enabled.theta.grad = None
    losses: list[Tensor] | Iterator[Tensor] = (loss_of(enabled.model, part) / 4 for part in batch.chunk(4))
    for loss in list(losses) if together else losses:
        loss.backward()
    assert near(enabled.theta.grad, full, 3e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("recompute", ["plain", "reentrant"])
@pytest.mark.parametrize("structure", ["did", "said"])
def test_activation_checkpointing_changes_nothing(recompute: str, structure: str) -> None:
    """Recomputed activations must not fold a gradient twice."""
    grads = []
    for how in (None, recompute):
        space = Subspace(zoo(how), D_, structure=structure)
        with torch.no_grad():
            space.theta.copy_(some_theta(D_))
        space.model.train()
        grads.append(gradient(space, loss_of(space.model, words())))
    assert near(grads[1], grads[0], 3e-6)


def test_checkpointing_of_the_whole_model(enabled: Subspace) -> None:
    from torch.utils.checkpoint import checkpoint

    expected = gradient(enabled, loss_of(enabled.model, words()))
    for reentrant in (False, True):
        seen = torch.zeros((), requires_grad=True)  # a reentrant checkpoint needs an input with a gradient

        def call(x: Tensor, seen: Tensor = seen, how: bool = reentrant) -> Tensor:
            return checkpoint(lambda x, _: enabled.model(x), x, seen, use_reentrant=how)

        loss = loss_of(call, words())  # type: ignore[arg-type]
        assert near(gradient(enabled, loss), expected, 3e-6)


def test_compiled_models_have_the_same_gradients(enabled: Subspace) -> None:
    """And the hooks do not break the model's graph into pieces."""
    graphs = torch._dynamo.explain(enabled.model)(words()).graph_count
    bare = torch._dynamo.explain(zoo())(words()).graph_count
    torch._dynamo.reset()
    assert graphs == bare
    expected = gradient(enabled, loss_of(enabled.model, words()))
    compiled = torch.compile(enabled.model, backend="aot_eager")
    assert near(gradient(enabled, loss_of(compiled, words())), expected, 3e-6)
    with torch.no_grad():  # and the compiled model follows theta
        enabled.theta.mul_(-1.5)
    moved = gradient(enabled, loss_of(compiled, words()))
    assert near(moved, gradient(enabled, loss_of(enabled.model, words())), 3e-6)
    assert not near(moved, expected, 1e-2)
    torch._dynamo.reset()


def write_in_place(theta: nn.Parameter) -> None:
    with torch.no_grad():
        theta.add_(0.01)


def write_data(theta: nn.Parameter) -> None:
    theta.data[3] += 0.05


def write_through_numpy(theta: nn.Parameter) -> None:
    theta.detach().numpy()[3] += 0.05


def new_data(theta: nn.Parameter) -> None:
    theta.data = theta.data + 0.01


def fused_step(theta: nn.Parameter) -> None:
    theta.grad = torch.ones_like(theta)
    torch.optim.AdamW([theta], lr=0.01, fused=True).step()


@pytest.mark.parametrize("change", [write_in_place, write_data, write_through_numpy, new_data, fused_step])
def test_every_change_of_theta_is_noticed(enabled: Subspace, change: Callable[[nn.Parameter], None]) -> None:
    """Some change theta without moving its version counter."""
    before = enabled.model(words())
    change(enabled.theta)
    after = enabled.model(words())
    assert not torch.equal(before, after)
    twin = copy.deepcopy(zoo())
    fresh = Subspace(twin, D_, structure=enabled.options.structure, seed=3)
    fresh.theta.data.copy_(enabled.theta.data)
    assert torch.equal(twin(words()), after)


def test_nothing_is_written_while_theta_stays(enabled: Subspace, monkeypatch: pytest.MonkeyPatch) -> None:
    enabled.flush()
    monkeypatch.setattr(enabled.projection, "write", lambda targets: pytest.fail("written though theta is the same"))
    enabled.model(words())
    enabled.flush()
    enabled.model.state_dict()


def test_parts_and_state_dicts_see_current_weights(enabled: Subspace) -> None:
    reference = enabled.model.state_dict()["embed.weight"].clone()
    reads: list[Callable[[], Tensor]] = [
        lambda: enabled.model.embed(torch.tensor(4)),  # type: ignore[operator]
        lambda: enabled.model.blocks[1](torch.ones(1, WIDTH)),  # type: ignore[index]
        lambda: enabled.model.blocks[0].up(torch.ones(1, WIDTH)),  # type: ignore[index,union-attr]
        lambda: enabled.model.state_dict()["embed.weight"].clone(),
        lambda: enabled.model.blocks[1].up.state_dict()["weight"].clone(),  # type: ignore[index,union-attr]
    ]
    for read in reads:
        with torch.no_grad():
            enabled.theta.add_(0.05)
        seen = read()
        enabled.flush()
        assert torch.equal(seen, read())
    assert not torch.equal(enabled.model.state_dict()["embed.weight"], reference)


def test_a_backward_pass_that_fails_does_not_poison_the_next(enabled: Subspace) -> None:
    model, expected = enabled.model, gradient(enabled, loss_of(enabled.model, words()))

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:  # type: ignore[override]
            raise RuntimeError("half-way")

    def failing() -> Tensor:
        handle = model.blocks[0].register_forward_hook(lambda m, i, out: Fails.apply(out))  # type: ignore[index,union-attr]
        loss = loss_of(model, words())
        handle.remove()
        return loss

    enabled.theta.grad = None
    with pytest.raises(RuntimeError, match="half-way"):
        failing().backward()
    assert enabled.theta.grad is None
    assert near(gradient(enabled, loss_of(model, words())), expected, 3e-6)
    # the second forward before the first, failing, backward
    first, second = failing(), loss_of(model, words())
    with pytest.raises(RuntimeError, match="half-way"):
        first.backward()
    assert near(gradient(enabled, second), expected, 3e-6)


def test_a_failed_backward_through_a_part_does_not_stop_training(enabled: Subspace) -> None:
    """Called by parts, the model's own forward never runs, so nothing there can clear what was left."""
    block = enabled.model.blocks[0]  # type: ignore[index]
    x = torch.randn(2, WIDTH)
    expected = gradient(enabled, block(x).square().sum())  # type: ignore[operator,union-attr]
    loss = block(x).square().sum()  # type: ignore[operator,union-attr]
    handle = block.norm.weight.register_hook(lambda g: 1 / 0)  # type: ignore[union-attr]
    with pytest.raises(ZeroDivisionError):
        loss.backward()
    handle.remove()
    enabled.theta.grad = None
    assert near(gradient(enabled, block(x).square().sum()), expected, 3e-6)  # type: ignore[operator,union-attr]


def test_a_forward_pass_that_fails_leaves_the_engine_usable(enabled: Subspace) -> None:
    expected = gradient(enabled, loss_of(enabled.model, words()))
    with pytest.raises(IndexError):
        enabled.model(torch.full((1, 5), 99))
    with torch.no_grad():
        enabled.theta.add_(0.1)
    moved = enabled.model.embed(torch.tensor(4))  # type: ignore[operator]
    enabled.flush()
    assert torch.equal(moved, enabled.model.embed(torch.tensor(4)))  # type: ignore[operator]
    with torch.no_grad():
        enabled.theta.copy_(some_theta(D_))
    assert near(gradient(enabled, loss_of(enabled.model, words())), expected, 3e-6)


def test_stepping_between_forward_and_backward_is_refused(enabled: Subspace) -> None:
    """torch refuses a backward pass over weights that have changed; writing in place must not hide that."""
    loss = loss_of(enabled.model, words())
    with torch.no_grad():
        enabled.theta.add_(0.1)
    enabled.flush()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_evaluation_in_inference_mode_between_steps(enabled: Subspace) -> None:
    with torch.no_grad():
        enabled.theta.mul_(2)
    with torch.inference_mode():
        enabled.model(words())
    after_inference = gradient(enabled, loss_of(enabled.model, words()))
    fresh = Subspace(zoo(), D_, structure=enabled.options.structure, seed=3)
    fresh.theta.data.copy_(enabled.theta.data)
    assert near(after_inference, gradient(fresh, loss_of(fresh.model, words())), 3e-6)


def test_autocast_rounds_the_model_not_the_projection(enabled: Subspace) -> None:
    plain = enabled.model.state_dict()["blocks.0.up.weight"].clone()
    moved = torch.nextafter(enabled.theta.detach(), torch.tensor(torch.inf))
    enabled.theta.data.copy_(moved)  # by the last bit: the weights are written again, as they were
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = loss_of(enabled.model, words())
        torch.testing.assert_close(enabled.model.state_dict()["blocks.0.up.weight"], plain, rtol=1e-6, atol=1e-7)
        enabled.theta.data.mul_(-20)  # and autocast's cache of cast weights does not go stale
        assert abs(loss_of(enabled.model, words()) - first) > 1e-3


def test_sparse_gradients_are_folded() -> None:
    grads = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(20, 6, sparse=sparse), nn.Linear(6, 2))
        space = Subspace(model, 7, seed=1)
        grads.append(gradient(space, model(torch.tensor([1, 5, 5, 19])).square().sum()))
    assert near(grads[1], grads[0], 1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("structure", ["did", "said"])
def test_a_plain_loop_with_adam_lowers_the_loss(structure: str, fused: bool) -> None:
    space = Subspace(zoo(), 60, structure=structure)
    optimizer = space.attach(torch.optim.Adam(space.parameters(), lr=0.01, fused=fused))
    losses = []
    for _ in range(25):
        loss = loss_of(space.model, words())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is None for p in space.model.parameters())
    held = space.model.state_dict()["embed.weight"]
    assert torch.equal(held, space.model.embed.weight)  # type: ignore[union-attr,arg-type]


def test_gradients_are_freed_one_by_one_in_the_backward_pass() -> None:
    """At no moment do the gradients of more than a few tensors stand side by side."""
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(20)])
    space = Subspace(model, 10)
    alive: list[int] = []

    def count(_: Tensor) -> None:
        alive.append(sum(p.grad is not None for p in model.parameters()))

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(count)
    model(torch.randn(3, 8)).sum().backward()
    assert len(alive) == 40
    assert max(alive) <= 1
    assert space.theta.grad is not None


def test_no_state_of_size_D_but_theta_0() -> None:
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 40))
    space = Subspace(model, 10)
    loss = model(torch.randn(3, 300)).sum()
    loss.backward()
    space.theta.data.add_(0.01)
    model(torch.randn(3, 300))

    def numbers(thing: object, seen: set[int]) -> int:
        if id(thing) in seen or isinstance(thing, nn.Module | nn.Parameter):
            return 0
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            return thing.numel()
        if isinstance(thing, dict):
            return sum(numbers(v, seen) for v in thing.values())
        if isinstance(thing, list | tuple):
            return sum(numbers(v, seen) for v in thing)
        return numbers(vars(thing), seen) if hasattr(thing, "__dict__") else 0

    held = numbers(vars(space), set())
    assert space.D <= held < space.D + 1000
