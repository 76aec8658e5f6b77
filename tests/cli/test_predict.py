"""`d90 predict`: the same reader as training, line numbers, every class's probability; regressions in the user's unit."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

import d90
from d90.cli import main
from d90.training.loading import open_tune
from tests.reference.tiny import tiny_model, tiny_run


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    tiny_run(folder).release()
    return folder / "task.d90"


def d90_predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["d90", "predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_jsonl_holds_the_line_and_every_class(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_bytes("\ufeffa a b\n\nb\u2028b\x0c b\n".encode())
    status, said, wrong = d90_predict(capsys, tuned, "-f", tmp_path / "in.txt", "-o", tmp_path / "out.jsonl")
    assert (status, wrong) == (0, "")
    assert said.rstrip().endswith("2 predictions")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n") if line]
    assert [(row["line"], row["text"]) for row in rows] == [(1, "a a b"), (3, "b\u2028b\x0c b")]
    for row in rows:
        assert set(row["probabilities"]) == {"less", "more"}
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]
    described = open_tune(tuned).describe([("a a b",)])
    assert described[0]["label"] == rows[0]["label"]
    assert described[0]["probability"] == pytest.approx(rows[0]["probability"], abs=1e-5)


def test_csv_neutralises_formulas_and_terminals_get_no_escapes(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text('label,text\nx,=1+1 a\ny,"a\x1b[2J b\nb"\n')
    status, said, _ = d90_predict(capsys, tuned, "-f", tmp_path / "in.csv", "-o", tmp_path / "out.csv")
    assert status == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["'=1+1 a", "a\x1b[2J b\nb"]
    assert set(rows[0]) == {"line", "text", "label", "probability", "p(less)", "p(more)"}
    status, said, _ = d90_predict(capsys, tuned, "-f", tmp_path / "in.csv")
    assert len(said.splitlines()) == 2, "a line a text"
    for form in ("lines", "jsonl", "csv"):
        _, said, _ = d90_predict(capsys, tuned, "-f", tmp_path / "in.csv", "--format", form)
        assert "\x1b" not in said
        assert "x1b[2J" in said or "u001b[2J" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-f", "{tmp}/none.csv"], "no such file"),
        (["-f", "/dev/zero"], "a pipe or a device"),
        (["-f", "{tmp}"], "is a folder"),
        (["-f", "{tmp}/in.csv"], "no column 'text or text_a,text_b'; it has body"),
        (["-f", "{tmp}/in.csv", "--text", "body,other"], "2 text columns (body, other), expected 1 as in training"),
        (["a", "--format", "xml"], "unknown format 'xml'"),
        (["a", "-o", "{tmp}/out.xml"], "expected a name that ends in .jsonl, .csv or .txt"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    arguments: list[str], words: str, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text("body,other\nx,y\n")
    status, _, wrong = d90_predict(capsys, tuned, *(part.format(tmp=tmp_path) for part in arguments))
    assert status == 2
    assert words in wrong
    assert wrong.count("\n") == 1


def test_a_regression_is_trained_stored_and_predicted_in_the_users_unit(tmp_path: Path) -> None:
    tiny_model(tmp_path / "base")
    prices = {"a a a": 300_000.5, "a b a": 250_000.0, "b a b": 200_000.0, "b b b": 150_000.0}
    rows = [{"text": text, "label": price} for text, price in prices.items()] * 10
    for part in ("train", "validation"):
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = d90.train(
        str(tmp_path / "base"), str(tmp_path), "full", epochs=12, batch_size=4, evaluations=2, lr=0.01, max_length=8,
        precision="fp32",
    )  # fmt: skip
    run.save(tmp_path / "task.d90")
    run.release()
    about = json.loads((tmp_path / "task.json").read_text())["task"]
    assert (about["mean"], about["deviation"]) == (pytest.approx(225_000.1, abs=1), pytest.approx(55_902, rel=1e-3))
    tuned = open_tune(tmp_path / "task.d90")
    found = [value for _, value in tuned.predict([(text,) for text in prices])]
    assert found == [pytest.approx(price, abs=45_000) for price in prices.values()], (
        "raw targets moved nothing of the weights"
    )
    scored = tuned.evaluate()
    assert scored.score > 0.9
    assert 0 < scored.loss < 45_000**2, "a squared error in the user's unit"
