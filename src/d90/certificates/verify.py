"""Check a certificate without the program that wrote it: `python verify.py certificate.json [predictions.npy]`.

Needs numpy alone and imports nothing of d90. The message is decoded by a decoder written for this file, its bits are counted, and
the bound is computed again from them; given predictions, what was measured is counted too. `d90 verify --data` runs the model.

The message, most significant bit first: omega(kind) omega(d) omega(L), a bit for the model of the symbols; a grid's step (32 bits) and
omega(zigzag(first)), the place of a shared step (5 bits), or L values of 16 bits; omega(count + 1) of each level for static counts; d
symbols by a 48-bit arithmetic code that ends in two bits more than it shifted; zeros to a whole byte; a CRC-32.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Refused", "verify"]
Json = dict[str, Any]  # a certificate, or a part of one, as it was read
FULL, HALF, QUARTER = (1 << 48) - 1, 1 << 47, 1 << 46
MAX_SYMBOLS, MAX_LEVELS, CLOSE = 1 << 20, 1 << 12, 1e-6
NO_CHANGE = "no change: a test-set bound on the starting point"
ALPHAS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6]


class Refused(ValueError):
    """Which line of the certificate does not hold, what it says, and what was found."""


def refuse(line: str, said: object, found: object) -> Refused:
    """An error that names a line."""
    return Refused(f"'{line}' says {said}; {found}")


class Bits:
    """A message read bit by bit; past its end come zeros, for as long as the arithmetic decoder looks ahead."""

    def __init__(self, payload: bytes) -> None:
        if len(payload) < 5 or zlib.crc32(payload[:-4]) != int.from_bytes(payload[-4:], "big"):
            raise Refused("'payload': its CRC-32 is another one: truncated or altered")
        self.bits = [byte >> i & 1 for byte in payload[:-4] for i in range(7, -1, -1)]
        self.at = 0

    def read(self, width: int) -> int:
        """An integer of so many bits."""
        value = 0
        for _ in range(width):
            if self.at >= len(self.bits) + 48:
                raise Refused("'payload': it ends early")
            value = 2 * value + (self.bits[self.at] if self.at < len(self.bits) else 0)
            self.at += 1
        return value

    def omega(self) -> int:
        """Elias' omega code of an integer >= 1."""
        value = 1
        while self.read(1):
            if value > 64:
                raise Refused("'payload': a number in it has no end")
            value = (1 << value) | self.read(value)
        return value


def decode(payload: bytes) -> tuple[list[int], int, list[int]]:
    """(symbols, levels, bits of header, codebook and numbers) of a message."""
    reader = Bits(payload)
    kind, d, levels = reader.omega(), reader.omega(), reader.omega()
    if kind > 4 or d > MAX_SYMBOLS or levels > MAX_LEVELS:
        raise Refused(f"'payload': kind {kind}, {d} numbers, {levels} levels are out of range")
    static = reader.read(1)
    header = reader.at
    if kind == 1:
        reader.read(32)
        reader.omega()
    else:
        reader.read(5 if kind == 4 else 16 * levels)
    codebook = reader.at - header
    weights = [reader.omega() - 1 for _ in range(levels)] if static else [1] * levels
    if static and sum(weights) != d:
        raise Refused(f"'payload': its counts sum to {sum(weights)}, not to {d}")
    symbols, end = decode_symbols(reader, d, weights, bool(static))
    return symbols, levels, [header, codebook, end - header - codebook]


