"""The contract of a projection, over one table: dot test, scale, twins, determinism, memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from d90.errors import InputError
from d90.projections import PROJECTIONS, Projection, base, build, dense, kernels, sparse
from tests.reference.dense import matrix
from tests.reference.states import tensors_in
from tests.reference.table import CASES, IDS, SHAPES, SPECS, Sizes, suited

over_the_table = pytest.mark.parametrize(("spec", "d", "sizes"), CASES, ids=IDS)
over_names = pytest.mark.parametrize("spec", SPECS)
SMALL = (20, SHAPES["ragged, small segments"][1])


@pytest.fixture(params=["as chosen", "torch"])
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    """On the compiled kernel where there is one, and on torch; sparse on torch alone."""
    if request.param == "as chosen":
        yield
        return
    if str(request.node.callspec.params.get("spec", "fastfood")).startswith(("sparse", "kronecker")):
        pytest.skip("one path only")
    with kernels.forced("torch"):
        yield


def close(a: torch.Tensor, b: torch.Tensor, rtol: float = 2e-6) -> bool:
    """Equal up to fp32 rounding, measured against the whole vector."""
    a, b = a.double(), b.double()
    return bool((a - b).norm() <= rtol * b.norm() + 1e-30)


# --- exact properties -------------------------------------------------------------------------------------------------


@over_the_table
def test_dot(spec: str, d: int, sizes: Sizes, path: None) -> None:
    """<P x, y> = <x, P^T y>, also for constant and repeated inputs, and when asked twice."""
    p = build(spec, d, sizes, seed=4)
    ones, last = torch.ones(p.D), torch.zeros(p.D)
    last[-1] = 1
    repeated = torch.randn(d)[torch.randint(d, (d,))]
    for x in (torch.randn(d), torch.ones(d), repeated):
        for y in (torch.randn(p.D), ones, last):
            for _ in range(2):
                px, pty = p.forward(x).double(), p.adjoint(y).double()
                tolerance = 2e-6 * max(px.norm() * y.norm(), x.norm() * pty.norm())
                assert abs(px @ y.double() - x.double() @ pty) <= tolerance


@over_the_table
def test_a_projection_equals_its_explicit_matrix(spec: str, d: int, sizes: Sizes, path: None) -> None:
    """Against matrices built from the equations and plain-Python Philox."""
    p = build(spec, d, sizes, seed=(2 << 32) + 5)
    twin = torch.from_numpy(matrix(spec, d, sizes, (2 << 32) + 5))
    x, y = torch.randn(d), torch.randn(p.D)
    assert close(p.forward(x), twin @ x.double())
    assert close(p.adjoint(y), twin.T @ y.double())
    if d <= 100:
        assert p.dense().shape == (p.D, d)
        assert close(p.dense(), twin)


@over_the_table
def test_a_projection_is_linear(spec: str, d: int, sizes: Sizes, path: None) -> None:
    p = build(spec, d, sizes, seed=1)
    for apply, n in ((p.forward, d), (p.adjoint, p.D)):
        u, v = torch.randn(n), torch.randn(n)
        assert close(apply(2.5 * u - 0.3 * v), 2.5 * apply(u) - 0.3 * apply(v), rtol=5e-6)
        assert not apply(torch.zeros(n)).any()


@over_the_table
def test_same_seed_same_map(spec: str, d: int, sizes: Sizes) -> None:
    p = build(spec, d, sizes, seed=6)
    x, y = torch.randn(d), torch.randn(p.D)
    state = torch.get_rng_state()
    forward, adjoint, checksum = p.forward(x), p.adjoint(y), p.checksum()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = build(spec, d, sizes, seed=6)
    assert torch.equal(again.forward(x), forward)
    assert torch.equal(again.adjoint(y), adjoint)
    assert again.checksum() == checksum == p.checksum()
    assert len(checksum) == 16
    assert int(checksum, 16) >= 0
    for seed in (7, 6 + (1 << 32)):
        other = build(spec, d, sizes, seed=seed)
        assert other.checksum() != checksum
        if spec != "onehot:one" or d > 1:  # its only matrix at d = 1 is the constant one
            assert not torch.equal(other.forward(x), forward) or p.D <= 9


def test_every_variant_has_its_own_checksum() -> None:
    seen = {build(spec, suited(spec, d), sizes).checksum() for spec in SPECS for d, sizes in SHAPES.values()}
    assert len(seen) == len(SPECS) * len(SHAPES)
    assert build("fastfood", 5, (30, 40)).checksum() != build("fastfood", 5, (40, 30)).checksum()


@over_names
def test_threads_do_not_show(spec: str, path: None) -> None:
    d, sizes = 16, (150_001, 40, 99_000)
    x, y = torch.randn(d), torch.randn(sum(sizes))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        p = build(spec, d, sizes, seed=3)
        results.append((p.forward(x), p.adjoint(y)))
    for forward, adjoint in results[1:]:
        if spec.startswith("dense") and kernels.active() == "torch":  # BLAS cuts its sums by the number of threads
            assert close(forward, results[0][0], rtol=1e-6)
            assert close(adjoint, results[0][1], rtol=1e-5)
        else:
            assert torch.equal(forward, results[0][0])
            assert torch.equal(adjoint, results[0][1])


@over_names
@pytest.mark.parametrize("chunk", [1024, 4096])
def test_chunks_do_not_show(spec: str, chunk: int, monkeypatch: pytest.MonkeyPatch, path: None) -> None:
    d, sizes = suited(spec, 40 if spec.startswith("dense") else 1100), (5000, 3, 2048, 1500)
    x, y = torch.randn(d), torch.randn(sum(sizes))
    whole = build(spec, d, sizes, seed=3)
    expected = whole.forward(x), whole.adjoint(y)
    monkeypatch.setattr(base, "CHUNK", chunk)
    p = build(spec, d, sizes, seed=3)
    assert close(p.forward(x), expected[0], rtol=1e-6)
    assert close(p.adjoint(y), expected[1], rtol=1e-6)


@pytest.mark.parametrize("spec", ["dense:gaussian", "dense:sign", "sparse:sign"])
def test_drawing_again_equals_the_cache(spec: str, monkeypatch: pytest.MonkeyPatch, path: None) -> None:
    d, sizes = 30, (5000, 3, 2048)
    x, y = torch.randn(d), torch.randn(sum(sizes))
    kept = build(spec, d, sizes, seed=3)
    for module, at_once in ((dense, 7000), (sparse, 100)):
        monkeypatch.setattr(module, "CACHE_BYTES", 0)
        monkeypatch.setattr(module, "ENTRIES_AT_ONCE", at_once)
    redrawn = build(spec, d, sizes, seed=3)
    forward, adjoint = redrawn.forward(x), redrawn.adjoint(y)
    assert close(forward, kept.forward(x), rtol=1e-6)
    assert close(adjoint, kept.adjoint(y), rtol=1e-6)
    assert sum(tensor.numel() for tensor in tensors_in(redrawn)) < sum(sizes), "nothing of size d D is kept"
    if spec.startswith("dense") and kernels.active() != "torch":
        assert torch.equal(forward, kept.forward(x))
        assert torch.equal(adjoint, kept.adjoint(y))
        whole = sum(tensor.numel() for tensor in tensors_in(kept)) >= d * sum(sizes)
        assert whole == (spec == "dense:gaussian"), "signs are never kept"


@over_names
def test_results_are_plain_fp32(spec: str) -> None:
    """No autograd graph, no autocast, and inputs of any floating type are left as they were."""
    p = build(spec, suited(spec, SMALL[0]), SMALL[1])
    x = torch.randn(p.d, requires_grad=True)
    expected = p.forward(x)
    assert expected.dtype == torch.float32
    assert not expected.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(p.forward(x), expected)
    y = torch.randn(p.D)
    before = x.detach().clone(), y.clone()
    expected = p.adjoint(y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(p.adjoint(y), expected)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    half = y.to(torch.bfloat16)
    assert close(p.adjoint(half), p.adjoint(half.float()), rtol=1e-6)
    assert close(p.adjoint(torch.stack((y, y), 1)[:, 0]), expected, rtol=1e-6)  # not contiguous


@over_names
@pytest.mark.parametrize("chunk", [1024, 1 << 20])
@pytest.mark.parametrize("width", [1, 7, 40])
def test_gradients_of_few_rows_fold_like_whole_ones(
    spec: str, width: int, chunk: int, monkeypatch: pytest.MonkeyPatch, path: None
) -> None:
    """As embeddings give them: rows in any order, also repeated; the rest is zero."""
    monkeypatch.setattr(base, "CHUNK", chunk)
    height = 5000 // width
    p = build(spec, suited(spec, 33), (700, height * width, 90), seed=3)
    for rows in ([0, 1, height - 1], [height - 2], [5, 3, 17, 3, 3], list(range(height)), []):
        index, values = torch.tensor(rows, dtype=torch.int64), torch.randn(len(rows), width)
        whole = torch.zeros(height, width).index_add_(0, index, values)
        expected, got = p.new_z_gradient(), p.new_z_gradient()
        p.fold_segment(whole.reshape(-1), 1, expected)
        p.fold_sparse(index, values, (height, width), 1, got)
        assert close(got, expected)
    for wrong in ([height], [-1, 0]):
        with pytest.raises(InputError, match="expected 0"):
            p.fold_sparse(torch.tensor(wrong), torch.zeros(len(wrong), width), (height, width), 1, got)
    with pytest.raises(InputError, match="expected rows of a segment"):
        p.fold_sparse(torch.tensor([0]), torch.zeros(1, width), (height + 1, width), 1, got)


# --- scale and structure ----------------------------------------------------------------------------------------------


@over_names
@pytest.mark.parametrize("shape", ["d = D", "whole blocks", "ragged, small segments"])
def test_columns_have_unit_norm_in_the_mean(spec: str, shape: str) -> None:
    """E |P e_j|^2 = 1 for the columns together and for each; E <P e_i, P e_j> = 0. Tolerances from their spread."""
    d, sizes = suited(spec, SHAPES[shape][0]), SHAPES[shape][1]
    seeds = 32
    grams = []
    for seed in range(seeds):
        p = build(spec, d, sizes, seed=seed).dense().double()
        grams.append(p.T @ p)
    gram = torch.stack(grams)
    norms = gram.diagonal(dim1=1, dim2=2)
    each = norms.mean(1)
    assert abs(each.mean() - 1) < 5 * each.std() / math.sqrt(seeds) + 1e-5
    spread = norms.std() / math.sqrt(seeds)
    assert ((norms.mean(0) - 1).abs() < 6 * spread + 1e-5).all()
    apart = ~torch.eye(d, dtype=torch.bool)
    between = gram[:, apart]
    assert abs(between.mean()) < 6 * between.std() / math.sqrt(seeds) + 1e-5
    assert (between.mean(0).abs() < 8 * between.std() / math.sqrt(seeds) + 1e-5).all()


@pytest.mark.parametrize(
    ("d", "sizes"), [(1, (5, 3)), (16, (64, 32)), (9, (160, 16, 48)), (1024, (2048, 1024)), (1500, (2048, 4096))]
)
def test_fastfood_signs_are_orthogonal_on_whole_blocks(d: int, sizes: Sizes, path: None) -> None:
    """P^T P = I where no block is cut and every chunk of z is met equally often."""
    p = build("fastfood:sign", d, sizes, seed=8)
    for x in (*torch.randn(5, d), torch.eye(d)[0], torch.eye(d)[-1], torch.ones(d)):
        assert close(p.adjoint(p.forward(x)), x)


@pytest.mark.parametrize("entries", ["sign", "one"])
@pytest.mark.parametrize(
    ("d", "sizes"), [*(shape for shape in SHAPES.values() if shape[0] < 500), (7, (30, 5)), (200, (3007,))]
)
def test_onehot_is_orthogonal_and_balanced(entries: str, d: int, sizes: tuple[int, ...]) -> None:
    p = build(f"onehot:{entries}", d, sizes, seed=2).dense().double()
    torch.testing.assert_close(p.T @ p, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-6)
    assert ((p != 0).sum(1) == 1).all()
    counts = (p != 0).sum(0)
    assert counts.max() - counts.min() <= 1
    if entries == "one":
        assert (p >= 0).all()
    elif p.shape[0] >= 60:
        assert (p < 0).any()
        assert (p > 0).any()


def test_onehot_signs_false_is_entries_one() -> None:
    onehot = PROJECTIONS["onehot"]
    x = torch.randn(5)
    assert torch.equal(onehot(5, 40, 1, signs=False).forward(x), onehot(5, 40, 1, "one").forward(x))  # type: ignore[call-arg]
    with pytest.raises(InputError, match="contradict"):
        onehot(5, 40, 1, "sign", signs=False)  # type: ignore[call-arg]


def test_onehot_neighbours_do_not_repeat() -> None:
    """The turns differ from one run of d rows to the next, so a matrix's rows do not share one pattern."""
    d = 37
    columns = build("onehot:one", d, (d * 20,), seed=0).dense().argmax(1).reshape(20, d)
    assert len({tuple(row.tolist()) for row in columns}) == 20


