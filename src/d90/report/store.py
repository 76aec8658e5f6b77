"""Everything in a store: an index with the recommendation at its top, and a page for each kind of study, linked both ways."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from d90.errors import InputError
from d90.methods import parse
from d90.report.advise import advice_page
from d90.report.compare import comparison_page
from d90.report.environment import render, write_page
from d90.report.measure import headline, other_trials, page
from d90.report.series import lowdata_page, series_page
from d90.report.words import base_name, score
from d90.results.advise import Recommendation
from d90.results.compare import Comparison
from d90.results.low_data import LowData
from d90.results.measure import Measurement
from d90.results.result import Result, stored_results
from d90.results.series import Series
from d90.trials.row import TrialRow
from d90.trials.store import Store

__all__ = ["Page", "store_pages", "write_store"]

Page = Callable[[], str]  # makes a page's text when it is asked for: a figure takes seconds
Linked = Callable[[str], str]  # the same, given the index that the page links back to


@dataclass(frozen=True)
class _Kind:
    """A kind of study: its title, its dataclass, its pages by their endings, and a study's answer in a line."""

    title: str
    result: type[Result]
    pages: Callable[[Store, Sequence[Result]], Mapping[str, Linked]]
    answer: Callable[[Result], str]


def _pages_of_measurements(store: Store, studies: Sequence[Result]) -> dict[str, Linked]:
    found = [one for one in studies if isinstance(one, Measurement)]
    return {"": lambda index: page(found, other_trials(store), index=index)}


def _pages_of_advice(store: Store, studies: Sequence[Result]) -> dict[str, Linked]:
    found = [one for one in studies if isinstance(one, Recommendation)]
    return {".advise": lambda index: advice_page(found, index=index)}


def _pages_of_comparisons(store: Store, studies: Sequence[Result]) -> dict[str, Linked]:
    found = [one for one in studies if isinstance(one, Comparison)]
    return {".compare": lambda index: comparison_page(found, index=index)}


def _each(kind: str, made: Callable[[Result, str], str]) -> Callable[[Store, Sequence[Result]], Mapping[str, Linked]]:
    """Pages of studies that have one each: the newest has the plain name, as its command writes it."""

    def pages(store: Store, studies: Sequence[Result]) -> dict[str, Linked]:
        last = len(studies)
        return {f".{kind}" if i == last else f".{kind}{i}": partial(made, study) for i, study in enumerate(studies, 1)}

    return pages


def _of_measurement(study: Result) -> str:
    assert isinstance(study, Measurement)
    return f"{base_name(study.model)} on {base_name(study.task)}, {_brief(study.method)}: {headline(study)}"


def _of_comparison(study: Result) -> str:
    assert isinstance(study, Comparison)
    best = max((entry for entry in study.entries if entry.scores), key=lambda entry: entry.mean, default=None)
    about = f"{len(study.entries)} methods of {base_name(study.model)} on {base_name(study.task)}"
    if best is None:
        return f"{about}: none was trained"
    best_score, chance = score(best.mean, study.metric), score(study.chance, study.metric)
    return f"{about}: {best.asked} has the best {study.metric}, {best_score}; chance {chance}"


def _of_series(study: Result) -> str:
    assert isinstance(study, Series)
    found = sum(cell.d90 is not None for cell in study.cells)
    return f"d90 of {len({cell.x for cell in study.cells})} models against {study.xlabel}: {found} of {len(study.cells)} measured"


def _of_low_data(study: Result) -> str:
    assert isinstance(study, LowData)
    return (
        f"{base_name(study.model)} on {base_name(study.task)} with {', '.join(f'{n:,}' for n in study.counts)} examples"
    )


def _series_page(study: Result, index: str) -> str:
    assert isinstance(study, Series)
    return series_page(study, index=index)


def _low_data_page(study: Result, index: str) -> str:
    assert isinstance(study, LowData)
    return lowdata_page(study, index=index)


