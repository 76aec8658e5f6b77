"""Write docs/results/README.md from the stores beside it: every figure there comes from a stored trial.

python benchmarks/summary.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from refit import refits
from summary_studies import study_tables

from d90.analysis import bounds
from d90.certificates.classification import Candidate
from d90.certificates.drawn import DrawnTune
from d90.certificates.language import TextCandidate
from d90.report.words import answer, spread, trained_there
from d90.results.compare import Comparison
from d90.results.measure import Measurement
from d90.results.result import stored_results
from d90.trials.store import Store

RESULTS = Path(__file__).parents[1] / "docs" / "results"
HEAD = """# Results

Made by `python benchmarks/summary.py` from the stores in this folder. The command behind a figure stands in its page; all of them together:

```
benchmarks/studies.sh DATA [mnist|lenet|dense|sst2|twice|spaces|mrpc|compare|gap|pretrain|trajectory|family|lowdata|analyze]
# DATA holds mnist/ (idx files), sst2_sentences/, qqp/, cola/ and mrpc/ (jsonl.gz), wiki/ (txt.gz)
```

A measurement that was cut short goes on from its store. `*.jsonl` has a line for each trial with its recipe and its
whole curve, `*.html` the figures. d90 and its interval, which holds it with 90 % probability on this validation split, are refitted from
the stored trials by today's rule (`python benchmarks/refit.py --pages`); "then" is what the version that trained them told: an
interval that was too narrow, or (bisection with one seed) the largest d that failed and the smallest that passed. An end that
no trial bounds is open. Sure: the smallest d whose mean passes with a probability of 90 %. Cost: full fine-tunings spent
on that measurement, the baseline's included and trials that were in the store already not. Seconds are of one or two busy
cores and do not compare.

