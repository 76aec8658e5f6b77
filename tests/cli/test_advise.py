"""`d90 advise` as a person meets it: the answer, the tune, the page, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

from tests.reference.command import run


def test_advise_prints_an_answer_that_can_be_run_and_writes_a_page(digits: Path, tmp_path: Path) -> None:
    command = (
        "advise",
        "mlp:16-32-3",
        f"idx:{digits}",
        "--like",
        "full",
        "--methods",
        "full@d=8 full@d=128",
        "--within",
        "10",
        "--budget",
        "12",
    )
    done = run(*command, "--evaluations", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "take full" in done.stdout
    assert "cost: " in done.stdout
    assert "not known: " in done.stdout
    assert "<svg" in (tmp_path / "runs" / "d90.advise.html").read_text(encoding="utf-8")
    assert (tmp_path / "runs" / "advised.d90").is_file()
    line = next(line for line in done.stdout.splitlines() if line.startswith("d90 train "))
    assert "--evaluations 2" in line
    trained = run(*line.split()[1:-1], "again.d90", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("runs/advised.d90", "again.d90"))
    assert len(ours) == len(theirs)
    assert ours[-64:] == theirs[-64:], "the line trains the same numbers"


def test_bad_input_of_advise_is_one_line_and_status_2(digits: Path, tmp_path: Path) -> None:
    task = f"idx:{digits}"
    for given, said in (
        (("--budget", "soon"), "expected a share of the grid"),
        (("--within", "2%", "--min-score", "0.9"), "expected one of them"),
        (("--validation-limit", "20", "--like", "full"), "expected at least 50"),
        (("--like", "full", "--methods", "bitfit", "--max-bytes", "60"), "the nearest are bitfit"),
        (("--methods", "bitfit,full"), "methods separated by spaces"),
    ):
        wrong = run("advise", "mlp:16-32-3", task, *given, cwd=tmp_path)
        assert (wrong.returncode, said in wrong.stderr.splitlines()[-1]) == (2, True), wrong.stderr
        assert wrong.stderr.splitlines()[-1].startswith("d90: ")
        assert "Traceback" not in wrong.stderr