def decode_symbols(reader: Bits, d: int, weights: list[int], static: bool) -> tuple[list[int], int]:
    """(d symbols, the place behind the message's last bit); adaptive counts grow by two with each symbol."""
    low, high, pending, end, symbols = 0, FULL, 0, reader.at + 2, []
    code = reader.read(48)
    for _ in range(d):
        total, width = sum(weights), high - low + 1
        place, symbol, below = ((code - low + 1) * total - 1) // width, 0, 0
        while below + weights[symbol] <= place:
            below += weights[symbol]
            symbol += 1
        low, high = low + width * below // total, low + width * (below + weights[symbol]) // total - 1
        weights[symbol] += 0 if static else 2
        symbols.append(symbol)
        while True:
            if high < HALF or low >= HALF:
                pending = 0
            elif low >= QUARTER and high < HALF + QUARTER:
                low, high, code, pending = low - QUARTER, high - QUARTER, code - QUARTER, pending + 1
            else:
                break
            low, high, code, end = 2 * low & FULL, (2 * high & FULL) | 1, (2 * code & FULL) | reader.read(1), end + 1
    first = int(low >= QUARTER)
    tail, rest = [first] + [1 - first] * (pending + 1), reader.bits[end:]
    if reader.bits[end - len(tail) : end] != tail or any(rest) or len(rest) > 7:
        raise Refused("'payload': its last bits are not as an encoder writes them")
    return symbols, end


def price(delta: float, bits: float) -> float:
    """ln(1/delta) + K ln 2, in nats."""
    return bits * math.log(2) - math.log(delta)


def binomial_upper(errors: int, n: int, nats: float) -> float:
    """sup{p : Pr[Binomial(n, p) <= errors] >= e^-nats}."""
    if errors == n:
        return 1.0
    k = np.arange(errors + 1, dtype=np.float64)
    choose = np.append(0.0, np.cumsum(np.log((n - k[1:] + 1) / k[1:])))

    def log_tail(p: float) -> float:
        terms = choose + k * math.log(p) + (n - k) * math.log1p(-p)
        return float(terms.max() + math.log(np.exp(terms - terms.max()).sum()))

    return first_true(lambda p: log_tail(p) < -nats, errors / n or 1e-300, 1.0 - 1e-16)


def kl_upper(q: float, nats: float) -> float:
    """sup{p : kl(q || p) <= nats}."""

    def kl(p: float) -> float:
        return sum(some * math.log(some / other) for some, other in ((q, p), (1 - q, 1 - p)) if some > 0)

    return 1.0 if q >= 1 else first_true(lambda p: kl(p) > nats, q, 1.0 - 1e-16)


def first_true(refuted: Callable[[float], bool], low: float, high: float) -> float:
    """Where a statement begins to be true, by bisection."""
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def betting_upper(x: Any, low: float, high: float, nats: float) -> float:
    """sup{m : sum ln(1 + theta (m - x) / (1 - m)) < nats}, x scaled to [0, 1], theta_t a bet that knows the documents before t."""
    y, n, t = np.clip((x - low) / (high - low), 0.0, 1.0), len(x), np.arange(2, len(x) + 2)
    mean = (0.5 + np.cumsum(y)) / t
    spread = np.append(0.25, (0.25 + np.cumsum((y - mean) ** 2))[:-1] / t[:-1])
    reached = np.minimum(1.0, np.append(0.5, mean[:-1]) + np.sqrt(2 * spread * nats / n))
    theta = np.minimum(1.0, np.sqrt(2 * nats / (n * spread)) * (1.0 - reached))

    def wealth(m: float) -> float:
        return float(np.log1p(np.maximum(theta * (m - y) / (1.0 - m), 1e-16 - 1.0)).sum())

    return low + (high - low) * first_true(lambda m: wealth(m) >= nats, float(y.mean()), 1.0 - 1e-16)


def text_bound(c: Json, bits: float, mean: float, variance: float, alpha: float) -> float:
    """Bits per token: empirical Bernstein over all documents, or kl in two steps where a part was evaluated."""
    v, n, m, delta = c["vocabulary"], c["n"], c["evaluated"], c["delta"]
    low, high = -math.log2(1 - alpha + alpha / v), math.log2(v / alpha)
    if m == n:
        x = price(delta, bits) + math.log(2)
        return min(high, mean + math.sqrt(2 * variance * x / n) + 7 * (high - low) * x / (3 * (n - 1)))
    share, among = n / (n + m), c["definitions"]["among"]
    first = kl_upper((mean - low) / (high - low), (price(share * delta, 0) + math.log(among)) / m)
    return min(high, low + (high - low) * kl_upper(first, price((1 - share) * delta, bits) / n))


