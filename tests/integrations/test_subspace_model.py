"""The engine leaves no trace: what is given back, what is refused, and what half precision keeps."""

from __future__ import annotations

import copy
import gc
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from d90 import Subspace
from d90.errors import D90Error, InputError, UnsupportedModelError
from tests.reference.models import Normed, loss_of, words, zoo

HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def marks(model: nn.Module) -> list[object]:
    """Everything about a model that a guest could leave behind, but for the values."""
    seen: list[object] = [list(model.state_dict())]
    for name, module in model.named_modules():
        public = {key for key in vars(module) if not key.startswith("_") and key != "training"}
        seen.append((name, module.training, sorted(vars(module)), [(h, list(getattr(module, h))) for h in HOOKS]))
        seen.append({key: getattr(module, key) for key in public if isinstance(getattr(module, key), bool | int | str)})
    for name, p in model.named_parameters(remove_duplicate=False):
        hooks = [getattr(p, kind, None) for kind in ("_backward_hooks", "_post_accumulate_grad_hooks")]
        seen.append((name, id(p), p.requires_grad, p.dtype, p.stride(), id(p.grad), [len(h or ()) for h in hooks]))
    return seen


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def steps(space: Subspace, count: int = 3) -> None:
    optimizer = space.attach(torch.optim.Adam(space.parameters(), lr=0.02))
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(space.model, words()).backward()
        optimizer.step()
    space.flush()


