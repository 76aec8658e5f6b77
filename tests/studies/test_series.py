"""Studies over models and over examples: targets, failed rows, resuming, pages."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.utils import logging

from d90.errors import InputError
from d90.report.series import lowdata_page, series_page
from d90.studies.low_data import low_data
from d90.studies.series import family, step_of, trajectory
from d90.training.progress import Progress
from d90.trials.local import Local
from d90.trials.store import Store
from tests.reference.results import made_comparison, made_low_data
from tests.reference.tiny_causal import tiny_causal, tiny_documents
from tests.reference.tokenizer import save_tokenizer

FAST: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 16,
    "evaluations": 2,
    "lr": 0.02,
    "baseline_lr": 0.01,
    "precision": "fp32",
}
SEARCH: dict[str, Any] = {"start": 8, "resolution": 2.0, "high": 64, "budget": 3.0, "seeds": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of a small model, a wider one, a broken one, and a task that words decide."""
    home = tmp_path_factory.mktemp("s")
    logging.disable_progress_bar()
    for name, width in (("step-10", 8), ("step-200", 8), ("wide", 16)):
        torch.manual_seed(width + len(name))
        sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * width}
        config = transformers.BertConfig(vocab_size=7, max_position_embeddings=16, pad_token_id=0, **sizes)
        transformers.BertForSequenceClassification(config).save_pretrained(home / name)
        save_tokenizer(home / name, marks=True)
    logging.enable_progress_bar()
    shutil.copytree(home / "step-10", home / "step-50")
    (home / "step-50" / "model.safetensors").write_bytes(b"broken")
    rows = [{"text": "a a b" if i % 2 else "c b c", "label": i % 2} for i in range(96)]
    (home / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def test_a_trajectory_has_one_target_and_a_failed_row(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(home / "s.sqlite")
    models, task = [str(home / f"step-{n}") for n in (10, 50, 200)], str(home / "t.jsonl")
    options: dict[str, Any] = {"store": store, **SEARCH, **FAST}
    found = trajectory(models, [task], "full", target="both", **options)
    assert [(cell.x, cell.target) for cell in found.cells] == [(x, t) for x in (10, 50, 200) for t in ("last", "own")]
    cells = {(cell.x, cell.target): cell for cell in found.cells}
    assert cells[50, "last"].status == cells[50, "own"].status == "failed"
    assert "step-50" in cells[50, "last"].error
    shared = cells[200, "last"].threshold
    assert shared is not None
    assert cells[10, "last"].threshold == pytest.approx(shared)
    own = cells[10, "own"]
    assert own.score is not None
    assert own.threshold == pytest.approx(0.9 * own.score)
    assert cells[200, "own"].threshold == pytest.approx(shared), "the last model's own target is everyone's"
    assert found.givers == {task: models[-1]}
    assert cells[10, "last"].score == own.score
    curve = found.curve(task, "last")
    assert [x for x, _ in curve] == sorted(x for x, _ in curve)
    monkeypatch.setattr(sys.modules["d90.trials.job"], "fit", lambda *a, **k: pytest.fail("trained again"))
    assert trajectory(models, [task], "full", target="both", **options).cells == found.cells
    page = series_page(type(found).from_dict(json.loads(json.dumps(found.to_dict()))))
    assert page.count("<svg") == 2
    assert "step-50" in page
    assert "failed" in page


def test_the_last_checkpoint_may_fail_and_the_one_before_it_gives_the_target(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, said = str(home / "t.jsonl"), []

    class Heard(Progress):
        def note(self, message: str) -> None:
            said.append(message)

    models = [str(home / f"step-{n}") for n in (10, 200, 50)]  # 50 is broken
    options: dict[str, Any] = {"store": Store(home / "b.sqlite"), **SEARCH, **FAST}
    found = trajectory(models, [task], "full", target="last", progress=Heard(), **options)
    assert [cell.status == "failed" for cell in found.cells] == [False, False, True]
    assert found.givers == {task: models[1]}
    assert found.cells[0].threshold == found.cells[1].threshold
    assert any("step-50" in line and "the model before it" in line for line in said)
    page = series_page(type(found).from_dict(json.loads(json.dumps(found.to_dict()))))
    assert "could not be trained" in page
    monkeypatch.setattr(sys.modules["d90.trials.job"], "fit", lambda *a, **k: pytest.fail("trained again"))
    assert trajectory(models, [task], "full", target="last", **options).cells == found.cells
    with pytest.raises(InputError, match=r"none of the 2 models could be measured: .*step-50"):
        trajectory([models[2], models[2]], [task], **options)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("runs/mini-4/step-0384/", 384),
        ("EleutherAI/pythia-70m@step4000", 4000),
        ("google/multiberts-seed_0-step_20k", 20_000),
        ("owner/model@refs/pr/7", 7),
        ("roberta-2x-updates1M", 1_000_000),
    ],
)
def test_a_step_is_the_last_number(name: str, step: int) -> None:
    assert step_of(name) == step


def test_a_revision_without_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="no number in its name"):
        step_of("EleutherAI/pythia-70m@main")


