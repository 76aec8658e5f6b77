"""Every compiled path against the torch one: same bits, weights and gradients, whatever shape, type or thread count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d90.errors import InputError
from d90.projections import Projection, build, dense, kernels
from d90.projections.base import Target
from d90.projections.kernels.build import LIBRARY, SOURCE, compile_kernels, compiler
from d90.projections.philox import STREAMS, gaussians, signs, words
from d90.projections.rounding import HALF_TYPES, round_dithered

PATHS = kernels.available()
SPECS = ("fastfood:sign", "fastfood:gaussian", "onehot:sign", "onehot:one", "dense:sign", "dense:gaussian")
TYPES = (torch.float32, *HALF_TYPES)
HERE = Path(__file__).parent

needs_library = pytest.mark.skipif(not PATHS, reason="d90 was installed without a C compiler")
over_paths = pytest.mark.parametrize("path", PATHS)
over_specs = pytest.mark.parametrize("spec", SPECS)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative distance of whole vectors."""
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


def few(spec: str, n: int, enough: int) -> int:
    """Rows or columns to try: `enough` for dense, whose entries torch draws at some 65 ns each."""
    return min(n, enough) if spec.startswith("dense") else n


def sizes_for(spec: str, d: int) -> tuple[int, ...]:
    """Tensors smaller than a block, empty, 0-dimensional (one number), ragged, whole."""
    return (few(spec, d, 1030), 1, 0, 700, 1024, few(spec, 3 * d + 7, 1030), few(spec, 66_001, 2057))


def write(
    p: Projection, z: torch.Tensor, bases: Sequence[torch.Tensor], dtype: torch.dtype, factor: float = 0.3
) -> list[torch.Tensor]:
    outs = [torch.full(base.shape, 7.0, dtype=dtype) for base in bases]
    p.write([Target(i, base, factor, z, out) for i, (base, out) in enumerate(zip(bases, outs, strict=True))])
    return outs


# --- against torch ----------------------------------------------------------------------------------------------------


@over_paths
def test_integer_draws_are_bit_equal(path: str) -> None:
    blocks = torch.tensor([0, 1, 77, (1 << 31) + 5, (1 << 32) - 1, (1 << 33) + 7])
    for seed in (0, 12345678901234, (1 << 64) - 1):
        for stream in ("fastfood.inner", "dense", "dither"):
            for groups in (1, 2, 3, 8, 15, 17, 37):
                for rows in (1, 2, 9):  # consecutive blocks in one draw
                    drawn = kernels.words(path, seed, STREAMS[stream], blocks, groups, rows)
                    every = (blocks[:, None] + torch.arange(rows)).reshape(-1)
                    assert torch.equal(drawn, words(seed, stream, every, groups))


@needs_library
@over_specs
@pytest.mark.parametrize("d", [1, 2, 5, 100, 1000, 1024, 1500, 5000])
def test_every_path_gives_torchs_weights_and_gradients(spec: str, d: int) -> None:
    d = few(spec, d, 2100)
    p = build(spec, d, sizes_for(spec, d), seed=(5 << 32) + 3)
    theta, g = torch.randn(d), torch.randn(p.D)
    with kernels.forced("torch"):
        forward, adjoint = p.forward(theta), p.adjoint(g)
    for path in PATHS:
        with kernels.forced(path):
            assert far(p.forward(theta), forward) <= 1e-6
            assert far(p.adjoint(g), adjoint) <= 1e-6


@needs_library
@over_specs
@pytest.mark.parametrize("d", [5, 200, 1500])
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_half_precision_gradients(spec: str, d: int, dtype: torch.dtype) -> None:
    p = build(spec, d, few(spec, 70_001, 2050), seed=2)
    g = torch.randn(p.D).to(dtype)
    expected, found = p.new_z_gradient(), p.new_z_gradient()
    with kernels.forced("torch"):
        p.fold_segment(g, 0, expected)
    for path in PATHS:
        with kernels.forced(path):
            p.fold_segment(g, 0, found.zero_())
        assert far(found, expected) <= 1e-6


