"""Every published d90 again, by today's rule, from the trials in docs/results: no model, no data, nothing trained.

    python benchmarks/refit.py            # the interval told then, and today's, side by side
    python benchmarks/refit.py --pages    # and all pages of docs/results, with today's

The stores stay as they are: what was told then is part of the record.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy

from d90.report.compare import comparison_page
from d90.report.figure import points
from d90.report.generalization import gaps_page
from d90.report.measure import other_trials, page
from d90.report.series import lowdata_page, series_page
from d90.report.weight_change import analysis_page
from d90.report.words import answer, names, spread
from d90.results.compare import Comparison
from d90.results.low_data import LowData
from d90.results.measure import Measurement
from d90.results.result import stored_results
from d90.results.series import Cell, Series
from d90.results.weight_change import Analysis
from d90.search import NextTrial, Observation, SearchProblem, SearchResult, summarise
from d90.search.noise import expected_noise
from d90.search.rules import goal
from d90.studies.generalization import LEVELS, generalization
from d90.studies.measurement_trials import scatter_of
from d90.trials.predictions import unpack
from d90.trials.row import TrialRow
from d90.trials.store import Store

RESULTS = Path(__file__).parents[1] / "docs" / "results"
VALIDATION = {"mrpc": 408}  # of stores from before predictions were kept
USUAL = 1000
GAP_OF = "full@structure=did,projection=fastfood,"  # begins the methods whose measurements are shown


@dataclass(frozen=True)
class Refit:
    """A stored measurement, and the same with what today's rule says of its trials."""

    store: str
    name: str
    before: Measurement
    after: Measurement


def refit(study: Measurement, rows: Sequence[TrialRow], examples: int) -> SearchResult:
    """What today's rule says of a measurement's trials.

    Args:
        study: as stored.
        rows: the store's.
        examples: of the validation split.
    """
    chance = study.chance
    given = study.baseline_method == "a given number"
    used = {(point.d, point.seed, point.score) for point in study.curve}
    alike = [
        row
        for row in rows
        if row.result.context.task == study.definitions.get("task") and row.status == "finished"
        and (row.d, row.seed, row.score) not in used and row.score not in study.baseline_scores
    ]  # fmt: skip
    problem = SearchProblem(
        goal(study.rule, chance, study.fraction, study.within),
        low=study.lambdas + 1,
        high=study.D,
        chance=chance,
        noise=expected_noise(
            study.metric, examples, study.baseline, chance, study.definitions.get("loss_deviation", 0.0)
        ),
        full=study.baseline if given else None,
        scatter=scatter_of(alike),
    )
    baselines = [] if given else [Observation(None, i, i, s, s) for i, s in enumerate(study.baseline_scores)]
    return summarise(problem, [*baselines, *_observations(study, rows)], study.spent)


def _observations(study: Measurement, rows: Sequence[TrialRow]) -> Iterator[Observation]:
    stops = {(row.d, row.seed, row.score, row.status): row.stop_at for row in rows}
    for point in points(study):
        if numpy.isfinite(point.score):
            status = point.status
            stop_at = stops.get((point.d, point.seed, point.score, status)) or study.threshold
            # under another rule's threshold the same trial may have stopped higher: it passed that one
            yield Observation.of(NextTrial(point.d, point.p_seed, point.seed), status, point.score, stop_at, 1.0)


def refitted(study: Measurement, rows: Sequence[TrialRow], examples: int) -> Measurement:
    """The study as `measure` would store it today from the same trials."""
    if study.status == "trivial" or study.rule == "margin":
        return study
    found = refit(study, rows, examples)
    tried = [trial.d for trial in found.trials if trial.d is not None]
    band: list[tuple[float, float, float, float]] = []
    if found.posterior is not None:
        ds = numpy.geomspace(max(1, min(tried) / 2), min(study.D, max(tried) * 2), 60)
        band = found.posterior.band(ds.tolist(), found.coverage)
    return replace(
        study,
        status=found.status,
        d90=found.d90,
        interval=found.interval,
        coverage=found.coverage,
        open_ends=True,
        sure=found.sure,
        noise=found.noise,
        failed=tuple((t.d or 0, t.projection_seed, t.training_seed) for t in found.failed),
        band=tuple(band),
        definitions={**study.definitions, "validation": examples},
    )