def test_a_family_is_over_weights(home: Path) -> None:
    store = Store(home / "f.sqlite")
    options: dict[str, Any] = {"store": store, **SEARCH, **FAST}
    found = family([str(home / "step-200"), str(home / "wide")], [str(home / "t.jsonl")], target="own", **options)
    assert [cell.x for cell in found.cells] == sorted(cell.x for cell in found.cells)
    assert found.cells[0].x > 500
    assert series_page(found) == series_page(found)
    above = [replace(cell, status="unreachable", d90=None, interval=(128, None)) for cell in found.cells]
    assert "above every d tried" in series_page(replace(found, cells=tuple(above))), "an axis without a value"
    assert (found.rule, {cell.metric for cell in found.cells}) == ("paper", {"accuracy"})
    losses = [replace(cell, metric="loss", score=-1.25, threshold=-1.5, chance=-2.5) for cell in found.cells]
    page = series_page(replace(found, cells=tuple(losses)))
    assert ">validation loss<" in page
    assert "<td>1.5000</td>\n<td>1.2500</td>\n<td>2.5000</td>" in page, "a loss is shown as a loss"


@pytest.mark.slow
def test_a_trajectory_in_processes_of_its_own_is_the_same(home: Path) -> None:
    models, tasks = [str(home / "step-10"), str(home / "step-200")], [str(home / "t.jsonl")]
    found = []
    for executor in (None, Local(2)):
        store = Store(home / f"e{len(found)}.sqlite")
        found.append(trajectory(models, tasks, target="both", store=store, executor=executor, **SEARCH, **FAST))
        store.close()
        if executor is not None:
            executor.close()
    here, there = (one.cells for one in found)
    assert len(here) == 4
    assert here == there


def test_lowdata_counts_what_there_is(home: Path) -> None:
    options: dict[str, Any] = {key: value for key, value in FAST.items() if key != "baseline_lr"}
    store = Store(home / "l.sqlite")
    found = low_data(
        str(home / "step-200"),
        str(home / "t.jsonl"),
        ["full", "lora:r=2"],
        (8, None, 10_000),
        store=store,
        least_steps=10,
        log=home / "l.jsonl",
        **options,
    )
    lines = (home / "l.jsonl").read_text().splitlines()
    assert {json.loads(line)["method"].partition(":")[0] for line in lines} == {"full", "lora"}
    whole = found.counts[1]
    assert found.counts == (8, whole)
    assert 8 < whole < 96
    assert [c.recipe["train_limit"] for c in found.comparisons] == [8, None]
    assert [c.recipe["epochs"] for c in found.comparisons] == [20.0, 4.0], "few examples are passed over more often"
    page = lowdata_page(type(found).from_dict(json.loads(json.dumps(found.to_dict()))))
    assert "lora:r=2" in page
    assert f"n = {whole:,}" in page


