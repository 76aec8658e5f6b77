"""What a result shows of itself in a notebook, and what `plot()` draws: the sentences and figures of its page, a table of its rows."""

from __future__ import annotations

import math

from d90.display import Text, figures_of, text_of
from d90.report.advise import advice_figure
from d90.report.claims import analysis_claims, lowdata_claims, series_claims
from d90.report.compare import comparison_figure, interval, verdicts
from d90.report.figure import figure_svg
from d90.report.generalization import gaps_figures
from d90.report.intervals import Interval, intervals_figure
from d90.report.measure import headline
from d90.report.series import answered, lowdata_figure, series_figures
from d90.report.series import interval as interval_of_cell
from d90.report.svg import standalone
from d90.report.weight_change import maps_figure, spectra_figure
from d90.report.words import base_name, score
from d90.results.advise import Recommendation
from d90.results.compare import Comparison
from d90.results.generalization import Generalization
from d90.results.latency import Latency, LatencyRow
from d90.results.low_data import LowData
from d90.results.measure import Measurement
from d90.results.series import Series
from d90.results.weight_change import Analysis
from d90.tasks.metrics import to_display
from d90.training.loading import Scored, Tuned
from d90.training.result import TrialResult
from d90.training.run import Run

__all__: list[str] = []  # importing it registers what follows


@figures_of.register
def _(result: Measurement) -> list[str]:
    return [standalone(figure_svg([result], "m"))]


@text_of.register
def _(result: Measurement) -> Text:
    lines = [headline(result), result.more, f"to train it: {result.line}" if result.line else ""]
    return [line for line in (*lines, f"its tune: {result.tune}" if result.tune else "") if line], []


@figures_of.register
def _(result: Comparison) -> list[str]:
    return [standalone(comparison_figure(result, "c"))] if result.entries else []


@text_of.register
def _(result: Comparison) -> Text:
    head = ("method", f"{result.split} {result.metric}", "95 % interval", "stored", "trained", "learning rate")
    rows = [
        (
            entry.asked,
            score(entry.mean, result.metric),
            interval(entry, result.metric) or "–",
            f"{entry.stored:,}",
            f"{entry.trained:,}",
            f"{entry.lr:g}",
        )
        for entry in sorted(result.entries, key=lambda entry: entry.stored)
    ]
    title = f"{len(rows)} methods of {base_name(result.model)} on {base_name(result.task)}"
    return [title, *verdicts(result)], [head, *rows]


@figures_of.register
def _(result: Recommendation) -> list[str]:
    return [standalone(advice_figure(result, "a"))] if result.tried or result.reference else []


@text_of.register
def _(result: Recommendation) -> Text:
    return [*result.lines(), *([f"to train it: {result.line}"] if result.line else [])], []


@figures_of.register
def _(result: Series) -> list[str]:
    return [standalone(figure) for figure in series_figures(result)]


@text_of.register
def _(result: Series) -> Text:
    rows = [
        (base_name(cell.model), base_name(cell.task), f"{cell.x:,}", answered(cell), interval_of_cell(cell)[2:] or "–")
        for cell in result.cells
    ]
    title = f"d90 of {len({cell.model for cell in result.cells})} models against {result.xlabel}"
    claims = [f"{words}: {verdict}" for words, verdict in series_claims(result)]
    return [title, *claims], [("model", "task", result.xlabel, "d90", "interval"), *rows]


@figures_of.register
def _(result: LowData) -> list[str]:
    return [standalone(lowdata_figure(result))]


@text_of.register
def _(result: LowData) -> Text:
    metric = result.comparisons[0].metric
    rows = [
        (asked, *("–" if entry is None else score(entry.mean, metric) for entry in entries))
        for asked, entries in result.rows().items()
    ]
    title = f"{base_name(result.model)} on {base_name(result.task)}: {result.comparisons[0].split} {metric}"
    claims = [f"{words}: {verdict}" for words, verdict in lowdata_claims(result)]
    return [title, *claims], [("method", *(f"n = {n:,}" for n in result.counts)), *rows]


@figures_of.register
def _(result: Analysis) -> list[str]:
    tables = [rows for rows in (result.rows, result.other_rows) if rows]
    maps = [maps_figure(result.likeness)] if result.likeness else []
    return [standalone(figure) for figure in (*([spectra_figure(tables)] if tables else []), *maps)]


@text_of.register
def _(result: Analysis) -> Text:
    tunes = " and ".join(f"{tune} ({method})" for tune, method in _tunes(result))
    return [f"what changed: {tunes}", *(f"{words}: {verdict}" for words, verdict in analysis_claims(result))], []


def _tunes(result: Analysis) -> list[tuple[str, str]]:
    other = [(result.other, result.other_method)] if result.other else []
    return [(result.tune, result.method), *other]


@figures_of.register
def _(result: Latency) -> list[str]:
    rows = [
        Interval(f"{_method(row)}, {row.batch} x {row.length}", 100 * row.added, 100 * row.low, 100 * row.high)
        for row in result.rows
        if row.method != "base"
    ]
    title = f"{result.model}: what is added to a forward pass"
    return (
        [standalone(intervals_figure(title, "%, with its 95 % interval", rows, [(0.0, "the bare model")]))]
        if rows
        else []
    )


@text_of.register
def _(result: Latency) -> Text:
    rows = [
        (
            _method(row),
            f"{row.batch} x {row.length}",
            f"{row.milliseconds:,.1f} ms",
            "–" if row.method == "base" else f"{100 * row.added:+.1f} %",
            "–" if row.method == "base" else f"{100 * row.low:+.1f} to {100 * row.high:+.1f}",
        )
        for row in result.rows
    ]
    head = ("method", "batch x tokens", "a forward pass", "added", "95 % interval")
    return [f"{result.model}, {result.weights:,} weights: what is added to a forward pass"], [head, *rows]


def _method(row: LatencyRow) -> str:
    return f"{row.asked}{', merged' if row.merged else ''}"


@figures_of.register
def _(result: Generalization) -> list[str]:
    return [standalone(svg) for svg, _ in gaps_figures(result)]


@text_of.register
def _(result: Generalization) -> Text:
    rows = [
        (
            f"{base_name(row.model)} on {base_name(row.task)}",
            f"{row.d90:,}",
            "–" if row.train is None else f"{row.train:.4f}",
            "–" if row.evaluation is None else f"{row.evaluation:.4f}",
            row.note or "–" if row.gap is None else f"{row.gap:.3f}",
        )
        for row in result
    ]
    words = [words for _, words in gaps_figures(result)]
    return ["d90 and generalization", *words], [("measurement", "d90", "training", "evaluation", "gap"), *rows]


@figures_of.register
def _(result: Run) -> list[str]:
    return _evaluations(str(result), result.task.metric, result.outcome)


@figures_of.register
def _(result: Tuned) -> list[str]:
    return _evaluations(str(result), result.record.task.metric, result.record.outcome)


def _evaluations(title: str, metric: str, outcome: TrialResult) -> list[str]:
    rows = [Interval(f"step {look.step:,}", *[to_display(look.score, metric)] * 3) for look in outcome.curve]
    return [standalone(intervals_figure(title, f"validation {metric}", rows, []))] if rows else []


@figures_of.register
def _(result: Scored) -> list[str]:
    low, high = sorted(to_display(end, result.metric) for end in (result.low, result.high))
    if not math.isfinite(high - low):
        return []
    row = Interval(base_name(result.task), to_display(result.score, result.metric), low, high)
    title = f"{result.count:,} {result.split} examples"
    return [standalone(intervals_figure(title, f"{result.split} {result.metric_name or result.metric}", [row], []))]
