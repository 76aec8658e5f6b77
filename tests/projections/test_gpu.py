"""The GPU's kernels against torch on the processor: on a GPU, or, with TRITON_INTERPRET=1, in Triton's interpreter (`make test-all`)."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from d90 import Subspace
from d90.projections import Projection, build, kernels
from d90.projections.rounding import HALF_TYPES
from d90.projections.targets import Fold, Target
from d90.subspace import weights
from tests.reference.models import loss_of, words, zoo
from tests.reference.table import CASES, IDS

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None
DEVICE = "cpu" if INTERPRETED else "cuda"
SEED = (5 << 32) + 0xF0000003

needs_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU")
needs_triton = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs a GPU, or Triton and TRITON_INTERPRET=1"
)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative distance of whole vectors."""
    a, b = a.cpu().double(), b.cpu().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


@needs_triton
@pytest.mark.parametrize("entries", ["sign", "gaussian"])
@pytest.mark.parametrize("d", [1, 2, 5, 50, 100, 1000, 3000])
def test_fastfood_equals_torch(d: int, entries: str) -> None:
    """Tensors smaller than a block, ragged, whole and of one number; weights in fp32 and half precision; d of one chunk and of several."""
    from d90.projections.kernels.gpu import FastfoodOnGpu

    sizes = (5000, 1, 0, 700, 1024, 9001 if d > 1000 else 2057, 9)
    p = build(f"fastfood:{entries}", d, sizes, seed=SEED)
    assert isinstance(p.kernel, kernels.FastfoodKernel)
    gpu = FastfoodOnGpu(*p.kernel.map, p.kernel.scale, (p.kernel.sizes, p.kernel.first, p.kernel.dither))
    z, other = (p.prepare(torch.randn(d)) for _ in range(2))
    for dtype in (torch.float32, *HALF_TYPES):
        bases = [torch.randn(n).to(dtype) for n in sizes]
        zs = [z if n > 1000 else other for n in sizes]
        wanted, outs = ([torch.full((n,), 7.0).to(dtype) for n in sizes] for _ in range(2))
        outs = [out.to(DEVICE) for out in outs]
        with kernels.forced("torch"):
            p.write([Target(i, *rest) for i, rest in enumerate(zip(bases, [0.3] * 7, zs, wanted, strict=True))])
        there = {id(one): one.to(DEVICE) for one in (z, other)}
        gpu.write(
            [Target(i, bases[i].to(DEVICE), 0.3, there[id(zs[i])], outs[i]) for i in range(len(sizes)) if sizes[i]]
        )
        assert far(torch.cat(outs), torch.cat(wanted)) < (1e-6 if dtype == torch.float32 else 1e-4)

    g = torch.randn(p.D)
    expected, found = p.new_z_gradient(), p.new_z_gradient(DEVICE)
    for i, part in enumerate(g.split(sizes)):
        with kernels.forced("torch"):
            p.fold_segment(part, i, expected)
        gpu.fold([Fold(i, part.to(DEVICE), 1.0, 0)], found)
    assert far(found, expected) < 1e-6
    together = torch.zeros(3, p.z_size, dtype=torch.float64, device=DEVICE)
    gpu.fold([Fold(i, part.to(DEVICE), 0.5, i % 3) for i, part in enumerate(g.split(sizes))], together)
    assert far(2 * together.sum(dim=0), expected) < 1e-6
    assert far(2 * together[1], sum(one_of(p, g, i) for i in (1, 4))) < 1e-5


def one_of(p: Projection, g: torch.Tensor, segment: int) -> torch.Tensor:
    """One segment's part of the adjoint."""
    found = p.new_z_gradient()
    p.fold_segment(g.split(p.sizes)[segment], segment, found)
    return found


