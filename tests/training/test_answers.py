"""Scores by generation: training, searches and evaluations by exact match, and what a foreign record may not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import d90
from d90.analysis.score_interval import wilson_interval
from d90.models.loading import load
from d90.tasks import load as load_task
from d90.training.answers import ask
from d90.training.generation import generate
from d90.training.loading import open_tune
from d90.trials.predictions import unpack
from d90.trials.store import Store
from tests.reference.chat import chat_model
from tests.reference.command import run as command


def _data(folder: Path, plain: bool) -> str:
    """What follows a letter: one right answer each."""
    rows = []
    for i in range(60):
        question, answer = "abc"[i % 3], "xyz"[i % 3]
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"prompt": f"{question}:", "completion": answer} if plain else {"messages": turns})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "data.jsonl")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model, data, and a tune that was chosen by exact match."""
    folder = tmp_path_factory.mktemp("answers")
    chat_model(folder / "model")
    run = d90.train(
        str(folder / "model"), _data(folder, plain=True), "full", lr=1e-2, epochs=10, batch_size=8, evaluations=2,
        columns={"metric": "exact"},
    )  # fmt: skip
    assert run.outcome.zero_score == 0.0
    assert run.score == 1.0
    run.save(folder / "x.d90")
    return folder


def test_evaluate_tells_exact_match_its_interval_and_perplexity(tuned: Path) -> None:
    found = open_tune(tuned / "x.d90").evaluate()
    assert (found.score, found.count, found.metric_name) == (1.0, 6, "exact")
    assert (found.low, found.high) == wilson_interval(1.0, 6)
    assert found.perplexity == pytest.approx(2.718281828**found.loss)
    done = command("evaluate", "x.d90", cwd=tuned)
    assert done.returncode == 0, done.stderr
    assert "exact 1.0000 (95 % interval" in done.stdout
    assert "perplexity 1." in done.stdout
    assert "contains 1.0000" in command("evaluate", "x.d90", "--metric", "contains", cwd=tuned).stdout


def test_a_script_named_by_the_user_scores_a_tune(tuned: Path) -> None:
    (tuned / "half.py").write_text("def score(prompt, answer, reference):\n    return 0.5 * (answer == reference)\n")
    done = command("evaluate", "x.d90", "--metric", "script:half.py", cwd=tuned)
    assert "script half.py 0.5000 (95 % interval 0.5000 to 0.5000" in done.stdout, done.stderr
    done = command("evaluate", "x.d90", "--metric", "accuracy", cwd=tuned)
    assert done.returncode == 2
    assert "expected loss, exact, contains, bleu, chrf, rouge1, rouge2, rougeL or script:FILE" in done.stderr


def test_a_script_that_a_record_names_is_not_run(tuned: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'a').write('x')\ndef score(p, a, r):\n    return 1\n")
    run = d90.train(
        str(tuned / "model"), _data(tmp_path, plain=True), "full", lr=1e-3, epochs=0.1, evaluations=1,
        columns={"metric": f"script:{tmp_path / 'evil.py'}"},
    )  # fmt: skip
    run.save(tmp_path / "x.d90")
    marker.unlink()
    assert open_tune(tmp_path / "x.d90").evaluate().metric == "loss"
    assert not marker.exists()


def test_a_search_stops_at_exact_match_and_stores_what_each_answer_was_worth(tuned: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "t.sqlite")
    found = d90.measure(
        str(tuned / "model"), _data(tmp_path, plain=True), "full", store=store, within=30, seeds=1, lr=1e-2, baseline_lr=1e-2,
        epochs=6, batch_size=8, evaluations=2, budget=3, start=64, columns={"metric": "exact"},
    )  # fmt: skip
    assert (found.rule, found.metric) == ("margin", "exact")
    assert found.majority == pytest.approx(load_task(_data(tmp_path, plain=True), metric="exact").chance())
    kept = [store.find(row.key, row.stop_at) for row in store.trials()]
    worth = [unpack(row.result.predictions) for row in kept if row is not None and row.result.predictions]
    assert len(worth) == len(kept) > 1
    assert [row.score for row in store.trials()] == pytest.approx([values.mean() for values in worth])


def test_a_long_prompt_loses_its_beginning_and_leaves_room_for_the_answer(tuned: Path) -> None:
    model = load(str(tuned / "model"), 0, "instruction", max_length=40)
    task = load_task(_data(tuned, plain=False), metric="exact")
    asked = ask(model, task.validation, task.kind)
    assert max(map(len, asked.prompts)) <= 40 - 1 - 1
    assert (asked.limit, asked.references) == (2 * 1 + 16, [*asked.references])
    assert len(generate(model, asked.prompts, asked.limit, asked.ends)) == 6
