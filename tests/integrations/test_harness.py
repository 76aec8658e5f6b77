"""The evaluation harness on a local task file: base and tune side by side, and what is refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import d90
from tests.reference.blobs import blobs
from tests.reference.chat import chat_model
from tests.reference.command import run as command

TASK = """
task: letters
dataset_path: json
dataset_kwargs:
  data_files: {file}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: ["x", "y"]
doc_to_target: "{{{{target}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def _tune(folder: Path) -> None:
    chat_model(folder / "model")
    rows = [{"prompt": f"{letter}:", "completion": "y" if letter == "a" else "x"} for letter in "ab" * 20]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = d90.train(
        str(folder / "model"), str(folder / "data.jsonl"), "full", lr=1e-2, epochs=10, batch_size=8, evaluations=1
    )
    run.save(folder / "x.d90")
    asked = [{"prompt": f"{letter}:", "target": int(letter == "a")} for letter in "ab" * 8]
    (folder / "asked.json").write_text("\n".join(map(json.dumps, asked)))
    (folder / "letters.yaml").write_text(TASK.format(file=folder / "asked.json"))


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval (d90[harness])")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_base_and_tune_stand_side_by_side_on_a_local_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    _tune(tmp_path)
    done = command("evaluate", "x.d90", "--harness", "letters.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("letters, acc:"))
    assert "tune 1.0000" in line
    assert float(line.split("base ")[1].split()[0].rstrip(",")) < 1
    done = command("evaluate", "x.d90", "--harness", "no-such-task-at-all", cwd=tmp_path)
    assert (done.returncode, "knows no task 'no-such-task-at-all'" in done.stderr) == (2, True)


def test_what_the_harness_cannot_do_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d90.integrations.harness.find_spec", lambda name: None)
    d90.train("mlp:16-8-3", blobs(), "full@d=5", epochs=0.1, evaluations=1).save(tmp_path / "x.d90")
    done = command("evaluate", "x.d90", "--harness", "letters", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'd90[harness]'" in done.stderr
    monkeypatch.setattr("d90.integrations.harness.find_spec", lambda name: "there")
    for given, words in (
        (("letters",), "expected one of a causal language model"), ((",",), "without a task"), (("a", "--limit", "0"), "--limit 0"),
    ):  # fmt: skip
        done = command("evaluate", "x.d90", "--harness", *given, cwd=tmp_path)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
