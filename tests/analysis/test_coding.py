"""The coder: exact round trips, the length it promises, and damaged payloads refused."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d90.analysis.coding import MODELS, Coded, Quantised, decode, encode, kmeans, omega_bits, shared, uniform
from d90.errors import InputError

settings.register_profile("coding", max_examples=150, deadline=None)
NUMBERS = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=200)


def normal(d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


def same(a: Quantised, b: Quantised) -> bool:
    equal = torch.equal(a.symbols, b.symbols) and torch.equal(a.values.view(torch.int32), b.values.view(torch.int32))
    return equal and (a.kind, a.step, a.first) == (b.kind, b.step, b.first)


def check(quantised: Quantised, model: str) -> Coded:
    coded = encode(quantised, model)  # type: ignore[arg-type]
    assert same(decode(coded.payload), quantised)
    assert torch.equal(decode(coded.payload).vector(), quantised.vector())
    assert len(coded.payload) == math.ceil(coded.bits / 8) + 4, "the bits counted are the bits written"
    return coded


@settings(settings.get_profile("coding"))
@given(NUMBERS, st.sampled_from([0.03, 0.5, 7.0]), st.sampled_from([*MODELS, "best"]))
def test_a_grid_comes_back_exactly(numbers: list[float], step: float, model: str) -> None:
    quantised = uniform(torch.tensor(numbers), step)
    check(quantised, model)
    assert (quantised.vector() - torch.tensor(numbers)).abs().max() <= 0.5 * step * (1 + 1e-5) + 1e-5


@settings(settings.get_profile("coding"))
@given(NUMBERS, st.integers(1, 20), st.sampled_from(["bf16", "fp16"]), st.sampled_from([*MODELS, "best"]))
def test_kmeans_comes_back_exactly(numbers: list[float], levels: int, kind: str, model: str) -> None:
    quantised = kmeans(torch.tensor(numbers), levels, kind)  # type: ignore[arg-type]
    assert len(quantised.values) == len(quantised.symbols.unique()) <= levels
    check(quantised, model)


@pytest.mark.parametrize(
    ("d", "levels", "sharpness"), [(1, 1, 1), (200, 7, 0.5), (3000, 16, 1.5), (3000, 2, 9), (50, 400, 0)]
)
def test_the_length_is_within_two_bits_of_the_ideal_adaptive_code(d: int, levels: int, sharpness: float) -> None:
    weights = [math.exp(-sharpness * i) for i in range(levels)]
    symbols = random.Random(d).choices(range(levels), weights, k=d)
    quantised = Quantised("bf16", torch.tensor(symbols), torch.arange(levels).bfloat16().float())
    counts, ideal = [0.5] * levels, 0.0
    for symbol in symbols:
        ideal -= math.log2(counts[symbol] / sum(counts))
        counts[symbol] += 1
    coded = check(quantised, "adaptive")
    assert ideal - 1e-6 <= coded.symbols <= ideal + 2.01
    assert coded.codebook == 16 * levels
    assert coded.header == omega_bits(2) + omega_bits(d) + omega_bits(levels) + 1


def test_the_static_length_is_the_entropy_and_its_counts() -> None:
    quantised = uniform(normal(2000), 0.7)
    counts = torch.bincount(quantised.symbols).double()
    entropy = float(-(torch.xlogy(counts, counts / 2000)).sum() / math.log(2))
    sent = sum(omega_bits(int(c) + 1) for c in counts)
    assert entropy + sent <= check(quantised, "static").symbols <= entropy + sent + 2.01
    assert encode(quantised).bits == min(encode(quantised, m).bits for m in MODELS)  # type: ignore[arg-type]


def test_no_message_begins_another_and_kraft_holds() -> None:
    values = torch.tensor([0.0, 1.0, 2.0])
    messages = []
    for d in (1, 2, 3, 4, 5):
        for symbols in itertools.product(range(3), repeat=d):
            for model in MODELS:
                coded = encode(Quantised("fp16", torch.tensor(symbols), values), model)  # type: ignore[arg-type]
                text = "".join(f"{byte:08b}" for byte in coded.payload[:-4])
                assert set(text[coded.bits :]) <= {"0"}
                messages.append(text[: coded.bits])
    messages.sort()
    assert len(set(messages)) == len(messages) == 2 * (3 + 9 + 27 + 81 + 243)
    assert not any(b.startswith(a) for a, b in itertools.pairwise(messages))
    assert sum(2.0 ** -len(m) for m in messages) <= 1


def test_what_follows_a_message_does_not_change_it() -> None:
    """Self-delimiting: only the check for surplus bytes tells, and it does."""
    body = encode(uniform(normal(60), 0.4)).payload[:-4]
    longer = body + b"\xa7" * 9
    with pytest.raises(InputError, match="not how its own content is written"):
        decode(longer + zlib.crc32(longer).to_bytes(4, "big"))


def test_kmeans_finds_the_clusters_and_beats_the_grid() -> None:
    centres = torch.tensor([-3.0, 0.5, 4.0])
    x = centres.repeat(100) + 0.01 * normal(300)
    assert torch.allclose(kmeans(x, 3).values, centres, atol=0.02)
    gaussian = normal(4000)
    error = (kmeans(gaussian, 8, "fp16").vector() - gaussian).pow(2).mean()
    assert 0.030 < error < 0.038, "Max (1960): 0.03454 at 8 levels"


@pytest.mark.parametrize(("d", "levels", "own"), [(50, 3, 149), (600, 9, None), (1, 1, None)])
def test_a_shared_codebook_costs_five_bits_and_comes_back_exactly(d: int, levels: int, own: int | None) -> None:
    """A message of 50 numbers in three values: 108 bits, where 149 are needed with values of its own."""
    x = 0.03 * torch.randn(d, generator=torch.Generator().manual_seed(0))
    quantised = shared(x, levels)
    written = encode(quantised)
    assert written.codebook == 5
    assert torch.equal(decode(written.payload).vector(), quantised.vector())
    assert torch.equal(quantised.values, -quantised.values.flip(0))
    if own is not None:
        assert (written.bits, encode(kmeans(x, levels)).bits) == (108, own)
    error = (quantised.vector() - x).square().sum()
    assert all(error <= (step * (torch.arange(levels) - (levels - 1) / 2)[:, None] - x).square().amin(0).sum() + 1e-9
               for step in (2.0**-12, 2.0**-6, 2.0**-5, 1.0))  # fmt: skip


@pytest.mark.parametrize("sealed", [False, True], ids=["checksum", "checksum forged"])
def test_damaged_payloads_are_refused_or_read_as_what_they_say(sealed: bool) -> None:
    draw = random.Random(5)
    sound = [
        encode(q, m).payload
        for q in (uniform(normal(40), 0.3), kmeans(normal(40), 5), shared(normal(40), 5))
        for m in MODELS
    ]  # type: ignore[arg-type]
    refused = 0
    for trial in range(1500):
        bad = bytearray(draw.choice(sound))
        if trial % 3 == 0:
            bad = bad[: draw.randrange(len(bad))]
        elif trial % 3 == 1:
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        else:
            bad = bytearray(draw.randbytes(draw.randrange(60)))
        payload = bytes(bad[:-4]) + zlib.crc32(bad[:-4]).to_bytes(4, "big") if sealed else bytes(bad)
        try:
            found = decode(payload, most=1000)
        except InputError:
            refused += 1
        else:
            assert sealed, "a checksum catches every flip"
            assert encode(found, "adaptive").bits > 0
            assert payload in {encode(found, m).payload for m in MODELS}  # type: ignore[arg-type]
    assert refused > 500
    assert sealed or refused == 1500


def test_a_large_claim_allocates_little() -> None:
    body = encode(Quantised("bf16", torch.zeros(1 << 20, dtype=torch.int64), torch.zeros(1)), "static").payload
    tracemalloc.start()
    with pytest.raises(InputError, match="symbols"):
        decode(body, most=200)
    assert tracemalloc.get_traced_memory()[1] < 1 << 17
    tracemalloc.stop()


@pytest.mark.parametrize(
    "call",
    [
        lambda: uniform(torch.tensor([1.0, math.nan]), 0.1),
        lambda: uniform(torch.tensor([]), 0.1),
        lambda: uniform(torch.tensor([0.0, 1e6]), 0.1),
        lambda: uniform(torch.tensor([1.0]), 0.0),
        lambda: uniform(torch.tensor([1.0]), math.nan),
        lambda: encode(uniform(torch.tensor([3e38]), 2e38)),
        lambda: kmeans(torch.tensor([1e6]), 1, "fp16"),
        lambda: kmeans(torch.tensor([1.0]), 0),
        lambda: kmeans(torch.tensor([1.0]), 2, "int8"),  # type: ignore[arg-type]
        lambda: shared(torch.tensor([1.0]), 0),
        lambda: shared(torch.tensor([math.inf]), 3),
        lambda: encode(Quantised("shared", torch.tensor([0]), torch.tensor([0.0]), 0.3)),
        lambda: encode(Quantised("shared", torch.tensor([0]), torch.tensor([0.5]), 1.0)),
        lambda: encode(Quantised("bf16", torch.tensor([1]), torch.tensor([0.5]))),
        lambda: encode(Quantised("bf16", torch.tensor([0]), torch.tensor([0.1]))),
        lambda: encode(Quantised("bf16", torch.tensor([0]), torch.tensor([0.5])), "huffman"),  # type: ignore[arg-type]
        lambda: omega_bits(0),
    ],
)
def test_what_cannot_be_coded_is_refused(call) -> None:
    with pytest.raises(InputError):
        call()


def test_omega_lengths() -> None:
    assert [omega_bits(n) for n in (1, 2, 3, 4, 8, 16, 100, 1000)] == [1, 3, 3, 6, 7, 11, 13, 17]