def check_message(name: str, one: Json, c: Json) -> None:
    """The message of one candidate: what it holds, and every bit of it."""
    known, parts, text = c["definitions"], one["parts"], "vocabulary" in c
    flagged = text or known["prior"] > 0
    expected = {"tried": math.log2(known["tried"])} | ({"alpha": math.log2(len(ALPHAS))} if text else {})
    if one["payload"]:
        if not isinstance(one["payload"], str) or set(one["payload"]) - set("0123456789abcdef"):
            raise refuse(f"{name}.payload", str(one["payload"])[:20], "it is not written in hex")
        symbols, levels, lengths = decode(bytes.fromhex(one["payload"]))
        if len(symbols) != one["d"] or levels > one["levels"]:
            raise refuse(f"{name}.d", f"{one['d']} of {one['levels']}", f"it holds {len(symbols)} of {levels} levels")
        expected |= dict(zip(("header", "codebook", "numbers"), lengths, strict=True))
        expected |= {"change or none": 1} if flagged else {}
    elif not flagged or one["d"]:
        raise refuse(f"{name}.payload", "nothing", "expected a message: no change is none of this search's")
    expected |= {} if one["payload"] else {"no change": 1}
    for part in {**expected, **parts}:
        if abs(parts.get(part, -1) - expected.get(part, -1)) > CLOSE:
            raise refuse(f"{name}.parts.{part}", parts.get(part), f"counted from the message: {expected.get(part)}")
    if abs(one["bits"] - sum(expected.values())) > CLOSE:
        raise refuse(f"{name}.bits", one["bits"], f"its parts sum to {sum(expected.values()):g}")


def check_bound(name: str, one: Json, c: Json) -> None:
    """One candidate's bound, from its bits and from what it says was measured."""
    if "vocabulary" not in c:
        if not (isinstance(one["errors"], int) and 0 <= one["errors"] <= c["n"]):
            raise refuse(f"{name}.errors", one["errors"], f"expected a whole number up to n = {c['n']}")
        found = binomial_upper(one["errors"], c["n"], price(c["delta"], one["bits"]))
    else:
        mean, variance = one["losses"][str(one["alpha"])]
        if one["alpha"] not in ALPHAS or abs(mean - one["mean"]) > CLOSE or variance < 0:
            raise refuse(f"{name}.alpha", one["alpha"], "it, its mean and its variance do not go together")
        found = text_bound(c, one["bits"], mean, variance, one["alpha"])
    if not abs(found - one["bound"]) <= CLOSE * max(1.0, found):
        raise refuse(f"{name}.bound", one["bound"], f"computed again: {found:.6f}")


def check_whole(c: Json) -> None:
    """What stands twice in a certificate, and what it was searched among."""
    best, known, text = c["best"], c["definitions"], "vocabulary" in c
    if not (0 < c["delta"] < 1 and isinstance(c["n"], int) and c["n"] > 1 and known["tried"] >= 1):
        raise refuse("delta", c["delta"], f"with n = {c['n']}, tried = {known['tried']}: no bound can be had from them")
    bets = text and c["form"] == "betting"
    for name in ("bits", "parts", *(() if bets else ("bound",)), *(("alpha", "mean") if text else ("errors",))):
        if c[name] != best[name]:
            raise refuse(name, c[name], f"'best.{name}' says {best[name]}")
    if best not in c["candidates"] or any(one["bound"] < best["bound"] for one in c["candidates"]):
        raise refuse("best", f"a bound of {best['bound']}", "it is not the best of the candidates")
    if best["d"] and f"d={best['d']}," not in c["method"] + ",":
        raise refuse("method", c["method"], f"the message holds {best['d']} numbers")
    words = f"d = {best['d']:,} numbers in {best['bits']:,.0f} bits" if best["payload"] else NO_CHANGE
    if c.get("certified", words) != words:
        raise refuse("certified", c["certified"], f"the message says: {words}")
    least = (1 + len(known["dims"]) * len(known["levels"])) * len(ALPHAS) * known["tried"]
    if text and (known["among"] < least or not 2 <= c["evaluated"] <= c["n"] or c["vocabulary"] < 2):
        raise refuse("definitions.among", known["among"], f"at least {least}, on {c['evaluated']} of {c['n']}")
    if not text and len(c["candidates"]) != len(known["dims"]) * len(known["levels"]) + (known["prior"] > 0):
        raise refuse("candidates", len(c["candidates"]), "their number is not that of the definitions' dims and levels")


