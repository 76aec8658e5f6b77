"""What the in-place engine cannot be right about is refused by name, and calls that would do nothing are told."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from d90 import Subspace
from d90.errors import InputError, UnsupportedModelError
from tests.reference.models import loss_of, words, zoo
from tests.reference.states import same, values


def two(first: nn.Parameter, second: nn.Parameter) -> nn.Module:
    model = nn.Module()
    model.first, model.second = first, second
    return model


def moved(space: Subspace, by: float = 0.02) -> Subspace:
    with torch.no_grad():
        space.theta.add_(by * torch.randn(space.d, generator=torch.Generator().manual_seed(2)))
    space.flush()
    return space


# --- memory that two parameters share ---------------------------------------------------------------------------------

MEMORY = torch.arange(24.0).reshape(4, 6)
SHARED: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "one storage": lambda m: (m, m),
    "a view of the other": lambda m: (m, m[1:3]),
    "transposed": lambda m: (m, m.t()),
    "another type": lambda m: (m, m.view(torch.float64)),
    "columns that meet": lambda m: (m[:, :4], m[:, 3:]),
    "one number": lambda m: (m[0], m[0, 5]),
}


@pytest.mark.parametrize("how", SHARED)
@pytest.mark.parametrize("frozen", [False, True])
def test_parameters_over_one_memory_are_refused_by_name(how: str, frozen: bool) -> None:
    a, b = SHARED[how](MEMORY.clone())
    model = two(nn.Parameter(a), nn.Parameter(b, requires_grad=not frozen))
    with pytest.raises(UnsupportedModelError, match=r"parameters '(first|second)' and '(first|second)' share memory"):
        Subspace(model, 3)


def test_parts_of_one_memory_that_do_not_overlap_are_taken() -> None:
    m = MEMORY.clone()
    for a, b in ((m[:2], m[2:]), (m[:, ::2], m[:, 1::2]), (m[:, :3], m[:, 3:]), (m[0], m[1, :0])):
        space = Subspace(two(nn.Parameter(a), nn.Parameter(b)), 2)
        moved(space)
        space.release()
        assert torch.equal(m, MEMORY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Parameter(torch.ones(1, 3).expand(4, 3)), "'first' is expanded"),
        (lambda: nn.Parameter(torch.arange(5.0).as_strided((4, 2), (1, 1))), "'first' is expanded"),
        (lambda: nn.Parameter(torch.ones(4).to(torch.float8_e4m3fn)), "'first' has dtype torch.float8_e4m3fn"),
        (lambda: nn.Parameter(torch.ones(4, dtype=torch.complex64)), "'first' has dtype torch.complex64"),
        (lambda: nn.UninitializedParameter(), "'first' is lazy and has no shape yet"),
        (lambda: nn.Parameter(torch.eye(3).to_sparse()), "'first' has layout torch.sparse_coo"),
        (lambda: nn.Parameter(torch.ones(4, device="meta")), "'first' is on the meta device"),
    ],
)
def test_parameters_that_cannot_be_written_are_refused_by_name(make: Callable[[], nn.Parameter], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        Subspace(two(make(), nn.Parameter(torch.ones(5))), 2)


def test_weights_made_in_inference_mode_are_refused_and_a_space_made_there_trains() -> None:
    with torch.inference_mode():
        made = nn.Linear(3, 2)
    with pytest.raises(UnsupportedModelError, match=r"'weight' was made in torch\.inference_mode\(\)"):
        Subspace(made, 2)
    model = zoo()
    with torch.inference_mode():
        space = Subspace(model, 20)
    loss_of(model, words()).backward()
    assert space.theta.grad is not None
    assert bool(space.theta.grad.any())


def test_integer_and_float8_weights_that_are_frozen_are_left_alone() -> None:
    model = nn.Linear(3, 2)
    model.table = nn.Parameter(torch.arange(4), requires_grad=False)
    model.packed = nn.Parameter(torch.ones(4).to(torch.float8_e4m3fn), requires_grad=False)
    moved(Subspace(model, 3))


def test_state_behind_get_extra_state_is_refused_by_name() -> None:
    class Keeps(nn.Linear):
        def get_extra_state(self) -> dict[str, float]:
            return {"scale": 1.0}

    with pytest.raises(UnsupportedModelError, match=r"module '0' \(Keeps\) keeps state of its own"):
        Subspace(nn.Sequential(Keeps(3, 2)), 2)


# --- flags ------------------------------------------------------------------------------------------------------------


def test_a_flag_changed_after_construction_is_refused_by_name() -> None:
    model = zoo()
    Subspace(model, 20)
    model.conv.requires_grad_(False)
    with pytest.raises(UnsupportedModelError, match=r"'conv.weight' no longer requires gradients"):
        loss_of(model, words())
    with torch.no_grad():
        loss_of(model, words())  # nothing is trained
    model.conv.requires_grad_(True)
    model.frozen.bias.requires_grad_(True)
    with pytest.raises(UnsupportedModelError, match=r"'frozen.bias' requires gradients now, but would never move"):
        loss_of(model, words())
    model.frozen.bias.requires_grad_(False)
    model.added = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match=r"'added.weight' is new and requires gradients"):
        loss_of(model, words())
    model.added.requires_grad_(False)
    loss_of(model, words()).backward()


# --- weights changed in place -----------------------------------------------------------------------------------------


def load_another(model: nn.Module) -> None:
    model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})


def load_a_part(model: nn.Module) -> None:
    part = model.blocks[1].up  # type: ignore[index,union-attr]
    part.load_state_dict({name: value + 0.1 for name, value in part.state_dict().items()})


def add_in_place(model: nn.Module) -> None:
    with torch.no_grad():
        model.back.weight.add_(0.1)  # type: ignore[union-attr,operator]


def initialise(model: nn.Module) -> None:
    nn.init.normal_(model.back.bias)  # type: ignore[union-attr,arg-type]


def write_data(model: nn.Module) -> None:
    model.back.weight.data.mul_(1.5)  # type: ignore[union-attr,operator]


def replace_data(model: nn.Module) -> None:
    model.back.weight.data = model.back.weight.data + 1  # type: ignore[union-attr,operator]


def write_numpy(model: nn.Module) -> None:
    model.mix.detach().numpy()[:] += 0.5  # type: ignore[operator]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "change", [load_another, load_a_part, add_in_place, initialise, write_data, replace_data, write_numpy]
)
def test_weights_changed_under_a_subspace_are_refused_by_name(change: Callable[[nn.Module], None], keep: bool) -> None:
    """They were lost at the next theta: a run that loaded its weights fell back to the start."""
    space = moved(Subspace(zoo(), 20, keep_theta0=keep))

    def change_and_go_on() -> None:
        change(space.model)
        moved(space)

    with pytest.raises(UnsupportedModelError, match=r"'[\w.]+' .*under a Subspace, whose next step would undo"):
        change_and_go_on()
    if keep:
        space.release()
        assert same(values(space.model), values(zoo()))


def test_a_refused_state_changes_nothing_and_the_same_state_is_taken() -> None:
    space = moved(Subspace(zoo(), 20))
    before = values(space.model)
    space.model.load_state_dict(space.model.state_dict())
    with torch.no_grad():
        space.model.back.weight.add_(0.0)  # type: ignore[union-attr,operator]
    loss_of(space.model, words()).backward()
    with pytest.raises(UnsupportedModelError, match=r"load_state_dict\(\) would change"):
        load_another(space.model)
    assert same(values(space.model), before)
    loss_of(space.model, words()).backward()


def test_theta_loaded_before_the_weights_resumes_a_run() -> None:
    trained = moved(Subspace(zoo(), 20))
    state, theta = copy.deepcopy(trained.model.state_dict()), trained.theta.detach().clone()
    again = Subspace(zoo(), 20)
    with pytest.raises(UnsupportedModelError, match="load theta"):
        again.model.load_state_dict(state)
    again.theta.data.copy_(theta)
    again.model.load_state_dict(state)
    assert same(values(moved(again).model), values(moved(trained).model))


def test_weights_changed_while_disabled_are_noticed_too() -> None:
    space = moved(Subspace(zoo(), 20))
    space.unmerge()
    add_in_place(space.model)
    space.enable()
    with pytest.raises(UnsupportedModelError, match=r"'back.weight' was changed"):
        space.flush()


# --- a backward pass after the weights were written again -------------------------------------------------------------


class Bias(nn.Module):
    """torch saves no weight of it for the backward pass, so its version counters say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(30))
        self.part = nn.Linear(30, 30)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        return {"out": [x + self.bias]}


