"""What every result shows of itself: its answer, a table and a figure in a notebook, and the figure alone by `plot()`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.dom import minidom

import pytest

import d90
from d90.certificates.classification import Certificate
from d90.certificates.language import LanguageCertificate
from d90.display import Display
from d90.errors import InputError
from d90.results.compare import Comparison
from d90.results.latency import Latency
from d90.results.low_data import LowData
from d90.results.measure import Measurement
from d90.results.result import Result, stored_results
from d90.results.series import Series
from d90.results.weight_change import Analysis
from d90.trials.store import Store
from tests.reference.blobs import blobs
from tests.reference.results import made_cell, made_comparison, made_low_data, made_series
from tests.reference.tiny import tiny_model

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def stored(name: str, kind: type[Result], study: str) -> Any:
    store = Store(RESULTS / f"{name}.sqlite", write=False)
    found = stored_results(store, kind, study)[-1]
    store.close()
    return found


def from_json(name: str, kind: Any) -> Any:
    return kind.from_dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


SHOWN: dict[str, tuple[Callable[[], Any], str]] = {
    "measure": (lambda: stored("mrpc", Measurement, "measure"), "weights"),
    "compare": (lambda: stored("compare", Comparison, "compare"), "above chance"),
    "family": (lambda: stored("family", Series, "family"), "d90 of 3 models against weights of the model"),
    "trajectory": (lambda: stored("trajectory", Series, "trajectory"), "against pretraining step"),
    "lowdata": (lambda: stored("lowdata", LowData, "lowdata"), "LoRA is no worse than full"),
    "latency": (lambda: from_json("latency", Latency), "what is added to a forward pass"),
    "analysis": (lambda: from_json("analyze_r8_r64", Analysis), "larger at the smaller r: "),
    "certificate": (lambda: from_json("certify_mnist", Certificate), "true error &lt;= 9.44%"),
    "language": (lambda: from_json("certify_stories", LanguageCertificate), "bits per token of a new document"),
    "gap": (lambda: d90.generalization([RESULTS / "mrpc.sqlite"]), "d90 and generalization"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_result_shows_its_answer_and_draws_itself(name: str, tmp_path: Path) -> None:
    make, words = SHOWN[name]
    result = make()
    text = result._repr_html_()
    assert words in text
    figure = result.plot()
    assert figure in text, "the figure of plot() stands in the notebook too"
    page = minidom.parse(str(figure.save(tmp_path / "figure.svg")))  # a file of its own, which any viewer opens
    assert page.documentElement.namespaceURI == "http://www.w3.org/2000/svg"
    assert "currentColor" not in figure


def test_every_result_that_the_package_names_shows_itself() -> None:
    """A result that is added later must say what it shows."""
    kinds = [getattr(d90, name) for name in d90.__all__]
    results = [one for one in kinds if isinstance(one, type) and hasattr(one, "from_dict") and hasattr(one, "to_dict")]
    shown = {one.__name__ for one in results if issubclass(one, Display)}
    # what was asked for, and a sum of bytes, which prints itself
    assert {one.__name__ for one in results} - shown == {"Recipe", "Preflight"}


def test_a_run_shows_its_score_and_its_evaluations() -> None:
    task = blobs()
    run = d90.train("mlp:16-8-3", task, d=20, epochs=1, evaluations=2)
    assert str(run) == f"mlp:16-8-3 on {task.name}, full@d=20: accuracy {run.score:.4f}, 20 numbers"
    assert "full@d=20: accuracy" in run._repr_html_()
    assert run.plot().count("step ") >= 2
    run.release()


def test_a_tune_and_its_score_show_themselves_as_the_run_did(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [json.dumps({"text": "a b" if i % 3 else "b b a", "label": int(i % 3 == 0)}) for i in range(40)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows))
    run = d90.train(str(tiny_model(tmp_path / "base")), str(tmp_path / "data"), "full@d=20", epochs=1, evaluations=2)
    run.save(tmp_path / "x.d90")
    shown = run.plot().count("step ")
    run.release()
    tuned = d90.open_tune(tmp_path / "x.d90")
    assert str(tuned).endswith(f"full@d=20: accuracy {run.score:.4f}")
    assert f"full@d=20: accuracy {run.score:.4f}" in tuned._repr_html_()
    assert tuned.plot().count("step ") == shown
    scored = tuned.evaluate()
    assert str(scored).startswith(f"accuracy {run.score:.4f} (95 % interval ")
    assert f"accuracy {run.score:.4f}" in scored._repr_html_()
    assert "validation accuracy" in scored.plot()


def test_names_are_text_in_a_notebook() -> None:
    result = made_comparison("accuracy", **{"<b>": [0.7]})
    assert "<b></td>" not in result._repr_html_()
    assert "&lt;b&gt;" in result._repr_html_()


def test_a_series_whose_models_all_failed_says_that_there_is_nothing_to_draw() -> None:
    failed = made_series(made_cell(10, None, "failed", threshold=None, chance=None, error="no memory"))
    assert "failed" in failed._repr_html_()
    with pytest.raises(InputError, match="this Series holds nothing to draw"):
        failed.plot()


def test_a_low_data_study_of_one_method_shows_its_scores() -> None:
    shown = made_low_data([20, 40], made_comparison(full=[0.6]), made_comparison(full=[0.8]))._repr_html_()
    assert "60.00 %" in shown
    assert "n = 40" in shown
