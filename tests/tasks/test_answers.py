"""Answers and references: the rule of normalisation, both metrics, and scripts in a process of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from d90 import tasks
from d90.errors import InputError
from d90.tasks.answers import contains, exact, normalised, read_script, run_script

SAME = [("4", " 4 "), ("Yes.", "yes"), ("A\n b", "a b"), ("ﬁne", "FINE"), ("2024-01-02", "2024-01-02.")]
OTHER = [("4", "5"), ("3.5", "35"), ("yes, it is", "yes"), ("a-b", "ab")]


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_answers_that_differ_in_case_spaces_or_a_full_stop_are_exact(answer: str, reference: str) -> None:
    assert exact(answer, reference)
    assert normalised(normalised(answer)) == normalised(answer)


@pytest.mark.parametrize(("answer", "reference"), OTHER)
def test_other_answers_are_not_exact(answer: str, reference: str) -> None:
    assert not exact(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference", "held"),
    [
        ("The answer is 4.", "4", True), ("The answer is 14.", "4", False), ("14 or 4", "4", True), ("Paris!", "paris", True),
        ("in parisian style", "Paris", False), ("3.50", "3.5", False), ("3.4", "4", False),
        ("-4", "4", True), ("2024-01-02", "2024", False), ("a (b)", "(b)", True), ("none", ".", False),
        ("it is New\nYork", "new york", True),
    ],
)  # fmt: skip
def test_a_reference_stands_in_an_answer_as_words_of_its_own(answer: str, reference: str, held: bool) -> None:
    assert contains(answer, reference) is held


def _script(folder: Path, body: str) -> tuple[str, str]:
    (folder / "mine.py").write_text(body)
    metric = f"script:{folder / 'mine.py'}"
    return metric, read_script(metric)


ROWS = [("2+2?", "4", "4"), ("3+3?", "seven", "6")]


def test_a_script_scores_prompt_answer_and_reference_elsewhere(tmp_path: Path) -> None:
    body = "import os\nprint('loaded')\ndef score(prompt, answer, reference):\n    print(prompt)\n    return answer == reference or 0.25\n"
    assert run_script(*_script(tmp_path, body), ROWS) == [1.0, 0.25]
    import os

    body = f"import os\ndef score(prompt, answer, reference):\n    return os.getpid() != {os.getpid()}\n"
    assert run_script(*_script(tmp_path, body), ROWS) == [1.0, 1.0]


WRONG = {
    "def grade(a, b, c):\n    return 1\n": "defines no function score",
    "def score(a, b, c):\n    return b + 1\n": r"failed at example 1 .*TypeError",
    "def score(a, b, c):\n    return 1 if b == '4' else None\n": r"failed at example 2 \(answer 'seven'\): TypeError",
    "def score(a, b, c):\n    return 2\n": "gave 2 for example 1, expected a number from 0 to 1",
    "def score(a, b, c):\n    return float('nan')\n": "gave nan for example 1",
    "def score(a, b, c):\n    raise SystemExit(3)\n": "SystemExit",
    "import os\ndef score(a, b, c):\n    os._exit(5)\n": "ended with status 5",
    "import nowhere_to_be_found\n": "ModuleNotFoundError",
}


@pytest.mark.parametrize("body", WRONG)
def test_what_a_script_does_wrong_is_one_line(body: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=WRONG[body]) as caught:
        run_script(*_script(tmp_path, body), ROWS)
    assert "\n" not in str(caught.value)


def test_a_script_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    body = "import time\ndef score(a, b, c):\n    time.sleep(60)\n"
    with pytest.raises(InputError, match="had not scored 2 answers after 1 s"):
        run_script(*_script(tmp_path, body), ROWS, seconds=1)


def test_a_file_that_is_no_script_is_refused_when_the_task_is_opened(tmp_path: Path) -> None:
    data = tmp_path / "x.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    with pytest.raises(InputError, match=r"no such file: '.*missing\.py'"):
        tasks.load(str(data), metric="script:missing.py")
    (tmp_path / "bad.py").write_text("def score(:\n")
    with pytest.raises(InputError, match=r"bad\.py', line 1 is not Python"):
        tasks.load(str(data), metric=f"script:{tmp_path / 'bad.py'}")


def test_an_edited_script_makes_another_task_and_a_moved_one_does_not(tmp_path: Path) -> None:
    data = tmp_path / "x.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    names = ("one.py", "two.py", "three.py")
    for name, value in zip(names, (1, 1, 0), strict=True):
        (tmp_path / name).write_text(f"def score(a, b, c):\n    return {value}\n")
    one, two, three = (tasks.load(str(data), metric=f"script:{tmp_path / name}").fingerprint for name in names)
    assert one == two != three
    assert tasks.load(str(data)).fingerprint not in (one, three)


def test_chance_is_the_commonest_answer_of_training(tmp_path: Path) -> None:
    for name, answers in (("train", ["No.", "no", "yes", "perhaps"]), ("validation", ["No", "NO.", "yes", "yes"])):
        rows = (f'{{"prompt": "a", "completion": "{answer}"}}' for answer in answers)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    assert tasks.load(str(tmp_path), metric="exact").chance() == 0.5
    (tmp_path / "mine.py").write_text("def score(p, a, r):\n    return 0.5 if a == 'No.' else 1\n")
    assert tasks.load(str(tmp_path), metric=f"script:{tmp_path / 'mine.py'}").chance() == 0.5