_KINDS: dict[str, _Kind] = {
    "advise": _Kind("Advice", Recommendation, _pages_of_advice, str),
    "measure": _Kind("Measurements of d90", Measurement, _pages_of_measurements, _of_measurement),
    "compare": _Kind("Comparisons", Comparison, _pages_of_comparisons, _of_comparison),
    "trajectory": _Kind("Pretraining runs", Series, _each("trajectory", _series_page), _of_series),
    "family": _Kind("Families of models", Series, _each("family", _series_page), _of_series),
    "lowdata": _Kind("Few examples", LowData, _each("lowdata", _low_data_page), _of_low_data),
}


def store_pages(store: Store, index: str, refresh: int | None = None) -> dict[str, Page]:
    """What makes every page of a store by its file's name, the index under the name `index`.

    Args:
        store: open.
        index: the index's file name, as "d90.report.html"; a page's is the store's name with its kind, as "d90.compare.html".
        refresh: seconds after which a browser asks for the index again.

    Raises:
        InputError: nothing is in the store yet.
        StoreError: a result that does not hold what d90 writes.
    """
    pages: dict[str, Page] = {}
    sections = []
    recommended: list[str] = []
    line = ""
    for name, kind in _KINDS.items():
        studies = stored_results(store, kind.result, name)
        if not studies:
            continue
        made = {_name(store, ending, index): one for ending, one in kind.pages(store, studies).items()}
        names = list(made) if len(made) == len(studies) else list(made) * len(studies)
        with store.reading():
            listed = [{"answer": kind.answer(study), "page": at} for study, at in zip(studies, names, strict=True)]
        pages |= {at: partial(_made, store, one, index) for at, one in made.items()}
        sections.append({"title": kind.title, "studies": listed[::-1]})
        if not recommended:
            recommended, line = _recommendation(studies[-1], listed[-1]["answer"])
    trials = store.trials()
    if not sections and not trials and store.all_studies():
        raise InputError(
            f"'{store.path}' holds certificates alone, which have no page; 'd90 verify' reads one from its JSON file"
        )
    if not sections and not trials:
        raise InputError(f"nothing is in '{store.path}' yet; run 'd90 measure' or 'd90 advise' first")
    text = render(
        "index.html", name=store.path.name, recommended=recommended, line=line, sections=sections, running=_last(trials),
        count=len(trials), refresh=refresh,
    )  # fmt: skip
    return {index: lambda: text, **pages}


def write_store(store: Store, path: str | os.PathLike[str]) -> Path:
    """Write the index of a store to `path`, and its pages beside it.

    Raises:
        InputError, StoreError: as `store_pages`.
        RunFailed: the folder cannot be written.
    """
    path = Path(path)
    for name, made in reversed(store_pages(store, path.name).items()):
        write_page(made(), path.with_name(name))
    return path


def _recommendation(study: Result, answer: str) -> tuple[list[str], str]:
    """(what is said first, the line to run) of the newest study that has them."""
    if isinstance(study, Recommendation):
        return study.lines(), study.line
    if isinstance(study, Measurement):
        chance = f"chance {score(study.chance, study.metric)}, full fine-tuning {score(study.baseline, study.metric)}"
        return [answer, chance, *([f"its tune: {study.tune}"] if study.tune else [])], study.line
    return [], ""


def _name(store: Store, ending: str, index: str) -> str:
    """A page's file name; that of measurements gives way where the index has it."""
    name = f"{store.path.stem}{ending}.html"
    return name if name != index else f"{store.path.stem}{ending}.pages.html"


def _last(trials: Sequence[TrialRow]) -> str:
    if not trials:
        return ""
    row = max(trials, key=lambda one: (one.ended, one.id))
    return f"{_brief(row.recipe.method)} seed {row.seed} on {base_name(row.recipe.task)}, {row.status}, {row.ended}"


def _brief(method: str) -> str:
    """A stored method without what every subspace has by default; of a package that is not installed, as it is."""
    try:
        return parse(method).brief
    except InputError:
        return method


def _made(store: Store, made: Linked, index: str) -> str:
    with store.reading():
        return made(index)