# --- giving the model back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["did", "said"])
@pytest.mark.parametrize("head", ["inside", "outside"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_release_gives_back_everything(structure: str, head: str, dtype: torch.dtype) -> None:
    model = zoo().to(dtype)
    model.eval()
    model.blocks[1].train()  # flags as a user may have set them
    loss_of(model, words()).backward()  # gradients that were there before
    user = model.blocks[0].register_forward_hook(lambda *_: None)
    before, marked = values(model), marks(model)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    space = Subspace(model, 20, structure=structure, head=head)
    steps(space)
    assert not same(values(model), before)
    assert list(model.state_dict()) == list(before)
    assert space.release() is model
    assert same(values(model), before)
    assert marks(model) == marked
    assert grads.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(torch.equal(model.get_parameter(name).grad, grad) for name, grad in grads.items())  # type: ignore[arg-type]
    user.remove()
    again = Subspace(model, 20, structure=structure, head=head)  # and the model takes another
    again.release()
    assert same(values(model), before)


def test_a_released_space_can_be_collected() -> None:
    model = zoo()
    space = Subspace(model, 20)
    steps(space, 1)
    gone = weakref.ref(space)
    space.release()
    del space
    gc.collect()
    assert gone() is None


def test_a_space_that_cannot_be_made_leaves_no_trace() -> None:
    model = zoo()
    before, marked = values(model), marks(model)
    wrong: list[dict[str, object]] = [
        {"d": 0}, {"d": -3}, {"d": 10**9}, {"d": 4, "structure": "said"}, {"d": 9, "structure": "dad"},
        {"d": 9, "projection": "fastfod"}, {"d": 9, "projection": "fastfood:cosine"}, {"d": 9, "scale": "tensors"},
        {"d": 9, "layer": "blok", "structure": "said"}, {"d": 9, "head": "out"}, {"d": 9, "seed": -1},
        {"d": 9, "layer": "blok"}, {"d": 9, "seed": 1 << 64},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(InputError, match=r"expected"):
            Subspace(model, **options)  # type: ignore[arg-type]
    assert marks(model) == marked
    assert same(values(model), before)


def test_errors_say_what_was_got_and_expected() -> None:
    model = zoo()
    for d in range(1, 5):
        with pytest.raises(InputError, match=rf"got d={d}, expected more than 4.*layer='block'"):
            Subspace(model, d, structure="said")
    Subspace(model, 5, structure="said").release()
    with pytest.raises(InputError, match="got d=0, expected at least 1"):
        Subspace(model, 0)
    D = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with pytest.raises(InputError, match=rf"got d={D + 1}, above D={D}"):
        Subspace(model, D + 1)
    Subspace(model, D).release()
    with pytest.raises(InputError, match=r"unknown structure 'sayd': expected one of did, said. Did you mean 'said'"):
        Subspace(model, 9, structure="sayd")
    with pytest.raises(InputError, match=r"unknown scale 'tenso'.*Did you mean 'tensor'"):
        Subspace(model, 9, scale="tenso")
    with pytest.raises(InputError, match="requires_grad=False"):
        Subspace(nn.Linear(2, 2).requires_grad_(False), 1)


def test_attach_wants_this_space() -> None:
    space = Subspace(zoo(), 9)
    for wrong in ([nn.Parameter(torch.zeros(9))], list(space.model.parameters())):
        with pytest.raises(InputError, match="does not hold this space's theta"):
            space.attach(torch.optim.Adam(wrong))
    optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
    assert space.attach(optimizer) is optimizer


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["inside", "outside"])
def test_merge_unmerge_and_back(head: str) -> None:
    model = zoo()
    before, marked = values(model), marks(model)
    space = Subspace(model, 20, head=head)
    steps(space)
    theta, tuned, outputs = space.theta.detach().clone(), values(model), model(words())

    assert space.merge() is model
    assert marks(model)[0] == marked[0]
    assert "_d90_space" not in vars(model)
    assert torch.equal(model(words()), outputs)
    loss_of(model, words()).backward()  # a plain model: gradients stay where they fall
    assert model.conv.weight.grad is not None
    model.zero_grad()

    for _ in range(2):  # twice, so that nothing is lost on the way
        space.unmerge()
        space.unmerge()
        assert same(values(model), before)
        space.merge()
        assert same(values(model), tuned)
    space.unmerge()
    space.enable()
    assert torch.equal(model(words()), outputs)
    assert torch.equal(space.theta, theta)
    loss_of(model, words()).backward()
    assert model.conv.weight.grad is None
    assert space.theta.grad is not None
    space.release()
    assert same(values(model), before)


def test_a_tune_can_be_saved_while_it_is_unmerged(tmp_path: Path) -> None:
    model = zoo()
    space = Subspace(model, 20, head="outside")
    steps(space)
    space.save(tmp_path / "armed")
    space.unmerge()
    space.save(tmp_path / "unmerged")
    assert (tmp_path / "armed").read_bytes() == (tmp_path / "unmerged").read_bytes()


def test_one_space_at_a_time() -> None:
    model = zoo()
    first = Subspace(model, 9)
    with pytest.raises(InputError, match=r"already has a Subspace.*release\(\)"):
        Subspace(model, 9)
    first.merge()
    second = Subspace(model, 9, seed=1)
    with pytest.raises(InputError, match="another enabled Subspace"):
        first.enable()
    second.release()
    first.enable()
    for part in (model.blocks[0], nn.Sequential(model)):  # its weights are taken, whoever holds them
        with pytest.raises(InputError, match="weights of this one, has another enabled Subspace"):
            Subspace(part, 9)
    first.release()
    Subspace(model.blocks[0], 9).release()


def test_a_replaced_parameter_is_noticed() -> None:
    model = zoo()
    space = Subspace(model, 9)
    model.head = nn.Linear(10, 11)
    with pytest.raises(UnsupportedModelError, match=r"was replaced under a Subspace.*resize_token_embeddings"):
        model(words())
    space.disable()


# --- the head, BatchNorm ----------------------------------------------------------------------------------------------


def test_a_head_outside_is_trained_as_it_is() -> None:
    torch.manual_seed(0)
    model = Normed()
    loss = nn.functional.cross_entropy(model(torch.randn(8, 6)), torch.arange(8) % 3)
    loss.backward()
    kept = model.classifier.weight.grad
    assert kept is not None
    value = kept.clone()
    head = list(model.classifier.parameters())
    space = Subspace(model, 9, head="outside")
    assert [id(p) for p in space.parameters()] == [id(space.theta), *map(id, head)]
    assert sum(p.numel() for p in model.body.parameters()) == space.D
    assert head[0].grad is None  # the user's old gradient is not trained on
    optimizer = space.attach(torch.optim.SGD(space.parameters(), lr=0.1))
    before = head[0].detach().clone()
    nn.functional.cross_entropy(model(torch.randn(8, 6)), torch.arange(8) % 3).backward()
    optimizer.step()
    assert not torch.equal(head[0], before)
    space.release()
    assert torch.equal(head[0], before)
    assert head[0].grad is kept
    assert torch.equal(kept, value)


@pytest.mark.parametrize("head", ["inside", "outside"])
def test_running_statistics_belong_to_the_tune(head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Normed()
    base, before = copy.deepcopy(model), values(model)
    space = Subspace(model, 9, head=head)
    optimizer = space.attach(torch.optim.SGD(space.parameters(), lr=0.1))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(3 * torch.randn(8, 6) + 1), torch.arange(8) % 3).backward()
        optimizer.step()
    model.eval()
    x = torch.randn(5, 6)
    expected = model(x)
    assert not torch.equal(model.body[1].running_mean, before["body.1.running_mean"])  # type: ignore[arg-type]
    space.save(tmp_path / "t.d90")
    space.release()
    assert same(values(model), before)
    base.eval()
    loaded = Subspace.load(tmp_path / "t.d90", base)
    assert torch.equal(base(x), expected)
    loaded.unmerge()
    assert same(values(base), before)
    loaded.merge()
    assert torch.equal(base(x), expected)


# --- half precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-2])
def test_small_updates_survive_in_half_precision(dtype: torch.dtype, size: float) -> None:
    """99 % of an update along its own direction, and the gradients of a half-precision model are folded."""
    torch.manual_seed(0)
    model = nn.Linear(1000, 1500, bias=False).to(dtype)
    base = model.weight.detach().double().flatten()
    space = Subspace(model, 50, scale="global", seed=2)
    with torch.no_grad():
        space.theta.normal_()
        space.theta.mul_(size * base.norm() / (space.units[0] * space.theta.norm()))
    space.flush()
    wanted = space.units[0] * space.projection.forward(space.theta.detach()).double()
    assert math.isclose(wanted.norm() / base.norm(), size, rel_tol=0.2)
    written = model.weight.detach().double().flatten() - base
    kept = float(written @ wanted / wanted.square().sum())
    # noise: at most half a spacing at each weight, spacing eps |w|; but of small updates few weights move at all
    q = torch.finfo(dtype).eps * base.abs().clamp_min(1e-6)
    p = (wanted.abs() / q).clamp(max=0.5)
    sigma = float((wanted**2 * q**2 * p).sum().sqrt() / wanted.square().sum())
    assert kept > 0.99 - 2 * sigma
    assert abs(kept - 1) < 4 * sigma + 1e-3
    assert sigma < 0.03

    model(torch.randn(3, 1000, dtype=dtype)).square().sum().backward()
    assert model.weight.grad is None
    assert space.theta.grad is not None
    assert space.theta.grad.dtype == torch.float32
    assert space.theta.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_written_the_same_at_every_step(dtype: torch.dtype) -> None:
    model = zoo().to(dtype)
    space = Subspace(model, 20)
    theta = 0.01 * torch.randn(20)
    written = []
    for detour in (0.0, 0.3):
        for step in (detour, 0.0):
            with torch.no_grad():
                space.theta.copy_(theta + step)
            space.flush()
        written.append(values(model))
    assert same(*written)
    space.release()
    assert same(values(model), values(zoo().to(dtype)))


def test_theta_is_fp32_whatever_the_default_type() -> None:
    torch.set_default_dtype(torch.float64)
    space = Subspace(nn.Linear(30, 30).float(), 9)
    assert space.theta.dtype == torch.float32
    space.model(torch.randn(2, 30, dtype=torch.float32)).sum().backward()
    assert space.theta.grad is not None
    assert space.theta.grad.dtype == torch.float32


# --- models that were copied, moved, cast, wrapped --------------------------------------------------------------------


def test_a_deep_copy_is_a_snapshot_and_nothing_more() -> None:
    space = Subspace(zoo(), 20)
    steps(space)
    snapshot = copy.deepcopy(space.model)
    snapshot.eval()
    expected = space.model.eval()(words())
    steps(space)  # the original goes on
    assert torch.equal(snapshot(words()), expected)
    assert not torch.equal(space.model(words()), expected)
    snapshot.train()
    with pytest.raises(UnsupportedModelError, match=r"deep copy.*release\(\) before copying"):
        loss_of(snapshot, words())
    with torch.no_grad():
        snapshot(words())
    space.model.train()
    steps(space)  # and is not disturbed by its copy
    space.release()


@pytest.mark.parametrize("part", [False, True])
def test_a_cast_under_a_space_is_refused(part: bool) -> None:
    model = zoo()
    space = Subspace(model, 20)
    (model.blocks if part else model).to(torch.bfloat16)
    with torch.no_grad():
        space.theta.add_(0.1)
    with pytest.raises(UnsupportedModelError, match=r"was cast from torch.float32 to torch.bfloat16.*release\(\)"):
        space.flush()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("structure", ["did", "said"])
def test_a_moved_model_is_followed(structure: str) -> None:
    stays, moves = (Subspace(zoo(), 20, structure=structure) for _ in range(2))
    for space in (stays, moves):
        with torch.no_grad():
            space.theta.normal_(0, 0.01, generator=torch.Generator().manual_seed(1))
    stays.model(words())
    moves.model.to("cuda")
    loss = loss_of(moves.model, words().cuda())
    assert moves.theta.is_cuda
    loss.backward()
    expected = loss_of(stays.model, words())
    expected.backward()
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-4)
    torch.testing.assert_close(moves.theta.grad.cpu(), stays.theta.grad, rtol=1e-3, atol=1e-4)  # type: ignore[union-attr]
    moves.model.to("cpu")
    moves.release()
    assert same(values(moves.model), values(zoo()))


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner


def named(name: str) -> nn.Module:
    kind: Callable[[nn.Module], nn.Module] = type(name, (Wrapper,), {})
    return kind(nn.Linear(3, 3))


def with_attribute(name: str, value: object) -> nn.Module:
    model = nn.Linear(3, 3)
    setattr(model, name, value)
    return model


def sharded() -> nn.Module:
    model = nn.Linear(3, 3)
    kind = type("DTensor", (nn.Parameter,), {})
    model.weight = kind(torch.zeros(3, 3))  # type: ignore[assignment]
    return model


REFUSED = {
    "data parallel": (lambda: nn.DataParallel(nn.Linear(3, 3)), "wrapped in DataParallel.*inner model"),
    "distributed": (lambda: named("DistributedDataParallel"), r"DistributedDataParallel.*attach\(optimizer\)"),
    "fully sharded": (lambda: named("FullyShardedDataParallel"), "FullyShardedDataParallel"),
    "quantised": (lambda: with_attribute("is_quantized", True), "quantised model.*without quantisation"),
    "quantiser": (lambda: with_attribute("hf_quantizer", object()), "quantised model"),
    "sharded weights": (sharded, "'weight' is sharded"),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), "meta device, expected real weights"),
    "complex": (lambda: nn.Linear(3, 3, dtype=torch.complex64), "complex64, expected a floating-point type"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_cannot_be_written_are_refused(case: str) -> None:
    make, message = REFUSED[case]
    model = make()
    marked = [list(getattr(m, h)) for m in model.modules() for h in HOOKS]
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        Subspace(model, 2)
    assert isinstance(caught.value, D90Error)
    assert [list(getattr(m, h)) for m in model.modules() for h in HOOKS] == marked


TWO_PROCESSES = """
import os, sys, torch
import torch.distributed as dist
from torch import nn
import d90
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))
x, y = torch.randn(8, 6), torch.arange(8) % 3
space = d90.Subspace(model, 12, head="outside")
optimizer = space.attach(torch.optim.SGD(space.parameters(), lr=0.1))
sent = []
plain = dist.all_reduce
dist.all_reduce = lambda tensor, *a, **k: (sent.append(tensor.numel()), plain(tensor, *a, **k))[1]
for _ in range(3):
    optimizer.zero_grad()
    for part in torch.arange(4 * rank, 4 * rank + 4).chunk(2):  # two micro-batches, one exchange
        (nn.functional.cross_entropy(model(x[part]), y[part]) / 2).backward()
    optimizer.step()
assert sent == [12, 60, 3] * 3, sent
alone = d90.Subspace(nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3)), 12, head="outside")
alone.release()
torch.manual_seed(0)
whole = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))
torch.randn(8, 6)
alone = d90.Subspace(whole, 12, head="outside")
optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    nn.functional.cross_entropy(whole(x), y).backward()
    optimizer.step()
for a, b in zip(space.parameters(), alone.parameters()):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_processes_exchange_d_numbers(tmp_path: Path) -> None:
    """Half the batch on each of two processes is the whole batch on one, and only d numbers and the head travel."""
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    both = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "run.py"), str(rank), str(tmp_path / "meet")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in both:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output


def test_repr_names_what_was_chosen() -> None:
    assert "d=20 (4 lambdas)" in repr(Subspace(zoo(), 20, structure="said"))
