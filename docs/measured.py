"""The figures that the README quotes, made from the stores in docs/results by today's rule.

    python docs/measured.py            prints the block
    python docs/measured.py --write    puts it into the README, and the figure beside these pages

No model, no data, nothing trained.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from refit import Refit  # noqa: E402
from refit import refits as _refits  # noqa: E402

from d90.cli.demo import answer_lines  # noqa: E402
from d90.report.figure import figure_svg  # noqa: E402
from d90.report.svg import standalone  # noqa: E402
from d90.report.words import answer, spread  # noqa: E402
from d90.results.measure import Measurement  # noqa: E402
from d90.results.result import stored_results  # noqa: E402
from d90.trials.store import Store  # noqa: E402

RESULTS, FIGURE = ROOT / "docs" / "results", ROOT / "docs" / "mnist.svg"
BLOCK = re.compile(r"(?<=<!-- measured -->\n).*?(?=<!-- /measured -->)", re.DOTALL)
DEMO = re.compile(r"(?<=<!-- demo -->\n).*?(?=<!-- /demo -->)", re.DOTALL)
FASTFOOD = "full@structure=did,projection=fastfood"
TWICE = {
    "twice_sst2_sentences": "SST-2 sentences, 2 epochs",
    "twice_qqp": "QQP, 1 epoch",
    "twice_mrpc": "MRPC, 3 epochs",
}
NETS = {"fc": "784-200-200-10", "lenet": "LeNet"}
PUBLISHED = {("fc", True): "750", ("fc", False): "525-575", ("lenet", True): "290", ("lenet", False): ""}


@functools.cache
def refits(path: Path) -> list[Refit]:
    """The measurements of a store, by today's rule."""
    return _refits(path)


def mnist(model: str, given: bool) -> Measurement:
    """The latest Fastfood measurement of a network, against a given baseline of 1.0 or a measured one."""
    found = [
        pair.after
        for pair in refits(RESULTS / "mnist.sqlite")
        if Path(pair.after.model).name == model
        and pair.after.method.split(",scale")[0].replace(",entries=sign", "") == FASTFOOD
        and (pair.after.baseline_method == "a given number") == given
    ]
    return max(found, key=lambda study: len(study.curve))


def told(study: Measurement) -> str:
    """d90 and its interval."""
    return f"{answer(study)} ({spread(study).removeprefix('90 % interval ')})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def block() -> str:
    """What stands between the README's marks."""
    lines = [
        "| from scratch, MNIST, Fastfood | d90 against 1.0 | Li et al. | against its own baseline | Li et al. |",
        "|-|-|-|-|-|",
    ]
    for model, name in NETS.items():
        cells = [part for given in (True, False) for part in (told(mnist(model, given)), PUBLISHED[model, given])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| minilm, DID, 90 % of the accuracy | seeds from 0 | the same question, seeds from 1,000 |",
        "|-|-|-|",
    ]
    for store, name in TWICE.items():
        lines.append(f"| {name} | {' | '.join(told(pair.after) for pair in refits(RESULTS / f'{store}.sqlite'))} |")
    certificate: dict[str, Any] = json.loads((RESULTS / "certify_mnist.json").read_text(encoding="utf-8"))
    lines += [
        "",
        f"Certified: LeNet on MNIST errs at most {_percent(certificate['bound'])} of the time, with 95 % confidence, by "
        f"{certificate['best']['d']} numbers in {certificate['bits']:,.0f} bits and",
        f"the training examples alone (test error {_percent(certificate['test_error'])}; a hold-out of a tenth would have said "
        f"{_percent(certificate['holdout'])}).",
        "",
    ]
    return "\n".join(lines)


def demo() -> str:
    """How `d90 demo` ended, from its own store."""
    store = Store(RESULTS / "demo.sqlite", write=False)
    found = stored_results(store, Measurement, "measure")[-1]
    store.close()
    return "\n".join(["```", *answer_lines(found)[1:], "```", ""])


def figure() -> str:
    """Accuracy against d of the fully connected network, as a file of its own."""
    return standalone(figure_svg([mnist("fc", False)], "mnist")) + "\n"


def main() -> None:
    """Print the block, or write block and figure."""
    if "--write" not in sys.argv:
        print(demo(), block(), sep="\n", end="")
        return
    readme = ROOT / "README.md"
    text = BLOCK.sub(lambda _: block(), readme.read_text(encoding="utf-8"))
    readme.write_text(DEMO.sub(lambda _: demo(), text), encoding="utf-8")
    FIGURE.write_text(figure(), encoding="utf-8")


if __name__ == "__main__":
    main()