@over_paths
@over_specs
@pytest.mark.parametrize("d", [5, 100, 1500])
def test_half_precision_weights_are_the_dithered_fp32_ones(path: str, spec: str, d: int) -> None:
    """For every pair of types: the bits of `round_dithered` of what the same path gives in fp32."""
    p = build(spec, d, sizes := sizes_for(spec, d), seed=9)
    z = p.prepare(torch.randn(d))
    awkward = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 65504, 65519, -65520, 3.4e38, -3.4e38, 1e-45]
    awkward += [sign * 2.0**-k * t for k in (14, 24, 25, 126, 133) for t in (1, 1.5) for sign in (1, -1)]
    for base_type in TYPES:
        for dtype in HALF_TYPES:
            reach = (-44.0, 38.0) if dtype == torch.bfloat16 else (-9.0, 5.0)
            bases = [(torch.randn(n) * 10 ** torch.empty(n).uniform_(*reach)).to(base_type) for n in sizes]
            bases[-1][: len(awkward)] = torch.tensor(awkward).to(base_type)
            for factor in (0.0, 0.37):
                with kernels.forced(path):
                    exact = write(p, z, bases, torch.float32, factor)
                    halves = write(p, z, bases, dtype, factor)
                for x, half, first in zip(exact, halves, p.dither_blocks, strict=True):
                    expected = round_dithered(x, dtype, p.seed, first)
                    number = ~torch.isnan(x)
                    assert torch.equal(torch.isnan(half), ~number)
                    assert torch.equal(half.view(torch.int16)[number], expected.view(torch.int16)[number])


@needs_library
@over_specs
@pytest.mark.parametrize("d", [5, 300, 1024, 5000])
def test_sparse_rows_are_the_dense_gradient(spec: str, d: int) -> None:
    rows, width = few(spec, 500, 40), 137
    d = few(spec, d, 1100)
    p = build(spec, d, (few(spec, 4000, 77), rows * width, few(spec, 5000, 3)), seed=8)
    which = torch.randint(rows, (60,))  # some twice, in no order
    which[:2] = torch.tensor([rows - 1, 0])
    values = torch.randn(60, width)
    whole = torch.zeros(rows, width).index_add_(0, which, values)
    expected, found = p.new_z_gradient(), p.new_z_gradient()
    with kernels.forced("torch"):
        p.fold_segment(whole.view(-1), 1, expected)
    for path in ("torch", *PATHS):
        with kernels.forced(path):
            p.fold_sparse(which, values, (rows, width), 1, found.zero_())
            assert far(found, expected) <= 1e-6
            before = found.clone()
            p.fold_sparse(which[:0], values[:0], (rows, width), 1, found)
            assert torch.equal(found, before)
            for bad in (
                (which, values, (rows, width + 1)),
                (which + 1, values, (rows, width)),
                (which, values[:9], (rows, width)),
            ):
                with pytest.raises(InputError):
                    p.fold_sparse(*bad, 1, found)


@needs_library
@pytest.mark.parametrize(
    ("d", "n"),
    [(1000, 300_001), (2000, 300_001), (3000, 700_500), (6000, 1_300_000), (9000, 2_310_007), (70_000, 75_000)],
)
def test_large_gradients_however_they_are_cut(d: int, n: int) -> None:
    """One chunk or many, in one strip or several, the last round of chunks full or not."""
    p = build("fastfood", d, (5000, n, d), seed=2)
    g, expected = torch.randn(n), p.new_z_gradient()
    with kernels.forced("torch"):
        p.fold_segment(g, 1, expected)
    for path in PATHS:
        with kernels.forced(path):
            seen = []
            for threads in (1, 3):
                torch.set_num_threads(threads)
                p.fold_segment(g, 1, found := p.new_z_gradient())
                assert far(found, expected) <= 1e-6
                seen.append(found)
            assert torch.equal(*seen)


@needs_library
@settings(max_examples=150, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    d=st.integers(1, 2100),
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=6),
    path=st.sampled_from(PATHS or ("torch",)),
    dtype=st.sampled_from(TYPES),
    seed=st.integers(0, (1 << 64) - 1),
)
def test_any_shape(spec: str, d: int, sizes: list[int], path: str, dtype: torch.dtype, seed: int) -> None:
    sizes = [few(spec, size, size % 300) for size in sizes]
    d = min(d, max(1, sum(sizes)))
    p = build(spec, d, [*sizes, 1], seed)
    z, bases = p.prepare(torch.randn(d)), [torch.randn(n).to(dtype) for n in p.sizes]
    g = [torch.randn(n).to(dtype) for n in p.sizes]
    results = []
    for each in ("torch", path):
        gradient = p.new_z_gradient()
        with kernels.forced(each):
            weights = torch.cat(write(p, z, bases, torch.float32))
            for i, part in enumerate(g):
                p.fold_segment(part, i, gradient)
        results.append((weights, gradient))
    # sums may cancel here: measured against |base| and against |g| times the norm of P's columns in z-space
    added = float(torch.cat(bases).double().norm() + results[0][0].double().norm())
    assert float((results[1][0] - results[0][0]).double().norm()) <= 1e-6 * added
    reach = (2 * d / p.D) ** 0.5 * float(torch.cat(g).double().norm())
    assert float((results[1][1] - results[0][1]).norm()) <= 2e-6 * reach