@pytest.mark.parametrize("part", [False, True])
def test_said_refuses_a_flush_between_forward_and_backward(part: bool) -> None:
    """The gradient of lambda took the new z where torch, with theta in the graph, refuses."""
    space = moved(Subspace(Bias(), 9, structure="said", layer="tensor"))
    x = torch.randn(4, 30)
    out = space.model.part(x) if part else space.model(x)["out"][0]  # type: ignore[operator]
    moved(space)
    with pytest.raises(
        RuntimeError, match=r"modified by an inplace operation.*between a forward pass and its backward"
    ):
        out.square().sum().backward()
    space.theta.grad = None
    did = moved(Subspace(Bias(), 9))
    out = did.model(x)["out"][0]
    moved(did)
    out.square().sum().backward()  # linear in theta: nothing of theta is in this gradient
    assert did.theta.grad is not None


# --- keep_theta0=False ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embeddings_with_max_norm_need_theta_0(kind: type[nn.Module]) -> None:
    model = nn.Sequential(kind(9, 4, max_norm=1.0), nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"keep_theta0=False: '0.weight' belongs to an embedding with max_norm"):
        Subspace(model, 5, keep_theta0=False)
    space = Subspace(model, 5)
    before = model[0].weight.detach().clone()
    for _ in range(3):
        model(torch.tensor([[1, 2], [3, 4]])).sum().backward()
        moved(space)
    space.release()
    assert torch.equal(model[0].weight, before)  # type: ignore[arg-type]


