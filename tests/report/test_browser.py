"""Every kind of page in headless Chromium, at 1280 and 390 pixels, in the light and in the dark."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from d90.report.advise import advice_page
from d90.report.compare import comparison_page
from d90.report.draw import Dot, Level, Look, Mark, Trials, draw
from d90.report.generalization import gaps_page
from d90.report.measure import page
from d90.report.series import lowdata_page, series_page
from d90.report.store import store_pages
from d90.report.weight_change import analysis_page
from d90.results.compare import Comparison
from d90.results.measure import Measurement
from d90.results.result import Result, stored_results
from d90.results.weight_change import Analysis
from d90.studies.generalization import generalization
from d90.trials.store import Store
from tests.reference.browser import browser, looked_at
from tests.reference.results import made_advice, made_cell, made_comparison, made_low_data, made_series, made_tried

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def stored(name: str, kind: type[Result], study: str) -> list[Result]:
    store = Store(RESULTS / f"{name}.sqlite", write=False)
    found = stored_results(store, kind, study)
    store.close()
    return list(found)


def measured() -> str:
    """An answer beyond what was tried, as a demo once had; an open one; one without any trial."""
    found = [one for one in stored("mrpc", Measurement, "measure") if isinstance(one, Measurement)]
    narrow = tuple(point for point in found[0].curve if 2000 < point.d < 20_000)
    beyond = replace(found[0], curve=narrow, d90=62_000, interval=(1032, 147_020), band=())
    empty = replace(found[0], curve=(), d90=None, status="trivial", interval=(None, None), band=())
    return page([found[1], beyond, empty])


def compared() -> str:
    """The stored one, and ten methods of which several have the same score and size."""
    (found,) = (one for one in stored("compare", Comparison, "compare") if isinstance(one, Comparison))
    names = {f"method-of-a-long-name-{i}": [0.8 + 0.001 * (i % 3), 0.81] for i in range(10)}
    return comparison_page([found, made_comparison("accuracy", seeds=2, **names)])


def low_data() -> str:
    names = ("full", "lora_8", "adapter:kind=pfeiffer,r=16", "preembed:prefix=8+lora:r=8", "bitfit")
    scores = {name: [0.6 + 0.02 * i, 0.62] for i, name in enumerate(names)}
    comparisons = [made_comparison("accuracy", seeds=2, **scores) for _ in range(3)]
    return lowdata_page(made_low_data([100, 1000, 10_000], *comparisons))


def series() -> str:
    cells = [made_cell(2**i, 400 if i < 5 else 430) for i in range(9)]
    cells += [made_cell(0, None, "unreachable", interval=(90_000, None)), made_cell(700, 380, interval=(None, 900))]
    return series_page(made_series(*cells))


def nothing_measured() -> str:
    return series_page(made_series(made_cell(4, None, "failed", threshold=None, chance=None, error="no memory " * 20)))


def analysed() -> str:
    text = (RESULTS / "analyze_r8_r64.json").read_text(encoding="utf-8")
    return analysis_page(Analysis.from_dict(json.loads(text)))


def gaps() -> str:
    return gaps_page(generalization([RESULTS / "mrpc.sqlite"]), 3, "d90 gap docs/results/mrpc.sqlite")


def advised() -> str:
    """Twelve candidates, two of the same size and one that failed; nothing smaller than the reference; no candidate at all."""
    names = [
        "full@d=100",
        "full@d=1000",
        "full@d=10000",
        *(f"lora:r={r},alpha=8.0,targets=qkvo/mlp,init=code" for r in (1, 2, 4, 8, 16)),
    ]
    names += ["bitfit", "adapter:kind=pfeiffer,r=16", "preembed:prefix=8+lora:r=8,alpha=8.0", "pafi:fraction=0.005"]
    tried = [
        made_tried(
            name,
            100 * 3 ** (i % 9),
            0.7 + 0.02 * i,
            0.71 + 0.02 * i,
            gap=0.2 - 0.02 * i,
            shown=7 <= i < 11,
            worse=i < 4,
        )
        for i, name in enumerate(names)
    ]
    failed = made_tried("hiwi:r=4,targets=mlp", 30_000, gap=None)
    full = made_tried("full", 22_713_216, 0.89, 0.9)
    return advice_page([
        made_advice("shown", [*tried, failed], full),
        made_advice("reference", tried[:1], full, task="other/" + "long-name-" * 12),
        made_advice("none", [], None, goal=0.99, line="", snippets={}),
    ])  # fmt: skip


def overlaid() -> str:
    """Several methods on one task in one figure."""
    found = [one for one in stored("mrpc", Measurement, "measure") if isinstance(one, Measurement)]
    names = ("full", "lora:r=8", "preembed:prefix=8+lora:r=8,targets=qkvo/mlp", "bitfit")
    studies = [
        replace(found[0], method=f"{name}@structure=did", d90=d, interval=(2 * d // 3, None if i > 2 else 2 * d))
        for i, (name, d) in enumerate(zip(names, (300, 900, 2700, 8100), strict=True))
    ]
    text = page(studies)
    assert text.count('id="o1-') > 10
    return text


def index() -> str:
    store = Store(RESULTS / "lowdata.sqlite", write=False)
    text = store_pages(store, "index.html")["index.html"]()
    store.close()
    return text


PAGES: dict[str, Callable[[], str]] = {
    one.__name__: one
    for one in (measured, compared, low_data, series, nothing_measured, analysed, gaps, index, advised, overlaid)
}


@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="no Chromium here: install the system's package chromium")
@pytest.mark.parametrize("kind", PAGES)
def test_nothing_of_a_page_is_cut_overlaps_or_is_too_small(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"{kind}.html"
    file.write_text(PAGES[kind](), encoding="utf-8")
    for (width, scheme), seen in looked_at(file, tmp_path).items():
        assert not seen["found"], (width, scheme, seen["found"])
        back, ink = (sum(map(int, re.findall(r"\d+", seen[key])[:3])) for key in ("back", "ink"))
        assert (back > 700 > 200 > ink) if scheme == "light" else (back < 100 < 600 < ink)


def test_d90_and_its_ends_lie_inside_the_figure_or_at_an_arrow() -> None:
    dots = [Dot(d, 0.5 + 0.1 * i, "trial", str(d)) for i, d in enumerate((1000, 2000, 4000))]
    series = [Trials("full", dots, [])]
    text = draw(
        ["t"],
        Look("accuracy"),
        (1, 10**6),
        series,
        [Level(0.6, "threshold", "--")],
        [Mark(62_000, (500, None), "d90", 0)],
        "s1",
    )
    frame = re.search(r'id="s1-patch_2">\n<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) ', text)
    mark = re.search(r'id="s1-mark0">\n<path d="M ([\d.]+) ', text)
    assert frame, text[:3000]
    assert mark
    assert float(frame[1]) < float(mark[1]) < float(frame[2])
    assert 'id="s1-openabove"' in text
    assert 'id="s1-openbelow"' not in text
    ticks = [word for word in re.findall(r">([\d,]+)</text>", text) if "," in word or word.isdigit()]
    assert len(ticks) >= 2


def test_a_measurement_without_a_trial_says_why_there_is_no_figure() -> None:
    text = measured()
    assert (
        text.count("No figure: nothing was trained in a subspace, since every d would pass: ask with --rule gain") == 1
    )
