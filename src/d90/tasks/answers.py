"""Answers held against their references: exact match, a reference inside an answer, or a script of the user's.

    exact       normalised(answer) == normalised(reference)
    contains    the normalised reference stands in the normalised answer, at word boundaries
    script      score(prompt, answer, reference) of a Python file, from 0 to 1

Normalised: Unicode NFKC, case folded, runs of white space as one space, no white space at the ends, and no full stop at the end.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from d90.errors import InputError, quoted

__all__ = ["SCRIPT", "Questions", "contains", "exact", "normalised", "read_script", "run_script"]

SCRIPT = "script:"
MAX_SCRIPT = 1 << 20  # bytes
MAX_SECONDS = 600.0  # for all answers of a split


class Questions(NamedTuple):
    """What a model is asked, an entry an example.

    Attributes:
        prompts: token ids, up to where the answer begins.
        texts: what a person reads of the prompt: the last turn before the answer.
        references: the answers of the data.
        ends: tokens that end an answer.
        limit: new tokens at most.
    """

    prompts: list[list[int]]
    texts: list[str]
    references: list[str]
    ends: set[int]
    limit: int


def normalised(text: str) -> str:
    """A text as two answers are compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".").rstrip()


def exact(answer: str, reference: str) -> bool:
    """Whether the answer is the reference, both normalised."""
    return normalised(answer) == normalised(reference)


def contains(answer: str, reference: str) -> bool:
    """Whether the reference stands in the answer, both normalised, and no word or number goes on at its ends: 4 is not in 3.4 or 14."""
    part = re.escape(normalised(reference))
    before = r"(?<!\w)(?<!\d[.,:/-])" if part[:1].isalnum() else ""
    behind = r"(?!\w)(?![.,:/-]\d)" if part[-1:].isalnum() else ""
    return bool(part) and re.search(before + part + behind, normalised(answer)) is not None


def read_script(metric: str) -> str:
    """The text of the Python file that "script:FILE" names.

    Raises:
        InputError: no such file, or one that is no script of ours.
    """
    path = Path(metric.removeprefix(SCRIPT)).expanduser()
    if not path.is_file():
        raise InputError(
            f"no such file: '{path}'; expected a Python file that defines score(prompt, answer, reference)"
        )
    if path.stat().st_size > MAX_SCRIPT:
        raise InputError(
            f"'{path}' has {path.stat().st_size:,} bytes, expected a Python file of at most {MAX_SCRIPT:,}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
    except (UnicodeDecodeError, SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise InputError(
            f"'{path}'{where} is not Python ({type(error).__name__}), expected score(prompt, answer, reference)"
        ) from None
    return text


# In the other process. What the script prints goes to standard error; a line an example comes back.
_RUNNER = """
import json, sys
out, sys.stdout = sys.stdout, sys.stderr
path = json.loads(sys.stdin.readline())
text = json.loads(sys.stdin.readline())
say = lambda **found: print(json.dumps(found), file=out, flush=True)
try:
    names = {"__name__": "script", "__file__": path}
    exec(compile(text, path, "exec"), names)
    score = names.get("score")
    if not callable(score):
        raise TypeError("it defines no function score(prompt, answer, reference)")
except BaseException as error:
    say(unfit=f"{type(error).__name__}: {error}")
    raise SystemExit(0)
for line in sys.stdin:
    try:
        found = score(*json.loads(line))
        say(score=float(found))
    except BaseException as error:
        say(error=f"{type(error).__name__}: {error}")
        raise SystemExit(0)
"""


def run_script(
    metric: str, text: str, rows: Sequence[tuple[str, str, str]], seconds: float = MAX_SECONDS
) -> list[float]:
    """The scores of (prompt, answer, reference), by the user's script in a process of its own.

    Args:
        metric: "script:FILE", for messages.
        text: of the file, as it was read when the task was opened: all trials of a study are scored by one text.

    Raises:
        InputError: what the script did instead, with the example's number.
    """
    name = metric.removeprefix(SCRIPT)
    given = [json.dumps(name), json.dumps(text), *map(json.dumps, rows)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUNNER], input="\n".join(given) + "\n", capture_output=True, text=True, timeout=seconds,
            encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(
            f"the script '{name}' had not scored {len(rows):,} answers after {seconds:.0f} s, expected it to end; score fewer with "
            "--validation-limit, or make it faster"
        ) from None
    found = [json.loads(line) for line in done.stdout.splitlines()]
    scores = [one["score"] for one in found if "score" in one]
    unfit, why = (next((one[word] for one in found if word in one), None) for word in ("unfit", "error"))
    odd = next((i for i, one in enumerate(scores) if not 0 <= one <= 1), None)
    if odd is not None:
        raise InputError(
            f"the script '{name}' gave {scores[odd]:g} for example {odd + 1}, expected a number from 0 to 1"
        )
    if len(scores) < len(rows):
        reason = unfit or why or (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        where = "" if unfit else f" at example {len(scores) + 1} (answer {quoted(rows[len(scores)][1], 40)})"
        raise InputError(
            f"the script '{name}' failed{where}: {' '.join(reason.split())[:200]}; expected score(prompt, answer, reference) to give a "
            "number"
        )
    return scores