def test_kronecker_is_two_sign_matrices_about_theta() -> None:
    """Delta W = B Theta A^T / sqrt(D) in every tensor, of one Theta; a d that is no square is refused."""
    p = PROJECTIONS["kronecker"](9, [(40, 30), (50,), (2, 3, 4)], 1)  # type: ignore[list-item]
    theta = torch.randn(9)
    parts = p.forward(theta).split(p.sizes)
    for segment, (n, width) in enumerate(((40, 30), (50, 1), (2, 12))):
        b, a = p.factors(segment, theta.device)  # type: ignore[attr-defined]
        assert (b.shape, a.shape) == ((n, 3), (width, 3))
        assert bool((b.abs() == 1).all() and (a.abs() == 1).all())
        assert close(parts[segment], (b @ theta.view(3, 3) @ a.T / math.sqrt(p.D)).reshape(-1))
    assert torch.linalg.matrix_rank(parts[0].view(40, 30)) == 3
    for d, near in ((10, "9 or 16"), (2, "1 or 4"), (15, "9 or 16")):
        with pytest.raises(InputError, match=rf"got {d} coordinates .*expected a square such as {near}"):
            build("kronecker", d, 100)
    assert [PROJECTIONS["kronecker"].nearest(d) for d in (1, 2, 3, 12, 13, 200, 1000)] == [1, 1, 4, 9, 16, 196, 1024]