@needs_triton
@pytest.mark.parametrize("waiting", [1, 1 << 24])
@pytest.mark.parametrize(("structure", "layer"), [("did", "block"), ("said", "block"), ("said", "tensor")])
def test_a_space_trains_the_same(structure: str, layer: str, waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps: loss, theta and its gradient, whether gradients wait for one another or not."""
    monkeypatch.setattr(weights, "TOGETHER", waiting)

    def trained(device: str) -> list[torch.Tensor]:
        model = zoo().to(device)
        space = Subspace(model, 24, structure=structure, layer=layer, seed=3)
        optimizer = torch.optim.Adam(space.parameters(), lr=0.02)
        seen = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, words().to(device))
            loss.backward()
            assert space.theta.grad is not None
            seen += [loss.detach(), space.theta.grad.clone(), space.theta.detach().clone()]
            optimizer.step()
        return seen

    plain = trained("cpu")
    launches = []
    if INTERPRETED:
        monkeypatch.setattr(kernels, "on_gpu", lambda tensor: tensor.is_contiguous())
    from d90.projections.kernels.gpu import FastfoodOnGpu

    fold = FastfoodOnGpu.fold
    monkeypatch.setattr(FastfoodOnGpu, "fold", lambda *given: launches.append(len(given[1])) or fold(*given))
    for there, here in zip(trained(DEVICE), plain, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-5)
    assert len(launches) == 3 if waiting > 1 else max(launches) == 1


@needs_gpu
@pytest.mark.parametrize(("spec", "d", "sizes"), CASES, ids=IDS)
def test_every_projection_is_the_same_on_the_gpu(spec: str, d: int, sizes: tuple[int, ...]) -> None:
    p, q = (build(spec, d, sizes, seed=SEED) for _ in range(2))
    theta, g = torch.randn(d), torch.randn(p.D)
    assert far(q.forward(theta.cuda()), p.forward(theta)) < 2e-6
    assert far(q.adjoint(g.cuda()), p.adjoint(g)) < 2e-6
    assert q.checksum() == p.checksum()


@needs_gpu
@pytest.mark.parametrize("d", [100, 3000])
def test_a_sparse_gradient_and_a_forced_torch_path_are_the_same(d: int) -> None:
    p = build("fastfood", d, (700, 300 * 40), seed=SEED)
    rows, values = torch.tensor([7, 3, 299, 7]), torch.randn(4, 40)
    expected, found = p.new_z_gradient(), p.new_z_gradient("cuda")
    p.fold_sparse(rows, values, (300, 40), 1, expected)
    p.fold_sparse(rows.cuda(), values.cuda(), (300, 40), 1, found)
    assert far(found, expected) < 1e-6
    theta = torch.randn(d)
    with kernels.forced("torch"):
        on_torch = p.forward(theta.cuda())
    assert far(p.forward(theta.cuda()), on_torch) < 1e-6


@needs_gpu
def test_fp64_weights_stay_fp64() -> None:
    """They are torch's work."""
    p = build("fastfood", 100, (700, 40), seed=SEED)
    z, base = p.prepare(torch.randn(100)), 1 + 1e-12 * torch.randn(700, dtype=torch.float64)
    here, there = torch.zeros(700, dtype=torch.float64), torch.zeros(700, dtype=torch.float64, device="cuda")
    p.write([Target(0, base, 1e-9, z, here)])
    p.write([Target(0, base.cuda(), 1e-9, z.cuda(), there)])
    assert far(there - base.cuda(), here - base) < 1e-3


@needs_gpu
def test_a_run_trains_on_the_gpu_and_says_so(tmp_path: object) -> None:
    """What is opened by its name moves there; the tune it writes opens on the processor."""
    import d90
    from d90.methods import parse
    from d90.options import TrainingOptions
    from d90.training.recipe import make_recipe
    from d90.trials.options import RunOptions
    from d90.trials.request import TrialRequest
    from d90.trials.runner import TrialRunner
    from d90.trials.store import Store
    from tests.reference.blobs import FAST, blobs

    spec = parse("full@d=20,structure=said")
    run = d90.train("mlp:16-32-3", blobs(), spec, **FAST)
    assert next(run.model.module.parameters()).is_cuda
    assert run.score > run.outcome.zero_score + 0.2
    run.release()
    recipe = make_recipe("mlp:16-32-3", blobs(), spec, TrainingOptions(**FAST))
    store = Store(f"{tmp_path}/d90.sqlite")
    runner = TrialRunner("mlp:16-32-3", blobs(), recipe, RunOptions(store=store))
    assert abs(runner.run([TrialRequest(spec, recipe)])[0].score - run.score) < 0.05
    assert store.trials()[0].result.context.device == torch.cuda.get_device_name()
    store.close()


@pytest.mark.skipif(INTERPRETED or importlib.util.find_spec("triton") is None, reason="needs Triton, not interpreted")
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
@pytest.mark.parametrize("m", [1, 2, 64, 128, 1024])
@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_the_kernels_compile_without_a_gpu(m: int, gaussian: bool, kind: str) -> None:
    """For compute capability 9.0, down to the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from d90.projections.kernels import gpu

    shape = {"N": gpu.TILE, "M": m, "LOG_M": m.bit_length() - 1, "GAUSSIAN": gaussian}
    bits, smallest = HALF_TYPES.get({"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind, torch.float32), (0, 0))
    common = {"places": "*i64", "k0": "i32", "k1": "i64", "chunks": "i32"}
    write = {"factors": "*fp32", "tiles": "*i32", "zs": "*fp32", "like_base": f"*{kind}", "like_out": f"*{kind}"}
    fold = {"factors": "*fp64", "programs": "*i32", "z_gradients": "*fp64", "like_g": f"*{kind}"}
    for function, types, constants in (
        (gpu.write_tiles, common | write, shape | {"SMALLEST": smallest, "BITS": bits}),
        (gpu.fold_tiles, common | fold, shape),
    ):
        names = function.arg_names
        values = {(names.index(name),): value for name, value in constants.items()}
        source = ASTSource(function, types | dict.fromkeys(constants, "constexpr"), values)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
