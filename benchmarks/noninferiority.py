"""The margin rule where the truth is known: how often a tune that is a margin worse passes, and one exactly as good.

    python benchmarks/noninferiority.py [pairs=2000] [--out benchmarks/noninferiority.json]

Two models are right on the same examples but for a share (discordant) on which one of them is. At the edge of H0 the tune's score
lies the margin below the reference's: passing is a false "good enough", at most 5 %. Where the two are equal, passing is what is
wanted: four times of five at the n that `examples_needed` states, from the discordant share for accuracy (score test) and
from the bootstrap's deviation for F1 and Matthews, of two equal models on 50,000 examples.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from scipy import optimize

from d90.analysis.paired import compare_paired, examples_needed, score_of_table

ALPHA = 0.05
PILOT = 50_000
SHARE = {"accuracy": 0.5, "f1": 0.65, "matthews": 0.3}  # of class 1; MRPC has 0.67, CoLA 0.3 of the rarer class


@dataclass(frozen=True)
class Law:
    """How two models and the labels fall out together: the reference right on 85 %, equally in both classes."""

    metric: str
    discordant: float
    right: float = 0.85

    def shares(self, worse: float) -> Any:
        """P(both right), P(reference alone), P(tune alone), P(neither), where the tune is right on `worse` fewer."""
        b, c = (self.discordant + worse) / 2, (self.discordant - worse) / 2
        return numpy.array([self.right - b, b, c, 1 - self.right - c])

    def difference(self, worse: float) -> float:
        """Of the scores, with infinitely many examples."""
        if self.metric == "accuracy":
            return -worse
        ones = SHARE[self.metric]
        tune, reference = (
            numpy.array([[(1 - ones) * a, (1 - ones) * (1 - a)], [ones * (1 - a), ones * a]])
            for a in (self.right - worse, self.right)
        )
        return float(score_of_table(self.metric, tune) - score_of_table(self.metric, reference))

    def at_edge(self, margin: float) -> float:
        """The share of examples by which the tune is worse where its score is the margin below."""
        return float(optimize.brentq(lambda w: self.difference(w) + margin, 0, self.discordant))

    def draw(self, source: numpy.random.Generator, n: int, worse: float) -> Any:
        """(tune, reference, labels) of n examples."""
        kind = source.choice(4, size=n, p=self.shares(worse))
        labels = (source.random(n) < SHARE[self.metric]).astype(int)
        reference = numpy.where(kind <= 1, labels, 1 - labels)
        tune = numpy.where((kind == 0) | (kind == 2), labels, 1 - labels)
        return tune, reference, labels


def cells() -> list[tuple[str, float, float]]:
    """(metric, margin, discordant); a margin beyond the discordant share cannot be."""
    accuracy = [("accuracy", m, d) for m in (0.01, 0.02, 0.03) for d in (0.03, 0.05, 0.08, 0.15) if d > m]
    return [*accuracy, *((metric, 0.02, d) for metric in ("f1", "matthews") for d in (0.05, 0.08, 0.15))]


def run(number: int, metric: str, margin: float, discordant: float, pairs: int) -> dict[str, Any]:
    law, source = Law(metric, discordant), numpy.random.default_rng(number)
    deviation = compare_paired(metric, *law.draw(source, PILOT, 0.0), ALPHA).deviation
    n = examples_needed(discordant, margin, ALPHA, deviation=deviation)

    def passes(worse: float) -> float:
        found = (compare_paired(metric, *law.draw(source, n, worse), ALPHA) for _ in range(pairs))
        return sum(one.lower > -margin for one in found) / pairs

    return {
        "metric": metric,
        "margin": margin,
        "discordant": discordant,
        "n": n,
        "false good enough": passes(law.at_edge(margin)),
        "power": passes(0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=int, nargs="?", default=2000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    began = time.monotonic()
    rows = [run(i, *cell, asked.pairs) for i, cell in enumerate(cells())]
    limits = {
        "false at most": round(ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / asked.pairs), 4),
        "power at least": round(0.8 - 2 * math.sqrt(0.8 * 0.2 / asked.pairs), 4),
    }
    found = {"pairs": asked.pairs, **limits, "seconds": round(time.monotonic() - began), "cells": rows}
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