def check_predictions(c: Json, rows: Any) -> str:
    """Count again: rows of (answer, label) for each counted example, or each evaluated document's bits per token."""
    if "vocabulary" in c:
        mean, variance = c["best"]["losses"][str(c["alpha"])]
        if rows.shape != (c["evaluated"],):
            raise refuse("evaluated", c["evaluated"], f"the predictions have the shape {rows.shape}")
        found = float(np.mean(rows)), float(np.var(rows, ddof=1))
        if not (abs(found[0] - mean) < 1e-4 and abs(found[1] - variance) < 1e-3 * max(1.0, variance)):
            raise refuse("mean", f"{mean}, variance {variance}", f"counted again: {found[0]:.6f}, {found[1]:.6f}")
        if c["form"] == "betting":
            alpha, v = c["alpha"], c["vocabulary"]
            low, high = -math.log2(1 - alpha + alpha / v), math.log2(v / alpha)
            bound = betting_upper(rows, low, high, price(c["delta"], c["bits"]))
            if not abs(bound - c["bound"]) <= 1e-4:
                raise refuse("bound", c["bound"], f"by betting on these documents: {bound:.6f}")
        return f"{found[0]:.4f} bits per token counted again from {len(rows):,} documents"
    if rows.shape != (c["n"], 2):
        raise refuse("n", c["n"], f"the predictions have the shape {rows.shape}, expected ({c['n']}, 2)")
    errors = int((rows[:, 0] != rows[:, 1]).sum())
    if errors != c["errors"]:
        raise refuse("errors", c["errors"], f"counted again: {errors}")
    return f"{errors:,} errors counted again from {len(rows):,} predictions"


def verify(path: str, predictions: str | None = None) -> list[str]:
    """What was checked and holds, a line each.

    Args:
        path: of a certificate.
        predictions: a .npy file: (n, 2) of answers and labels, or (documents,) of bits per token.

    Raises:
        Refused: the first line that does not hold. OSError: a file that cannot be read.
    """
    try:
        rows = np.load(predictions, allow_pickle=False) if predictions else None
        with open(path, encoding="utf-8") as file:
            c = json.load(file, parse_constant=int)  # NaN and Infinity are no numbers
        if ("majority" in c) + ("vocabulary" in c) != 1 or "posterior" in c:
            raise Refused("not a certificate of a message: expected 'majority' or 'vocabulary', no 'posterior'")
        check_whole(c)
        for index, one in enumerate(c["candidates"]):
            check_message(f"candidates[{index}]", one, c)
            check_bound(f"candidates[{index}]", one, c)
        bits = f"{c['bits']:g} bits counted from the message ({'' if c['best']['payload'] else 'no change, '}d = {c['best']['d']})"
        unseen = "vocabulary" in c and c["form"] == "betting" and rows is None
        how = "needs predictions: betting looks at each document" if unseen else f"computed again from n = {c['n']:,}"
        return [bits, f"bound {c['bound']:.6f} {how}", *([check_predictions(c, rows)] if rows is not None else [])]
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"not a certificate: {type(error).__name__}: {error}") from None


if __name__ == "__main__":
    try:
        print("\n".join(verify(*sys.argv[1:3])))
    except (Refused, OSError) as error:
        sys.exit(f"refused: {error}")