@over_paths
@pytest.mark.parametrize(("d", "sizes"), [(5, (70, 3)), (300, (299, 0, 2)), (1030, (1024, 41))])
def test_dense_entries_are_philoxs(path: str, d: int, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of P: the signs of philox.py, its Gaussians to rounding, whether kept in memory or not."""
    seed, rows, columns = (7 << 40) + 1, torch.arange(sum(sizes)), torch.linspace(0, d - 1, 9).long()
    for entries, draw in (("sign", signs), ("gaussian", gaussians)):
        seen = []
        for cache in (0, dense.CACHE_BYTES):
            monkeypatch.setattr(dense, "CACHE_BYTES", cache)
            p = build(f"dense:{entries}", d, sizes, seed)
            with kernels.forced(path):
                seen.append(torch.stack([p.forward(column) for column in torch.eye(d)[columns]], dim=1))
        expected = draw(seed, "dense", rows, d)[:, columns] / sum(sizes) ** 0.5
        assert torch.equal(seen[0].sign(), expected.sign())
        assert far(seen[0], expected) <= 1e-6
        torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-3 / sum(sizes) ** 0.5)
        assert torch.equal(seen[0], seen[1])


# --- bit-equality within a path ---------------------------------------------------------------------------------------


@over_paths
@over_specs
@pytest.mark.parametrize("d", [100, 1000, 5000])
def test_thread_count_and_order_do_not_show(path: str, spec: str, d: int) -> None:
    height, d = few(spec, 4096, 32), few(spec, d, 1100)
    sizes = (few(spec, 300_001, 3001), 40, few(spec, 7000, 700), height * 256)
    p = build(spec, d, sizes, seed=3)
    z, bases, g = p.prepare(torch.randn(d)), [torch.randn(n) for n in sizes], torch.randn(sizes[-1])
    rows = torch.arange(0, height, 3)
    values = torch.randn(len(rows), 256)
    seen = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        with kernels.forced(path):
            outs = write(p, z, bases, torch.float32)
            again = [torch.empty_like(b) for b in bases]
            for group in ([2, 0], [3], [1]):
                p.write([Target(i, bases[i], 0.3, z, again[i]) for i in group])
            whole, sparse = p.new_z_gradient(), p.new_z_gradient()
            p.fold_segment(g, 3, whole)
            p.fold_sparse(rows, values, (height, 256), 3, sparse)
        assert all(torch.equal(a, b) for a, b in zip(outs, again, strict=True))
        seen.append([*outs, whole, sparse])
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, seen[0], strict=True))


@over_paths
@over_specs
@pytest.mark.parametrize("d", [10, 200, 1000])
@pytest.mark.parametrize("stream_bytes", [0, 1 << 40])
def test_writing_in_place_and_past_the_caches(
    path: str, spec: str, d: int, stream_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`out` may be `base`, need not be aligned, nothing outside it is touched, and streamed stores change nothing."""
    monkeypatch.setattr(kernels, "STREAM_BYTES", stream_bytes)
    n = 5000
    p = build(spec, d, n, seed=3)
    z, base = p.prepare(torch.randn(d)), torch.randn(n)
    with kernels.forced(path):
        (expected,) = write(p, z, [base], torch.float32)
        for shift in (0, 1, 16):
            room = torch.full((n + 64,), 5.0)
            out = room[shift : shift + n]
            p.write([Target(0, base, 0.3, z, out)])
            assert torch.equal(out, expected)
            out.copy_(base)
            p.write([Target(0, out, 0.3, z, out)])
            assert torch.equal(out, expected)
            assert bool((room[:shift] == 5).all() and (room[shift + n :] == 5).all())
        for dtype in HALF_TYPES:
            half = base.to(dtype)
            (apart,) = write(p, z, [half], dtype)
            p.write([Target(0, half, 0.3, z, half)])
            assert torch.equal(half, apart)


@over_specs
def test_what_a_kernel_does_not_take_goes_to_torch(spec: str) -> None:
    p = build(spec, 100, (3000, 2000), seed=1)
    theta, bases = torch.randn(100), [torch.randn(3000, dtype=torch.float64), torch.randn(2000)]
    spaced = torch.randn(6000)[::2]
    wide = [torch.empty(3000, dtype=torch.float64), torch.empty(2000)]
    z = p.prepare(theta)
    p.write([Target(i, bases[i], 0.3, z, wide[i]) for i in (0, 1)])
    with kernels.forced("torch"):
        delta = p.forward(theta)
        expected = p.new_z_gradient()
        p.fold_segment(spaced.contiguous(), 0, expected)
    assert far(torch.cat(wide), torch.cat(bases) + 0.3 * delta) <= 1e-6
    fresh, found = build(spec, 100, (3000, 2000), seed=1), p.new_z_gradient()
    fresh.fold_segment(spaced, 0, found)
    fresh.write([Target(0, bases[0], 0.3, z, wide[0])])
    assert far(found, expected) <= 1e-6
    assert not fresh.kernel.headers  # nothing is made, or kept in memory, for what torch does


@needs_library
@over_specs
def test_a_wrong_length_or_type_is_refused(spec: str) -> None:
    """Nothing may reach the C code that would make it read or write beyond the end of a tensor."""
    p = build(spec, 100, 3000, seed=1)
    z, base, g = p.prepare(torch.randn(100)), torch.randn(3000), torch.randn(3000)
    longer = torch.randn(3001)
    for bad in ((z[:-1], base, base.clone()), (z, base[:-1], base.clone()), (z, longer, longer), (z, g[:9], g[:9])):
        with pytest.raises(InputError):
            p.write([Target(0, bad[1], 0.3, bad[0], bad[2])])
    for gradient in (p.new_z_gradient()[:-1], p.new_z_gradient().float()):
        with pytest.raises(InputError):
            p.fold_segment(g, 0, gradient)
    for gradient in (longer, g[:-1]):
        with pytest.raises(InputError):
            p.fold_segment(gradient, 0, p.new_z_gradient())


# --- what is fixed for good -------------------------------------------------------------------------------------------


def test_the_draws_are_those_of_version_1() -> None:
    """golden.json was made once; a difference means that every saved tune would load other weights."""
    for case in json.loads((HERE / "golden.json").read_text()):
        spec, d, sizes, seed = case["projection"], case["d"], case["sizes"], case["seed"]
        assert build(spec, d, sizes, seed).checksum() == case["checksum"], case


# --- choosing a path, building ----------------------------------------------------------------------------------------


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


@needs_library
def test_the_environment_forces_a_path_and_one_line_says_so() -> None:
    code = """
import logging, os
logging.basicConfig(level=logging.INFO, format="%(message)s")
import torch
from d90.projections import build
for _ in range(2):
    build("fastfood", 5, 100).forward(torch.ones(5))
loaded = {os.path.realpath(line.split()[-1]) for line in open("/proc/self/maps") if "/" in line}
pools = {file for file in loaded if os.path.basename(file).startswith(("libgomp", "libomp", "libiomp"))}
assert len(pools) == 1, pools  # one OpenMP runtime, torch's
"""
    for path in ("torch", PATHS[0]):
        ran = python(code, D90_KERNEL=path)
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.strip() == f"projections run on the {path} path"
    assert "InputError: got D90_KERNEL=fast, expected one of torch, portable" in python(code, D90_KERNEL="fast").stderr


def test_without_a_compiler_the_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nonexistent")
    problem = compile_kernels(tmp_path)
    assert problem is not None
    assert "/nonexistent" in problem
    monkeypatch.setenv("CC", "false")
    assert "failed" in str(compile_kernels(tmp_path))
    assert not list(tmp_path.iterdir())


def test_without_a_library_torch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    p = build("fastfood", 100, 3000, seed=1)
    theta = torch.randn(100)
    with kernels.forced("torch"):
        expected = p.forward(theta)
    monkeypatch.setattr(kernels, "LIBRARY", "nowhere.so")
    kernels.reset()
    try:
        monkeypatch.setenv("D90_KERNEL", "avx512")
        with pytest.raises(InputError, match="no compiled library"):
            kernels.active()
        monkeypatch.delenv("D90_KERNEL")
        assert kernels.active() == "torch"
        assert torch.equal(p.forward(theta), expected)
    finally:
        monkeypatch.undo()
        kernels.reset()


@needs_library
def test_a_library_older_than_its_source_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "source_crc", lambda: 7)
    with pytest.raises(OSError, match="older than its source"):
        kernels.Library(SOURCE.with_name(LIBRARY))


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="needs a C compiler")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(sanitizer: str, tmp_path: Path) -> None:
    program = tmp_path / "sanitize"
    flags = ["-O1", "-g", "-std=gnu11", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f"-I{SOURCE.parent}"]
    command = [*(compiler() or []), *flags, str(HERE / "sanitize.c"), "-o", str(program), "-lm", "-lpthread"]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this compiler has no {sanitizer} sanitizer")
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=900)
    assert (ran.returncode, ran.stdout) == (0, "clean\n"), ran.stderr[:2000]