def test_a_theta_that_is_not_finite_is_not_written_without_theta_0() -> None:
    space = moved(Subspace(zoo(), 20, keep_theta0=False))
    before, theta = values(space.model), space.theta.detach().clone()
    for bad in (float("nan"), float("inf"), 3e38):
        space.theta.data.fill_(bad)
        with pytest.raises(
            InputError, match="theta holds NaN, infinity or numbers too large, and theta_0 was not kept"
        ):
            loss_of(space.model, words())
    space.theta.data.copy_(theta)
    loss_of(space.model, words()).backward()
    assert same(values(space.model), before)


@pytest.mark.parametrize("keep", [True, False])
def test_threads_that_race_write_once(keep: bool) -> None:
    twin = Subspace(zoo(), 20)
    space = Subspace(zoo(), 20, keep_theta0=keep)
    start = threading.Barrier(8)

    def run() -> None:
        for _ in range(10):
            start.wait()
            with torch.no_grad():
                space.model(words())

    threads = [threading.Thread(target=run) for _ in range(7)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        with torch.no_grad():
            space.theta.add_(0.01)
            twin.theta.add_(0.01)
        start.wait()
    for thread in threads:
        thread.join()
    space.flush()
    twin.flush()
    for name, weight in values(space.model).items():
        torch.testing.assert_close(weight, values(twin.model)[name], rtol=1e-5, atol=1e-6)


def test_backward_passes_in_two_threads_both_arrive() -> None:
    """A forward pass in one thread dropped what another thread's backward pass had folded so far."""
    space = moved(Subspace(zoo(), 20))
    loss_of(space.model, words()).backward()
    assert space.theta.grad is not None
    one = space.theta.grad.clone()
    space.theta.grad = None
    halfway, go_on = threading.Event(), threading.Event()

    def wait(grad: Tensor) -> None:
        halfway.set()
        go_on.wait()

    loss = loss_of(space.model, words())
    handle = space.model.embed.weight.register_hook(wait)  # type: ignore[union-attr,operator]
    thread = threading.Thread(target=loss.backward)
    thread.start()
    halfway.wait()
    handle.remove()
    other = loss_of(space.model, words())
    go_on.set()
    thread.join()
    other.backward()
    torch.testing.assert_close(space.theta.grad, 2 * one, rtol=1e-5, atol=1e-6)


# --- told instead of ignored ------------------------------------------------------------------------------------------


def test_an_optimizer_over_the_models_parameters_is_reported() -> None:
    model = zoo()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    space = Subspace(model, 20)
    loss_of(model, words()).backward()
    with pytest.raises(InputError, match=r"its step would train nothing; expected one over space\.parameters\(\)"):
        optimizer.step()
    torch.optim.Adam(space.parameters()).step()
    space.release()
    loss_of(model, words()).backward()
    optimizer.step()


@pytest.mark.parametrize(
    "clip", [clip_grad_norm_, clip_grad_value_, nn.utils.clip_grad_value_, nn.utils.clip_grad_norm_]
)
def test_clipping_the_models_gradients_is_reported(clip: Callable[..., object]) -> None:
    space = Subspace(zoo(), 20)
    loss_of(space.model, words()).backward()
    if (
        clip is not clip_grad_value_ or clip is nn.utils.clip_grad_value_
    ):  # one imported before the first Subspace is torch's own
        with pytest.raises(InputError, match=r"nothing would be clipped; expected space\.parameters\(\)"):
            clip(space.model.parameters(), 1e-3)
    clip(space.parameters(), 1e-3)
    assert space.theta.grad is not None
    assert float(space.theta.grad.abs().max()) <= 1.001e-3
    space.release()
    loss_of(space.model, words()).backward()
    clip(space.model.parameters(), 1e-3)


def test_a_head_outside_that_is_tied_is_reported() -> None:
    with pytest.warns(
        UserWarning, match=r"'head.weight' is tied to 'embed.weight', .*only \['head.bias'\] are trained outside"
    ):
        Subspace(zoo(), 20, head="outside").release()
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    with pytest.warns(UserWarning, match=r"'2.weight' is tied to '0.weight', which lies inside; it changes nothing"):
        Subspace(model, 3, head="outside")
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2).requires_grad_(False))
    with pytest.warns(UserWarning, match="the head is frozen; it changes nothing"):
        Subspace(model, 3, head="outside")