def examples_of(store: Store, rows: Sequence[TrialRow]) -> dict[str, int]:
    """The number of validation examples of each task (by fingerprint), as its stored predictions count them."""
    found: dict[str, int] = {}
    for row in rows:
        task = row.result.context.task
        if task not in found:
            kept = store.find(row.key, None)
            if kept is not None and kept.result.predictions:
                found[task] = len(unpack(kept.result.predictions))
    return found


def refits(path: Path) -> list[Refit]:
    """Every measurement of a store."""
    store = Store(path, write=False)
    rows, studies = store.trials(), stored_results(store, Measurement, "measure")
    sizes = examples_of(store, rows)
    store.close()
    short = names(studies) if studies else []
    found = []
    for study, name in zip(studies, short, strict=True):
        base = Path(study.task).name
        examples = sizes.get(str(study.definitions.get("task"))) or VALIDATION.get(base, USUAL)
        found.append(Refit(path.stem, name, study, refitted(study, rows, examples)))
    return found


def with_cells(series: Series, pairs: Sequence[Refit]) -> Series:
    """A trajectory or a family whose cells hold today's answers."""

    def cell_of(cell: Cell) -> Cell:
        for pair in pairs:
            before, after = pair.before, pair.after
            same = before.model == cell.model and before.task == cell.task
            if same and before.threshold == cell.threshold and before.d90 == cell.d90:
                return replace(cell, status=after.status, d90=after.d90, interval=after.interval)
        return cell

    return replace(series, cells=tuple(map(cell_of, series.cells)))


def write_pages(path: Path, pairs: Sequence[Refit], page_path: Path | None = None) -> None:
    """The page of a store, where there is one: beside it, or at `page_path`."""
    target = page_path or path.with_suffix(".html")
    if not target.exists():
        return
    store = Store(path, write=False)
    series = [study for kind in ("trajectory", "family") for study in stored_results(store, Series, kind)]
    low_data = stored_results(store, LowData, "lowdata")
    compared = stored_results(store, Comparison, "compare")
    if series:
        text = series_page(with_cells(series[-1], pairs))
    elif low_data or compared:
        text = lowdata_page(low_data[-1]) if low_data else comparison_page(compared)
    else:
        text = page([p.after for p in pairs], other_trials(store)) if pairs else ""
    store.close()
    if text:
        target.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def write_others() -> None:
    """The pages that belong to no store: of what tunes changed, and of d90 beside generalization gaps."""
    for path in sorted(RESULTS.glob("analyze_*.json")):
        found = Analysis.from_dict(json.loads(path.read_text(encoding="utf-8")))
        path.with_suffix(".html").write_text(analysis_page(found), encoding="utf-8", newline="\n")
    stores = ["mnist", "sst2_sentences", "mrpc"]
    command = (
        f"d90 gap {' '.join(f'docs/results/{name}.sqlite' for name in stores)} -m {GAP_OF} -o docs/results/gap.html"
    )
    rows = generalization([RESULTS / f"{name}.sqlite" for name in stores], method=GAP_OF)
    (RESULTS / "gap.html").write_text(gaps_page(rows, LEVELS, command), encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", action="store_true")
    given = parser.parse_args()
    print("| store | measurement | d90 then | then | d90 today | today | sure | noise |\n|-|-|-|-|-|-|-|-|")
    for path in sorted(RESULTS.glob("*.sqlite")):
        pairs = refits(path)
        for pair in pairs:
            before, after = pair.before, pair.after
            cells = [
                answer(before),
                spread(before),
                answer(after),
                spread(after),
                after.sure,
                f"{after.noise:.4f}",
            ]
            print(f"| {pair.store} | {Path(before.model).name} on {Path(before.task).name}, {pair.name} | "
                  + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")  # fmt: skip
        if given.pages:
            write_pages(path, pairs)
    if given.pages:
        write_others()


if __name__ == "__main__":
    main()