def test_sparse_has_its_density() -> None:
    d, size = 50, 40_000
    p = build("sparse", d, (size,), seed=0).dense()
    expected = d * math.sqrt(size)
    nonzero = int((p != 0).sum())
    # two entries on one place: about density / 2 of them; the count in a block is rounded at random
    assert abs(nonzero - expected) < expected / (2 * math.sqrt(size)) * 1.5 + 5 * math.sqrt(size / 1024 / 4)
    values = p[p != 0].abs()
    assert values.min() >= size**-0.25 * 0.999
    per_column = (p != 0).sum(0).double()
    assert (abs(per_column - math.sqrt(size)) < 6 * size**0.25).all()
    assert abs(p.sign().sum()) < 5 * math.sqrt(expected)


# --- errors and memory ------------------------------------------------------------------------------------------------


@over_names
def test_errors(spec: str) -> None:
    with pytest.raises(InputError, match=r"d=0.*at least 1"):
        build(spec, 0, (10,))
    with pytest.raises(InputError, match=r"d=11, above D=10"):
        build(spec, 11, (4, 6))
    for seed in (-1, 1 << 64):
        with pytest.raises(InputError, match="64-bit"):
            build(spec, 2, (10,), seed=seed)
    p = build(spec, 4, (10,))
    with pytest.raises(InputError, match=r"theta of shape \(5,\), expected \(4,\)"):
        p.forward(torch.zeros(5))
    with pytest.raises(InputError, match=r"g of shape \(10, 1\), expected \(10,\)"):
        p.adjoint(torch.zeros(10, 1))
    with pytest.raises(InputError, match=r"got entries='cosine', expected '(sign|gaussian)'"):
        build(spec.partition(":")[0] + ":cosine", 3, (10,))
    assert repr(p).startswith(type(p).__name__)


def test_an_unknown_name_gets_a_guess() -> None:
    with pytest.raises(InputError, match=r"unknown projection 'fastfod'.*expected one of.*Did you mean 'fastfood'"):
        build("fastfod", 3, (10,))


def test_an_int_is_one_segment() -> None:
    x = torch.randn(3)
    assert torch.equal(build("fastfood", 3, 100).forward(x), build("fastfood", 3, (100,)).forward(x))


def test_a_projection_is_five_short_methods() -> None:
    """A variant is small: nothing of the shared work stands twice."""
    for kind in PROJECTIONS.values():
        assert issubclass(kind, Projection)
        assert "forward" not in vars(kind)
        assert "adjoint" not in vars(kind)
