"""Dithered rounding to half precision."""

from __future__ import annotations

import math

import pytest
import torch

from d90.projections.rounding import HALF_TYPES, round_dithered
from tests.reference.philox import words

DTYPES = list(HALF_TYPES)
N = 1 << 21


def spacing(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Distance of the half-precision numbers around |x|, from the type's own limits."""
    limits = torch.finfo(dtype)
    exponent = torch.floor(torch.log2(x.abs().double().clamp_min(limits.tiny)))
    return limits.eps * 2.0**exponent


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_type_can_hold_is_left_alone(dtype: torch.dtype) -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    held = every[torch.isfinite(every)]
    for block in (0, 5):
        assert torch.equal(round_dithered(held.float(), dtype, 3, block), held)
    special = torch.tensor([float("inf"), float("-inf"), float("nan")])
    out = round_dithered(special, dtype, 0, 0)
    assert out[0] == float("inf")
    assert out[1] == float("-inf")
    assert out[2].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_is_one_of_the_two_neighbours_by_the_dither(dtype: torch.dtype) -> None:
    x = torch.randn(3000) * 10 ** torch.empty(3000).uniform_(-6, 3)
    got = round_dithered(x, dtype, 11, 2).double()
    q = spacing(x, dtype)
    below = torch.floor(x.double() / q) * q
    fraction = (x.double() - below) / q
    drawn = [word for block in (2, 3, 4) for word in words(11, "dither", block, 512)]
    u = torch.tensor([half for word in drawn for half in (word & 0xFFFF, word >> 16)][:3000]).double()
    u = (u + 0.5) / 2**16
    expected = torch.where(u + fraction >= 1, below + q, below)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_rounding_is_right_in_the_mean(dtype: torch.dtype) -> None:
    x = torch.full((N,), 1.2345678)
    error = round_dithered(x, dtype, 0, 0).double() - x.double()
    q = float(spacing(x[:1], dtype))
    assert error.abs().max() < q
    assert abs(error.mean()) < q * (5 / math.sqrt(4 * N) + 2**-17)  # p (1 - p) <= 1/4; u has 16 bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-2])
def test_small_updates_survive(dtype: torch.dtype, size: float) -> None:
    base = torch.randn(N).to(dtype)
    update = base.float().abs() * torch.randn(N) * size
    written = round_dithered(base.float() + update, dtype, 0, 0).double() - base.double()
    update = update.double()
    # the noise of a weight: spacing times sqrt(p (1 - p)), p the fraction of a spacing that is to be rounded
    q = spacing(base.float(), dtype)
    p = (update.abs() / q).frac()
    sigma = ((update**2 * q**2 * p * (1 - p)).sum().sqrt() / (update**2).sum()).item()
    kept = ((written * update).sum() / (update**2).sum()).item()
    assert sigma < 0.015
    assert kept >= 0.99 - 2 * sigma
    assert abs(kept - 1) < 4 * sigma + 1e-3
    plain = (base.float() + update.float()).to(dtype).double() - base.double()
    if dtype == torch.bfloat16 and size == 1e-4:
        assert (plain * update).sum() / (update**2).sum() < 0.2  # what plain rounding would have kept


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_part_can_be_rounded_alone(dtype: torch.dtype) -> None:
    x = torch.randn(5000)
    whole = round_dithered(x, dtype, 9, 40)
    assert torch.equal(whole[2048:], round_dithered(x[2048:], dtype, 9, 42))
    assert torch.equal(whole[:100], round_dithered(x[:100], dtype, 9, 40))
    assert torch.equal(whole, round_dithered(x, dtype, 9, 40))
    assert not torch.equal(whole, round_dithered(x, dtype, 10, 40))