`kill.json`: what `python benchmarks/kill.py DATA` found: 50 times kill -9 of one search, resumed each time.
"""
PUBLISHED = """
Published for 784-200-200-10 (Li et al. 2018): d_int90 = 750 against a global baseline of 1.0, 525-575 against measured
baselines, with Adam at 1e-3, batch 128 and up to 100 epochs; 290 for LeNet.
Ours: 20 epochs, Adam at 5e-2 with warm-up and decay under step rule 1, unit columns over all D (scale global).
"""
SENTENCES = """
minilm, 2 epochs. Full fine-tuning's own weights, bias terms, LoRA's matrices and the masked weights of PaFi stand side by side:
each d90 is against the same target, 90 % of full fine-tuning's accuracy. The last three had a budget of four full
fine-tunings, three trials and the baseline, which bound d90 on no side.
"""
TWICE = """
minilm, DID, in fp32: the same question with two sets of seeds, `benchmarks/studies.sh DATA twice`. A search that cost less than 11 was
answered before its budget of 12 was spent (`--budget 1` at the end); the same command without it goes on. Trials of less than 200 seconds
ran on an H100, sixteen searches side by side.
"""

FLOOR_BITS, SHARES = (11, 25, 60, 200), (0.1, 0.2, 0.3, 0.4, 0.5)  # bits of a message, shares held out


def main() -> None:
    parts = [HEAD]
    twice = [(path.stem, TWICE) for path in sorted(RESULTS.glob("twice_*.sqlite"))]
    for name, words in (("mnist", PUBLISHED), ("sst2_sentences", SENTENCES), ("mrpc", ""), *twice):
        path = RESULTS / f"{name}.sqlite"
        if not path.exists():
            continue
        store = Store(path, write=False)
        parts.append(f"\n## {name}\n{words}")
        studies = stored_results(store, Measurement, "measure")
        several = len({s.model for s in studies}) > 1
        if studies:
            parts.append(
                "| method | rule | seeds from | baseline | threshold | chance | d90 | interval | sure | trained at d90 | then | cost |\n"
                "|-|-|-|-|-|-|-|-|-|-|-|-|"
            )
        for pair in refits(path):
            s, now = pair.before, pair.after
            chance = s.chance
            full = f"{s.baseline:.4f} ({s.baseline_method})"
            sure = "" if now.sure is None else f"{now.sure:,}"
            there = trained_there(now).removeprefix("trained there with ").partition(", threshold")[0]
            told = f"{answer(s)} ({spread(s).removeprefix('90 % interval ')})"
            numbers = f"{full} | {s.threshold:.4f} | {chance:.4f} | **{answer(now)}** | {spread(now).removeprefix('90 % interval ')}"
            seed = min(s.definitions["seeds"])
            shown, cost = f"{sure} | {there} | {told}", f"{s.spent:.1f}" if s.coverage is not None else ""
            model = f"{s.model}, " if several else ""
            parts.append(f"| {model}`{_short(s.method)}` | {s.rule} | {seed} | {numbers} | {shown} | {cost} |")
        parts.append(
            "\nEvery trial (score: best of the evaluations on the validation split; >= where it stopped once it passed):\n"
        )
        parts.append("| method | d | score | steps | seconds |\n|-|-|-|-|-|")
        for t in sorted(
            store.trials(),
            key=lambda t: (t.recipe.method.split("d=")[-1].split(",", 1)[-1], t.d or 0, t.stop_at or 9),
        ):
            sign = ">= " if t.status == "passed" else ""
            method = (f"{t.recipe.model} " if several else "") + _short(t.recipe.method)
            row = (method, t.d or "", f"{sign}{t.score:.4f}", t.result.steps, f"{t.result.seconds:.0f}")
            parts.append("| `" + row[0] + "` | " + " | ".join(map(str, row[1:])) + " |")
        store.close()
    parts += certificates() + compared() + study_tables(RESULTS)
    (RESULTS / "README.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def certificates() -> list[str]:
    """A row for each certificate beside the store they come from; those of language models, in bits per token, apart."""
    found = [(path, json.loads(path.read_text())) for path in sorted(RESULTS.glob("certify_*.json"))]
    errors = [(path, c) for path, c in found if "majority" in c]  # of messages, and of what is drawn
    language = [(path, c) for path, c in found if "vocabulary" in c]
    parts = []
    if errors:
        parts += [
            "\n## Certificates\n",
            "True error <= bound with probability 95 %, from the training examples alone: `benchmarks/certificates.sh DATA`. With a prior "
            "its share of the examples trains the starting point and the bound counts the rest. The hold-out column is what a tenth of the "
            "same examples, held out, would have certified at this test error; the smaller one is bold. `d90 certify --check FILE` "
            'decodes a message and counts its errors again. Certified: what the message says. "No change" is a test-set bound on the '
            "starting point: the rest of the examples serve as one large hold-out, and what d numbers learn on them lowers the errors "
            "by less than their bits cost.\n",
            "| certificate | certified | prior | n | training error | bound | test error | hold-out | majority |\n|-|-|-|-|-|-|-|-|-|",
        ]
    for path, c in errors:
        error = c["best"]["errors"] / c["best"].get("predictions", c["n"])
        bound, holdout = _smaller(c, ".2%")
        words = f"{error:.2%} | {bound} | {c['test_error']:.2%} | {holdout}"
        prior = f"{c['prior']:,}" if c["prior"] else "none"
        said = (DrawnTune if "posterior" in c else Candidate).from_dict(c["best"]).certified
        parts.append(f"| [{path.stem}]({path.name}) | {said} | {prior} | {c['n']:,} | {words} | {c['majority']:.2%} |")
    warned = [(path.stem, line) for path, c in found for line in c["assumptions"] if line.startswith("warning")]
    if warned:
        parts.append("\nWhat was found about the examples and the base:\n")
        parts += [f"- {stem}: {line.removeprefix('warning: ')}" for stem, line in warned]
    if language:
        parts += [
            "\n## Certificates of language models\n",
            "Bits per token of a new document <= bound with probability 95 %, predictions smoothed by alpha; n counts documents, cut "
            "at the recipe's length. Uniform: log2 of the vocabulary.\n",
            "| certificate | certified | n | evaluated | alpha | training | bound | test | untrained | hold-out | uniform |\n"
            "|-|-|-|-|-|-|-|-|-|-|-|",
        ]
    for path, c in language:
        bound, holdout = _smaller(c, ".3f")
        words = f"{c['mean']:.3f} | {bound} | {c['test']:.3f} | {c['untrained']:.3f} | {holdout} | {c['uniform']:.3f}"
        said = TextCandidate.from_dict(c["best"]).certified
        parts.append(
            f"| [{path.stem}]({path.name}) | {said} | {c['n']:,} | {c['evaluated']:,} | {c['alpha']:g} | {words} |"
        )
    return parts + certificate_floor([(path, c) for path, c in errors if c["prior"]]) + certificate_coverage()


def certificate_floor(found: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    """What d > 0 numbers would have to reach beside "no change", from each certificate with a prior."""
    parts = [
        "\n## What numbers would have to reach\n",
        'Beside "no change" of the same starting point: the training error at which a message (or a Gaussian) of so many bits has the same '
        "bound. Twenty numbers in three values take some 60 bits with a shared codebook. Hold-out: the least bound over shares of 10 to "
        "50 %, were its model no worse for the examples it gives up; a prior of a half and a hold-out of a half are the same test.\n",
        f"| certificate | n | no change errs | bound | {' | '.join(f'{bits} bits' for bits in FLOOR_BITS)} | best hold-out |\n"
        f"|-|-|-|-|{'-|' * len(FLOOR_BITS)}-|",
    ]
    for path, c in found:
        none, n, delta = next(one for one in c["candidates"] if not one["payload"]), c["n"], c["delta"]
        bound = bounds.binomial_upper(none["errors"], n, delta, none["bits"])
        cells = [f"{_errors_for(bound, n, delta, bits) / n:.2%}" for bits in FLOOR_BITS]
        held = min(bounds.holdout_of_the_same_data(c["test_error"], n + c["prior"], share, delta) for share in SHARES)
        shown = f"{none['errors'] / n:.2%} | {bound:.2%} | {' | '.join(cells)} | {held:.2%}"
        parts.append(f"| [{path.stem}]({path.name}) | {n:,} | {shown} |")
    return parts if found else []


def _errors_for(bound: float, n: int, delta: float, bits: float) -> int:
    """The most errors at which so many bits do not exceed a bound."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bounds.binomial_upper(middle, n, delta, bits) <= bound else (low, middle)
    return max(low, 0)