def test_lowdata_takes_the_options_of_a_task(home: Path, tmp_path: Path) -> None:
    rows = [{"said": "a a b" if i % 4 else "c b c", "class": "rest" if i % 4 else "rare"} for i in range(64)]
    (tmp_path / "named.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"text": "said", "label": "class", "metric": "f1", "positive": "rest"}
    options: dict[str, Any] = {key: value for key, value in FAST.items() if key != "baseline_lr"} | {"columns": columns}
    found = low_data(
        str(home / "step-10"), str(tmp_path / "named.jsonl"), ["bitfit"], (8,), store=":memory:", least_steps=4, validation_limit=6,
        max_length=4, **options,
    )  # fmt: skip
    (comparison,) = found.comparisons
    assert comparison.metric == "f1"
    kept = comparison.recipe
    assert (kept["columns"], kept["validation_limit"], kept["max_length"]) == (columns, 6, 4)


def test_few_examples_and_a_loss() -> None:
    """Its values are positive on the page, and so is their standard deviation."""
    comparison = made_comparison("loss", seeds=2, chance=-5.0, full=[-3.0, -3.2], bitfit=[-3.0, -3.2])
    page = lowdata_page(made_low_data([8, 80], comparison, comparison))
    assert "3.1000 &plusmn; 0.1414" in page
    assert "Chance 5.0000" in page
    assert ">validation loss<" in page
    assert "-3.1000" not in page


def test_a_method_that_was_left_out_of_one_comparison_has_a_dash_there() -> None:
    """Rows were matched by position: another method's score stood in its place, or none was there."""
    few, many = made_comparison(bitfit=[0.5]), made_comparison(full=[0.9], bitfit=[0.7])
    page = lowdata_page(made_low_data([8, 80], few, many))
    rows = re.sub(r"\s", "", page[page.index("<th>method</th>") :])
    assert '<tdclass="name">bitfit</td><td>10</td><td>50.00%</td><td>70.00%</td>' in rows
    assert '<tdclass="name">full</td><td>10</td><td>&ndash;</td><td>90.00%</td>' in rows


def test_mistakes(home: Path) -> None:
    task = str(home / "t.jsonl")
    with pytest.raises(InputError, match="has no number in its name"):
        trajectory([str(home / "wide"), str(home / "step-10")], [task])
    with pytest.raises(InputError, match="got 1 models and 1 tasks"):
        trajectory([str(home / "step-10")], [task])
    with pytest.raises(InputError, match="unknown target 'best'"):
        family([str(home / "wide")] * 2, [task], target="best")
    with pytest.raises(InputError, match="got the paper rule for loss"):
        family([str(home / "wide")] * 2, [task], rule="paper", columns={"metric": "loss"})
    with pytest.raises(InputError, match="unknown task"):
        family([str(home / "wide")] * 2, ["nosuch"])
    with pytest.raises(InputError, match="of at least 2"):
        low_data(str(home / "wide"), task, ["full"], (1,))
    with pytest.raises(InputError, match="got train_limit"):
        low_data(str(home / "wide"), task, ["full"], train_limit=5)


@pytest.mark.slow
def test_a_language_models_own_lora_baseline_is_found_in_the_store(tmp_path: Path) -> None:
    """Of a language model LoRA without targets takes all linear layers, and the stored runs have these in their recipes."""
    models, task = [str(tiny_causal(tmp_path / f"step-{n}")) for n in (1, 2)], f"text:{tiny_documents(tmp_path / 'd')}"
    options: dict[str, Any] = {
        **SEARCH, **FAST, "store": Store(tmp_path / "s.sqlite"), "baseline": "lora:r=2", "rule": "gain", "train_limit": 64,
    }  # fmt: skip
    own = trajectory(models, [task], "lora:r=2", target="own", **options)
    assert own.method == "lora:r=2,alpha=2,targets=all,init=code"
    found = trajectory(models, [task], "lora:r=2", target="last", **options)
    assert [cell.score for cell in found.cells] == [cell.score for cell in own.cells]
    assert None not in [cell.score for cell in found.cells]