def test_create_graph_is_reported_and_a_gradient_penalty_is_not_hindered() -> None:
    space = moved(Subspace(zoo(), 20))
    with pytest.raises(UnsupportedModelError, match=r"backward\(create_graph=True\) under a Subspace"):
        loss_of(space.model, words()).backward(create_graph=True)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    other = moved(Subspace(model, 6))
    x = torch.randn(3, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert other.theta.grad is not None
    assert bool(other.theta.grad.any())


@pytest.mark.parametrize("what", ["model", "space", "list"])
def test_pickling_under_a_subspace_says_what_to_save(what: str) -> None:
    space = moved(Subspace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), 5))
    thing = {"model": space.model, "space": space, "list": [space.model]}[what]
    for save in (lambda: torch.save(thing, BytesIO()), lambda: pickle.dumps(thing)):
        with pytest.raises(
            InputError, match=r"to pickle .*expected a tune or a plain model: save the tune with space\.save"
        ):
            save()
    torch.save(space.model.state_dict(), BytesIO())
    torch.save(space.theta, BytesIO())
    torch.save(space.merge(), BytesIO())


def test_functional_call_over_an_enabled_model_is_refused() -> None:
    space = moved(Subspace(zoo(), 20))
    weights = {name: p.detach().clone() for name, p in space.model.named_parameters()}
    with pytest.raises(UnsupportedModelError, match=r"was replaced under a Subspace.*functional_call"):
        torch.func.functional_call(space.model, weights, (words(),))


def test_lbfgs_and_gradient_scaling_work_as_they_are() -> None:
    space = Subspace(zoo(), 20)
    optimizer = torch.optim.LBFGS(space.parameters(), lr=0.1, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(space.model, words())
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert loss_of(space.model, words()) < first  # type: ignore[operator]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    adam = torch.optim.Adam(space.parameters(), lr=1e-3)
    space.theta.grad = None
    loss_of(space.model, words()).backward()
    plain = space.theta.grad.clone()  # type: ignore[union-attr]
    space.theta.grad = None
    scaler.scale(loss_of(space.model, words())).backward()
    scaler.unscale_(adam)
    torch.testing.assert_close(space.theta.grad, plain, rtol=1e-5, atol=1e-7)
    scaler.step(adam)
    scaler.update()


def test_embeddings_that_are_sparse_already_train_and_keep_their_flag(tmp_path: Path) -> None:
    grads = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.ModuleList([nn.Embedding(20, 6, sparse=sparse), nn.EmbeddingBag(20, 6, sparse=sparse)])
        space = Subspace(model, 7, structure="said", layer="tensor")
        tokens = torch.tensor([[1, 5, 5], [19, 1, 0]])
        (model[0](tokens).sum(1) * model[1](tokens) + model[0](tokens).mean(1)).square().sum().backward()
        assert space.theta.grad is not None
        grads.append(space.theta.grad.clone())
        space.release()
        assert [part.sparse for part in model] == [sparse, sparse]
    torch.testing.assert_close(grads[0], grads[1])
