"""Check a certificate of a Gaussian without the program that wrote it: `python verify_gaussian.py certificate.json [predictions.npy]`.

Needs numpy alone and imports nothing of d90, as verify.py. The divergence is computed again from means and sigmas, the bound from it and
from the errors; given predictions, these are counted too. `d90 verify --data` makes the draws again.

The payload: d means, then d sigmas (float32, little-endian), in hex. P = N(0, 4^-width), C = 4 / 2^(temperature / 2). A draw takes the bits
of Philox4x32-10: counters (group, number, 0, 17), key 0. With r the error of the draws, or a bound on it at a fifth of delta,

    error <= (1 - exp(-C r - (bits ln 2 + ln 1/delta) / n)) / (1 - e^-C)        (Catoni 2007)
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Refused", "verify"]
Json = dict[str, Any]  # a certificate, or a part of one, as it was read
CLOSE, ROUNDED = 1e-6, 1e-4  # a draw is rounded to float32
NO_CHANGE = "no change: a test-set bound on the starting point"


class Refused(ValueError):
    """Which line of the certificate does not hold, what it says, and what was found."""


def need(holds: object, line: str, said: object, found: object) -> None:
    """Refuse a line that does not hold, by its name."""
    if not holds:
        raise Refused(f"'{line}' says {said}; {found}")


def first_draw(d: int) -> Any:
    """Draw 0: (d,) standard Gaussians by Box-Muller, two from each pair of words."""
    mask, half, zero = np.uint64(0xFFFFFFFF), np.uint64(32), np.zeros(-(-d // 4), dtype=np.uint64)
    a, b, c, e = np.arange(len(zero), dtype=np.uint64), zero, zero, zero + np.uint64(17)
    for i in range(10):
        p, q = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        one, two = (np.uint64(i * step & 0xFFFFFFFF) for step in (0x9E3779B9, 0xBB67AE85))
        a, b, c, e = (q >> half) ^ b ^ one, q & mask, (p >> half) ^ e ^ two, p & mask
    u, v = (np.stack((a, b, c, e), axis=1) >> np.uint64(8)).reshape(-1, 2).T.astype(np.float64)
    radius, angle = np.sqrt(-2 * np.log((u + 0.5) * 2.0**-24)), 2 * math.pi * v * 2.0**-24
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)[:d].astype(np.float32)


def divergence(payload: bytes, d: int, width: float, drawn: bool) -> float:
    """In bits, 0 at least: KL(Q || N(0, width^2)) of the Gaussian in the payload, or log2 dQ/dP of its first draw."""
    mean, sigma = np.frombuffer(payload, dtype="<f4").reshape(2, d)
    if not (np.isfinite(mean).all() and np.isfinite(sigma).all() and (sigma > 0).all()):
        raise Refused("'payload': it is no Gaussian")
    at = mean + sigma * first_draw(d) if drawn else mean
    x, m, s = (each.astype(np.float64) for each in (at, mean, sigma))
    own = ((x - m) / s) ** 2 if drawn else 1 - (s / width) ** 2
    return max(0.0, float((np.log(width / s) + (x / width) ** 2 / 2 - own / 2).sum()) / math.log(2))


def first_true(holds: Callable[[float], bool], low: float) -> float:
    """Where a statement begins to be true, by bisection between `low` and 1."""
    high = 1.0 - 1e-16
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def binomial_upper(errors: int, n: int, nats: float) -> float:
    """sup{p : Pr[Binomial(n, p) <= errors] >= e^-nats}."""
    if errors == n:
        return 1.0
    k = np.arange(errors + 1, dtype=np.float64)
    choose = np.append(0.0, np.cumsum(np.log((n - k[1:] + 1) / k[1:])))

    def log_tail(p: float) -> float:
        return float(np.logaddexp.reduce(choose + k * math.log(p) + (n - k) * math.log1p(-p)))

    return first_true(lambda p: log_tail(p) < -nats, errors / n or 1e-300)


def sampled_upper(counts: list[int], nats: float) -> float:
    """sup{m : the mean over stakes of prod (1 + stake (m - x) / (1 - m)) < e^nats}, x = k/b for counts[k] batches of b."""
    h, x = np.array(counts, dtype=np.float64), np.arange(len(counts)) / (len(counts) - 1)
    x, h, stakes = x[h > 0], h[h > 0], 2.0 ** (-np.arange(12) / 2)

    def wealth(m: float) -> float:
        with np.errstate(divide="ignore"):
            each = np.log1p(np.maximum(np.outer(stakes, m - x) / (1.0 - m), -1.0)) @ h
        return float(np.logaddexp.reduce(each) - math.log(len(stakes)))

    return first_true(lambda m: wealth(m) >= nats, float((h * x).sum() / h.sum()))


def price(delta: float, bits: float) -> float:
    """ln(1/delta) + K ln 2, in nats."""
    return bits * math.log(2) - math.log(delta)


def check_bits(name: str, one: Json, c: Json) -> None:
    """What a candidate pays: the divergence of its Gaussian, and its places in lists."""
    known, parts, d, said = c["definitions"], one["parts"], one["d"], one["payload"]
    hexed = isinstance(said, str) and not set(said) - set("0123456789abcdef")
    need(hexed, f"{name}.payload", str(said)[:20], "it is not written in hex")
    if said:
        need(len(said) == 16 * d > 0, f"{name}.d", d, f"its payload holds {len(said) / 16:g} numbers")
        need(d in known["dims"], f"{name}.d", d, f"the definitions have {known['dims']}")
        need(one["width"] in range(16), f"{name}.width", one["width"], "expected 0 ... 15")
        need(one["temperature"] in range(16), f"{name}.temperature", one["temperature"], "expected 0 ... 15")
        value = divergence(bytes.fromhex(said), d, 2.0 ** -one["width"], c["posterior"] == "draw")
        expected = {"divergence": value, "width": 4, "temperature": 4, "d": math.log2(len(known["dims"]))}
        expected |= {"change or none": 1} if known["prior"] > 0 else {}
    else:
        need(known["prior"] > 0 and d == 0, f"{name}.payload", "nothing", "no change is none of this search's")
        expected = {"no change": 1}
    expected["tried"] = math.log2(known["tried"])
    for part in {**expected, **parts}:
        holds = abs(parts.get(part, -1) - expected.get(part, -1)) <= (ROUNDED if part == "divergence" else CLOSE)
        need(holds, f"{name}.parts.{part}", parts.get(part), f"computed again: {expected.get(part)}")
    total = sum(parts.values())
    need(abs(one["bits"] - total) <= CLOSE, f"{name}.bits", one["bits"], f"its parts sum to {total:g}")


def check_error(name: str, one: Json, c: Json) -> None:
    """What was measured: errors of one model on n examples, or of draws, which estimate the error of the Gaussian."""
    n, known, errors, counts = c["n"], c["definitions"], one["errors"], one["histogram"]
    fresh = c["posterior"] == "gaussian" and one["payload"] != ""
    size, posterior = n * known["passes"] if fresh else n, c["posterior"] if one["payload"] else ""
    need(one["posterior"] == posterior, f"{name}.posterior", one["posterior"], f"expected {posterior!r}")
    need(one["predictions"] == size, f"{name}.predictions", one["predictions"], f"expected {size}")
    need(isinstance(errors, int) and 0 <= errors <= size, f"{name}.errors", errors, f"expected up to {size}")
    batch = min(32, max(1, size // 2048)) if fresh else 0
    need(one["batch"] == batch, f"{name}.batch", one["batch"], f"expected {batch}")
    found = errors / size
    if fresh:
        draws, wrong = -(-size // batch), sum(k * count for k, count in enumerate(counts))
        holds = len(counts) == batch + 1 and sum(counts) == draws and min(counts) >= 0
        need(holds, f"{name}.histogram", counts, f"expected {draws} draws of {batch} predictions each")
        need(wrong == errors + draws * batch - size, f"{name}.errors", errors, f"its histogram has {wrong}")
        found = sampled_upper(counts, price(0.2 * c["delta"] / (len(known["dims"]) * known["tried"]), 0))
    else:
        need(counts == [], f"{name}.histogram", counts, "nothing was estimated by draws")
    said = one["error_bound"]
    need(abs(said - found) <= CLOSE, f"{name}.error_bound", said, f"computed again: {found:.6f}")


def check_bound(name: str, one: Json, c: Json) -> None:
    """The bound, from its bits and its error."""
    cost = price(c["delta"] * (0.8 if c["posterior"] == "gaussian" else 1), one["bits"])
    if one["payload"]:
        heat = 4 * 2 ** (-one["temperature"] / 2)
        found = min(1.0, math.expm1(-heat * one["error_bound"] - cost / c["n"]) / math.expm1(-heat))
    else:
        found = binomial_upper(one["errors"], c["n"], cost)
    need(abs(found - one["bound"]) <= CLOSE, f"{name}.bound", one["bound"], f"computed again: {found:.6f}")


def check_whole(c: Json) -> None:
    """What stands twice in a certificate, and what it was searched among."""
    best, known, n, tried = c["best"], c["definitions"], c["n"], c["definitions"]["tried"]
    need(c["posterior"] in ("gaussian", "draw"), "posterior", c["posterior"], "expected gaussian or draw")
    need(known["posterior"] == c["posterior"], "definitions.posterior", known["posterior"], c["posterior"])
    whole = isinstance(n, int) and n > 1 and tried >= 1 and known.get("passes", 1) >= 1
    need(whole and 0 < c["delta"] < 1, "delta", c["delta"], f"with n = {n}, tried = {tried}: no bound can be had")
    for name in ("bits", "parts", "error_bound", "bound"):
        need(c[name] == best[name], name, c[name], f"'best.{name}' says {best[name]}")
    error = best["errors"] / best["predictions"]
    need(abs(c["error"] - error) <= CLOSE, "error", c["error"], f"'best' says {error:.6f}")
    least = best in c["candidates"] and all(one["bound"] >= best["bound"] for one in c["candidates"])
    need(least, "best", f"a bound of {best['bound']}", "it is not the best of the candidates")
    many = len(set(known["dims"])) + (known["prior"] > 0)
    dims = sorted(one["d"] for one in c["candidates"])
    need(len(dims) == many == len(set(dims)), "candidates", dims, "they are not those of the definitions' dims")
    d, worth = f"d = {best['d']:,} numbers", f"a Gaussian worth {best['bits']:,.0f} bits"
    named = not best["d"] or f"d={best['d']}," in c["method"] + ","
    need(named, "method", c["method"], f"the payload holds {d}")
    words = f"a randomised predictor: each prediction draws {d} anew, from {worth}"
    words = words if c["posterior"] == "gaussian" else f"{d} drawn once, from {worth}"
    words = words if best["payload"] else NO_CHANGE
    need(c["certified"] == words, "certified", c["certified"], f"the payload says: {words}")


def check_predictions(c: Json, rows: Any) -> str:
    """Count again: (answer, label) of each prediction, batch after batch."""
    best, size = c["best"], c["best"]["predictions"]
    need(rows.shape == (size, 2), "predictions", size, f"the predictions have the shape {rows.shape}")
    wrong = rows[:, 0] != rows[:, 1]
    need(wrong.sum() == best["errors"], "errors", best["errors"], f"counted again: {wrong.sum()}")
    if best["batch"]:
        each = np.append(wrong, np.ones(-size % best["batch"], dtype=bool)).reshape(-1, best["batch"]).sum(axis=1)
        counts = np.bincount(each, minlength=best["batch"] + 1).tolist()
        need(counts == best["histogram"], "histogram", best["histogram"], f"counted again: {counts}")
    return f"{wrong.sum():,} errors counted again from {size:,} predictions"


def verify(path: str, predictions: str | None = None) -> list[str]:
    """What was checked and holds, a line each.

    Args:
        path: of a certificate.
        predictions: a .npy file: (predictions, 2) of answers and labels.

    Raises:
        Refused: the first line that does not hold. OSError: a file that cannot be read.
    """
    try:
        rows = np.load(predictions, allow_pickle=False) if predictions else None
        with open(path, encoding="utf-8") as file:
            c = json.load(file, parse_constant=int)  # NaN and Infinity are no numbers
        check_whole(c)
        for index, one in enumerate(c["candidates"]):
            for check in (check_bits, check_error, check_bound):
                check(f"candidates[{index}]", one, c)
        lines = [f"{c['bits']:g} bits computed again ({c['certified']})"]
        lines.append(f"bound {c['bound']:.6f} computed again from n = {c['n']:,}")
        return [*lines, *([check_predictions(c, rows)] if rows is not None else [])]
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"not a certificate of a Gaussian: {type(error).__name__}: {error}") from None


if __name__ == "__main__":
    try:
        print("\n".join(verify(*sys.argv[1:3])))
    except (Refused, OSError) as error:
        sys.exit(f"refused: {error}")
