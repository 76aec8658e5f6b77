"""Write docs/results/README.md from the stores beside it: every figure there comes from a stored trial.

python benchmarks/summary.py
"""

from __future__ import annotations

from pathlib import Path

from d90.sweep.store import Store

RESULTS = Path(__file__).parents[1] / "docs" / "results"
HEAD = """# Results

Made by `python benchmarks/summary.py` from the stores in this folder. The command behind a figure stands in its page; all of them together:

```
benchmarks/studies.sh DATA [mnist|dense|sst2|mrpc]   # DATA holds mnist/ (idx files), sst2_sentences/ and mrpc/ (jsonl.gz)
```

A measurement that was cut short goes on from its store. `*.jsonl` has a line for each trial with its recipe and its
whole curve, `*.html` the figures. One seed each; the bracket's ends are both measured.
Seconds are of one or two busy cores and do not compare.

`kill.json`: what `python benchmarks/kill.py DATA` found, 20 times kill -9 and resume.
"""
PUBLISHED = """
Published for 784-200-200-10 (Li et al. 2018): d_int90 = 750 against a global baseline of 1.0, 525-575 against measured
baselines, with Adam at 1e-3, batch 128 and up to 100 epochs.
Ours: 20 epochs, Adam at 5e-2 with warm-up and decay under step rule 1, unit columns over all D (scale global).
"""


def main() -> None:
    parts = [HEAD]
    for name, words in (("mnist", PUBLISHED), ("sst2_sentences", ""), ("mrpc", "")):
        path = RESULTS / f"{name}.sqlite"
        if not path.exists():
            continue
        store = Store(path)
        parts.append(f"\n## {name}\n{words}")
        studies = store.studies()
        if studies:
            parts.append(
                "| method | rule | baseline | threshold | chance | d90 | largest d that fails |\n|-|-|-|-|-|-|-|"
            )
        for s in studies:
            answer = s["d90"] if s["d90"] is not None else s["status"]
            chance = max(s["majority"], s["zero"])
            full = f"{s['baseline']:.4f} ({s['baseline_method']})"
            numbers = f"{full} | {s['threshold']:.4f} | {chance:.4f} | **{answer}** | {s['interval'][0]}"
            parts.append(f"| `{_short(s['method'])}` | {s['rule']} | {numbers} |")
        parts.append(
            "\nEvery trial (score: best of the evaluations on the validation split; >= where it stopped once it passed):\n"
        )
        parts.append("| method | d | score | steps | seconds |\n|-|-|-|-|-|")
        for t in sorted(
            store.trials(),
            key=lambda t: (t.recipe["method"].split("d=")[-1].split(",", 1)[-1], t.d or 0, t.stop_at or 9),
        ):
            sign = ">= " if t.status == "passed" else ""
            method = _short(t.recipe["method"])
            row = (method, t.d or "", f"{sign}{t.score:.4f}", t.outcome["steps"], f"{t.outcome['seconds']:.0f}")
            parts.append("| `" + row[0] + "` | " + " | ".join(map(str, row[1:])) + " |")
        store.close()
    (RESULTS / "README.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _short(method: str) -> str:
    """The method without its d and without what is usual."""
    head, at, space = method.partition("@")
    kept = [part for part in space.split(",") if part and not part.startswith(("d=", "layer=", "head=", "scale="))]
    return f"{head}@{','.join(kept)}" if at else head


if __name__ == "__main__":
    main()
