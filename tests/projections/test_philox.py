"""The bits: published vectors, a twin in plain integers, and what the streams promise."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from d90.projections.philox import BLOCK, STREAMS, flip_signs, gaussians, name_block, philox4x32, signs, uniforms, words
from tests.reference import philox as twin

FULL = 0xFFFFFFFF
# Random123 1.09, kat_vectors: philox4x32 with 10 rounds
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SEEDS = [0, 1, 0xFFFFFFFF, 1 << 32, 0x0123456789ABCDEF, (1 << 64) - 1]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_published_vectors(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    got = philox4x32(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(word) for word in got) == expected
    assert twin.philox(counter, key) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_words_equal_the_twin(seed: int) -> None:
    blocks = [0, 1, 7, FULL, 1 << 32, (5 << 32) + 3, (1 << 52) + 9]
    for stream in twin.STREAM:
        got = words(seed, stream, torch.tensor(blocks), 5)
        assert got.tolist() == [list(twin.words(seed, stream, block, 20)) for block in blocks], stream


def test_the_streams_keep_their_numbers() -> None:
    assert {name: STREAMS[name] for name in twin.STREAM} == twin.STREAM
    assert len(set(STREAMS.values())) == len(STREAMS)


@pytest.mark.parametrize("count", [1, 3, 31, 32, 33, 128, 129, 1024])
def test_signs_and_gaussians_equal_the_twin(count: int) -> None:
    blocks = torch.tensor([0, 4, (1 << 32) + 1])
    seed = 77 + (3 << 40)
    assert signs(seed, "fastfood.inner", blocks, count).tolist() == [
        twin.signs(seed, "fastfood.inner", int(b), count) for b in blocks
    ]
    expected = torch.tensor([twin.gaussians(seed, "dense", int(b), count) for b in blocks])
    torch.testing.assert_close(gaussians(seed, "dense", blocks, count), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("count", [1, 5, 32, 100, 1024])
def test_flipping_signs_is_multiplying_by_them(count: int) -> None:
    blocks = torch.arange(3, 12)
    x = torch.randn(9, count)
    x[0, 0] = 0.0
    expected = x * signs(5, "fastfood.outer", blocks, count)
    torch.testing.assert_close(flip_signs(x.clone(), 5, "fastfood.outer", blocks), expected, rtol=0, atol=0)


def test_a_longer_draw_starts_with_the_shorter_one() -> None:
    blocks = torch.arange(4)
    assert torch.equal(words(3, "init", blocks, 9)[:, :12], words(3, "init", blocks, 3))
    assert torch.equal(words(3, "init", blocks, 9)[:, 12:], words(3, "init", blocks, 6, first_group=3))
    assert torch.equal(signs(3, "init", blocks, 300)[:, :77], signs(3, "init", blocks, 77))
    assert torch.equal(gaussians(3, "init", blocks, 300)[:, :77], gaussians(3, "init", blocks, 77))


def test_a_block_does_not_depend_on_its_neighbours() -> None:
    together = gaussians(9, "dense", torch.arange(50), 33)
    for block in (0, 17, 49):
        assert torch.equal(gaussians(9, "dense", torch.tensor([block]), 33)[0], together[block])
    backwards = gaussians(9, "dense", torch.arange(49, -1, -1), 33)
    assert torch.equal(backwards.flip(0), together)


def test_streams_seeds_and_blocks_give_different_words() -> None:
    drawn = {
        (seed, stream, block): tuple(words(seed, stream, torch.tensor([block]), 1)[0].tolist())
        for seed, stream, block in itertools.product(SEEDS, STREAMS, (0, 1, 1 << 32))
    }
    assert len(set(drawn.values())) == len(drawn)


def test_signs_are_fair_and_uncorrelated() -> None:
    x = signs(1, "fastfood.inner", torch.arange(1000), BLOCK).double()
    sigma = 1 / math.sqrt(x.numel())
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    assert abs(x.mean()) < 5 * sigma
    assert (x.mean(0).abs() < 6 / math.sqrt(1000)).all()  # no bit position is stuck
    for lag in (1, 31, 32, 33, 127, 128):
        assert abs((x[:, lag:] * x[:, :-lag]).mean()) < 5 * sigma * 1.1
    assert abs((x[1:] * x[:-1]).mean()) < 5 * sigma * 1.1


def test_gaussians_have_gaussian_moments() -> None:
    x = gaussians(1, "dense", torch.arange(1000), BLOCK).double()
    n = x.numel()
    # variances of x, x^2, x^3, x^4 under the normal law: 1, 2, 15, 96
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - mean) < 5 * math.sqrt(variance / n), power
    within = (x.abs() < 1).double().mean()
    share = math.erf(1 / math.sqrt(2))
    assert abs(within - share) < 5 * math.sqrt(share * (1 - share) / n)
    assert abs((x[:, ::2] * x[:, 1::2]).mean()) < 5 / math.sqrt(n / 2)  # the two of a pair are independent
    assert abs((x[:, ::2] ** 2 * x[:, 1::2] ** 2).mean() - 1) < 5 * math.sqrt(8 / (n / 2))
    assert torch.isfinite(x).all()


def test_the_extreme_words_give_finite_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    import d90.projections.philox as module

    for word in (0, FULL):
        monkeypatch.setattr(module, "words", lambda seed, stream, blocks, groups, w=word: torch.full((1, 4), w))
        x = gaussians(0, "dense", torch.zeros(1, dtype=torch.int64), 4)
        assert torch.isfinite(x).all()
        assert x.abs().max() <= math.sqrt(2 * math.log(2**25)) + 1e-5


def test_names_have_stable_blocks() -> None:
    assert name_block("123456789") == 0xCBF43926  # the published check value of CRC-32
    assert name_block("a.weight") != name_block("a.bias")


def test_uniforms_are_uniform_inside_the_open_interval() -> None:
    drawn = uniforms(5, "init", torch.arange(64), 4096).double()
    assert drawn.min() > 0
    assert drawn.max() < 1
    count = drawn.numel()
    assert abs(drawn.mean() - 0.5) < 5 / (12 * count) ** 0.5
    assert abs(drawn.var() - 1 / 12) < 5 / (180 * count) ** 0.5
    found = words(5, "init", torch.tensor([7]), 2)
    assert torch.equal(drawn[7, :8], (found[0].div(512, rounding_mode="floor") + 0.5).double() / 2**23)
