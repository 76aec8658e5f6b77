"""Plan -> rows: every study is run by the Python API; ours and the published figure side by side.

Nothing is trained here, and nothing that was: a study asked for again finds its trials in the store, its tune or its latency in the
file it wrote, by the hash of its question.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from d90._version import __version__
from d90.errors import D90Error, TrainingFailed
from d90.files import write_text
from d90.reproduce.calls import result_of
from d90.reproduce.figures import KINDS, Figure, label
from d90.reproduce.plan import Plan, Published, Study
from d90.training.progress import Progress
from d90.trials.options import ExecutorOptions

__all__ = ["TableRow", "rows_of", "run"]


@dataclass(frozen=True)
class TableRow:
    """One line of the table: a figure of ours, a published one, or both; numbers in `unit`."""

    study: str
    figure: str
    ours: float | None
    low: float | None
    high: float | None
    unit: str
    word: str = ""
    published: float | str | None = None
    source: str = ""


def run(
    plan: Plan, progress: Progress | None = None, where: ExecutorOptions = ExecutorOptions()
) -> tuple[list[TableRow], list[str]]:
    """Run every study, and write summary.json into the recipe's folder after each.

    A study that fails is a row that says why, and the others go on.

    Args:
        where: where trials run, of each command that trains: what is given stands in place of the study's own. It decides no
            result and stands in no command line: a recipe begun here goes on elsewhere.

    Returns:
        The rows, and a line for each study that failed.

    Raises:
        RunFailed: the machine failed (disk full); finished trials are stored.
    """
    progress = progress or Progress()
    rows: list[TableRow] = []
    failed: list[str] = []
    for number, study in enumerate(plan.studies, 1):
        progress.note(f"study {number} of {len(plan.studies)}: {study.name}")
        try:
            rows += rows_of(study, result_of(study, progress, where))
        except (D90Error, TrainingFailed) as error:
            failed.append(f"'{study.name}': {error}")
            rows.append(TableRow(study.name, "", None, None, None, "", "failed"))
        _write(plan, rows, failed, number)
    return rows, failed


def rows_of(study: Study, result: Any) -> list[TableRow]:
    """Every main figure of a study and every published one, each published figure beside ours; `result` is its kind's."""
    kind = KINDS[study.command.name]
    figures = list(kind.read(result, study.arguments))
    shown = [figure for figure in figures if figure.of == kind.of[0]]
    left = list(study.published)
    asked = {id(one): _find(figures, one, kind.of[0]) for one in left}
    shown += [figure for figure in asked.values() if figure is not None and figure not in shown]
    rows = []
    for figure in shown:
        beside: list[Published | None] = [one for one in left if asked[id(one)] is figure]
        rows += [_row(study, figure, one) for one in beside or [None]]
    for one in left:
        if asked[id(one)] is None:
            word = "none" if one.of or one.keys else ""
            rows.append(
                TableRow(study.name, label(one.of, one.keys), None, None, None, "", word, one.value, one.source)
            )
    return rows


def _find(figures: list[Figure], one: Published, main: str) -> Figure | None:
    if isinstance(one.value, str) and not one.of and not one.keys:
        return None  # a statement on the whole study
    of = one.of or main
    return next((figure for figure in figures if figure.of == of and one.keys.items() <= figure.keys.items()), None)


def _row(study: Study, figure: Figure, one: Published | None) -> TableRow:
    value = None if figure.value is None or not math.isfinite(figure.value) else figure.value
    word = figure.word if value is None else ""
    published, source = (one.value, one.source) if one else (None, "")
    return TableRow(study.name, figure.label, value, figure.low, figure.high, figure.unit, word, published, source)


def _write(plan: Plan, rows: list[TableRow], failed: list[str], done: int) -> None:
    """The summary so far, whole or not at all."""
    target = plan.folder / "summary.json"
    body = {
        "d90": __version__,
        "recipe": str(plan.path),
        "sha256": hashlib.sha256(plan.path.read_bytes()).hexdigest(),
        "title": plan.title,
        "paper": plan.paper,
        "differs": list(plan.differs),
        "studies": [{"name": study.name, "command": shlex.join(["d90", *study.line])} for study in plan.studies],
        "done": done,
        "failed": failed,
        "rows": [asdict(row) for row in rows],
    }
    write_text(target, json.dumps(body, indent=1) + "\n")