def certificate_coverage() -> list[str]:
    """A row for each kind of certificate: on how many simulated tasks it held, by `benchmarks/certificate_coverage.py`."""
    path = RESULTS / "certify_coverage.jsonl"
    if not path.exists():
        return []
    simulated = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    parts = [
        "\n## Coverage of certificates\n",
        "Simulated tasks whose true risk is known, promised: 95 % hold. `python benchmarks/certificate_coverage.py` goes on where the file "
        "ends. Change: how many of them certify d > 0 numbers. Slack: the median of bound less truth (errors: a share; documents: bits).\n",
        "| certificate | tasks | hold | | change | slack |\n|-|-|-|-|-|-|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in simulated):
        rows = [row for row in simulated if row["kind"] == kind]
        held = sum(row["truth"] <= row["bound"] for row in rows)
        changed = sum(not row["certified"].startswith("no change") for row in rows)
        slack = statistics.median(row["bound"] - row["truth"] for row in rows)
        parts.append(f"| {kind} | {len(rows):,} | {held:,} | {held / len(rows):.1%} | {changed:,} | {slack:.3f} |")
    return parts


def _smaller(c: dict[str, Any], form: str) -> tuple[str, str]:
    """(bound, hold-out), the smaller one bold."""
    bound, holdout = f"{c['bound']:{form}}", f"{c['holdout']:{form}}"
    return (f"**{bound}**", holdout) if c["bound"] <= c["holdout"] else (bound, f"**{holdout}**")


def compared() -> list[str]:
    """A table for each comparison."""
    path = RESULTS / "compare.sqlite"
    if not path.exists():
        return []
    parts = []
    for study in stored_results(Store(path, write=False), Comparison, "compare"):
        parts.append(f"\n## Methods on {study.task}\n\n```\n{study.command}\n```\n")
        parts.append(
            f"{study.split} {study.metric}, {study.seeds} seeds; step: time over full fine-tuning's; memory: peak of tensors "
            "above the model.\n"
        )
        parts.append(
            "| method | score | spread | trained | stored | lr | step | memory | latency |\n|-|-|-|-|-|-|-|-|-|"
        )
        for e in sorted(study.entries, key=lambda e: e.stored):
            spread = f"{e.spread:.4f}" if len(e.scores) > 1 else ""
            cost = e.cost
            costs = (
                f"{cost.step_ratio:.2f} | {cost.memory / 1e6:.0f} MB | {100 * (cost.latency_ratio - 1):+.1f} %"
                if cost
                else " | | "
            )
            mark = " *" if e.front else ""
            numbers = f"{e.mean:.4f} | {spread} | {e.trained:,} | {e.stored:,} | {e.lr:g}"
            parts.append(f"| `{e.asked}`{mark} | {numbers} | {costs} |")
        parts.append("\n\\* none stores less and scores higher.")
    return parts


def _short(method: str) -> str:
    """The method without its d and without what is usual."""
    head, at, space = method.partition("@")
    kept = [part for part in space.split(",") if part and not part.startswith(("d=", "layer=", "head=", "scale="))]
    return f"{head}@{','.join(kept)}" if at else head


if __name__ == "__main__":
    main()
