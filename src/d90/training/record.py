"""The record beside a tune: a JSON file that says what made it, and what loading its model and task needs.

The tune names its record: `Header.recipe` is the hash of the whole record, of labels, recipe and outcome alike, so an edited
record, or the record of another tune, is refused. A new pair takes the place of an old one in three steps, each atomic:

    1  task.json: the new record, with the record of the tune that still lies there under "before"
    2  task.d90: the new tune
    3  task.json: the new record alone

so that after a kill or on a full disk between any two of them the tune finds the record that it names: one of the two.
Records of files of formats 1 and 2 were tied by the hash of recipe, task and base alone, which is recomputed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d90.errors import InputError, RunFailed
from d90.files import check_output, write_bytes, write_text
from d90.methods import Spec, parse
from d90.subspace import file as tune_file
from d90.subspace.fingerprint import NOT_COVERED, Base, digest_of
from d90.training.progress import Progress
from d90.training.recipe import Recipe, recipe_key
from d90.training.result import TrialResult

__all__ = [
    "TaskRecord",
    "TuneRecord",
    "beside",
    "check_record",
    "copy_pair",
    "note_not_covered",
    "read_record",
    "save_pair",
    "sealed",
]

MAX_BYTES = 1 << 26
_TASK = {"kind": str, "labels": list, "metric": str, "texts": int, "fingerprint": str, "notes": list}


@dataclass(frozen=True)
class TaskRecord:
    """A tune's task, as its record tells it: `texts` inputs of text, 0 of images; `max_length` and `sizes` where it says them."""

    kind: str
    metric: str
    texts: int
    labels: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    max_length: int | None = None


@dataclass(frozen=True)
class TuneRecord:
    """What a tune's record says of it to a reader; `version` is d90's that trained it."""

    version: str
    recipe: Recipe
    outcome: TrialResult
    task: TaskRecord

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> TuneRecord:
        """From what `read_record` gave.

        Raises:
            InputError: a recipe or an outcome of something else.
        """
        task = record["task"]
        told = TaskRecord(
            task["kind"], task["metric"], task["texts"], tuple(map(str, task["labels"])), task.get("sizes") or {}, task.get("max_length")
        )  # fmt: skip
        return cls(
            str(record["d90"]), Recipe.from_dict(record["recipe"]), TrialResult.from_dict(record["outcome"]), told
        )


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """A record as JSON will read it back, with its hash."""
    plain: dict[str, Any] = json.loads(json.dumps(body))
    return {**plain, "recipe_hash": digest_of(plain)}


def beside(path: str | os.PathLike[str]) -> Path:
    """Where a tune's record lies: task.json beside task.d90."""
    return Path(path).with_suffix(".json")


def save_pair(path: str | os.PathLike[str], record: dict[str, Any], write_tune: Callable[[Path, str], None]) -> None:
    """Write a tune and its record, so that at every moment the old pair or the new one opens.

    Args:
        path: of the tune.
        record: from `sealed`.
        write_tune: writes the tune atomically, with the hash it is given in its header.

    Raises:
        InputError, RunFailed: one of the two could not be written; the pair that lay there opens.
    """
    target, where = Path(path), beside(path)
    if where == target:
        raise InputError(
            f"got '{target}' for a tune, whose recipe would have that name; expected another ending, as .d90"
        )
    check_output(target)
    before = _current(target)
    write_text(where, _json({**record, "before": before} if before else record))
    try:
        write_tune(target, record["recipe_hash"])
    except BaseException:
        if before is None and not target.exists():
            where.unlink(missing_ok=True)  # a record without a tune says nothing
        raise
    if before:
        with contextlib.suppress(RunFailed):  # the pair is whole without this step
            write_text(where, _json(record))


def copy_pair(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Copy a tune and its record over what lies at `path`, as `save_pair` writes them.

    Raises:
        InputError, RunFailed: there is no such pair; as `save_pair`.
    """
    source = Path(source)
    record = _current(source)
    if record is None:
        raise InputError(f"'{source}' and its record are no tune; expected a pair as Run.save writes it")

    def write_tune(target: Path, _: str) -> None:
        write_bytes(target, source.read_bytes())

    save_pair(path, record, write_tune)


def _current(target: Path) -> dict[str, Any] | None:
    """The record, as JSON, of the tune that lies there; None for no pair."""
    with contextlib.suppress(InputError, OSError, ValueError, RecursionError):
        header = tune_file.about(target).header
        return next((one for one in _records(beside(target)) if one.get("recipe_hash") == header.recipe), None)
    return None


def read_record(path: str | os.PathLike[str], header: tune_file.Header | None = None) -> tuple[dict[str, Any], Spec]:
    """The record beside a tune, checked, and its method. `header` is the tune's, where it was read before.

    Raises:
        InputError: no file or no record beside it, a record of another tune, an edited one, an unsound file.
    """
    target = Path(path)
    header, where = header or tune_file.read(target)[0], beside(target)
    try:
        records = _records(where)
    except FileNotFoundError:
        raise InputError(f"'{target}': the recipe '{where.name}' is not beside it; copy both files") from None
    except (OSError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error!s:.100}"
        raise InputError(f"'{where}' is not the recipe of a tune ({why}); copy it again") from None
    found = next((one for one in records if one.get("recipe_hash") == header.recipe), None)
    try:
        if found is None:
            check_record(records[0])  # an edited record is told as such, whatever it says of itself
            raise InputError(
                f"'{where}' is the recipe {records[0]['recipe_hash']} and '{target.name}' was made by {header.recipe}; copy the right one"
            )
        return found, check_record(found)
    except (OverflowError, RecursionError, ValueError) as error:
        if str(error).startswith(f"'{where}'"):
            raise
        raise InputError(f"'{where}' is not the recipe of a tune: {error!s:.400}; copy it again") from None


def check_record(found: Mapping[str, Any]) -> Spec:
    """Check a record's types and recompute its hash; gives its method.

    Raises:
        InputError: a field that is missing or of another type; a record that was edited.
    """
    for name in ("recipe", "outcome", "task"):
        if not isinstance(found.get(name), dict):
            raise InputError(f"it has no '{name}'")
    recipe, task, base = Recipe.from_dict(found["recipe"]), found["task"], found.get("base")
    TrialResult.from_dict(found["outcome"])
    if "precision" not in found["outcome"] or "score" not in found["outcome"]:
        raise InputError("its outcome has no 'precision' or no 'score'")
    for name, kind in _TASK.items():
        if type(task.get(name)) is not kind:
            raise InputError(f"its task has {name}={task.get(name)!r:.60}, expected {kind.__name__}")
    for name in ("labels", "notes"):
        if not all(isinstance(value, str) for value in task[name]) or (
            name == "labels" and len(set(task[name])) < len(task[name])
        ):
            raise InputError(f"its task has {name} that are no texts, or that repeat")
    if isinstance(base, dict):
        Base.from_dict(base)
        computed = digest_of({key: value for key, value in found.items() if key not in ("recipe_hash", "before")})
    elif isinstance(base, str):
        computed = recipe_key(found["recipe"], task["fingerprint"], base)[:16]
    else:
        raise InputError("it has no 'base'")
    if computed != found.get("recipe_hash"):
        raise InputError(
            f"it was edited: its content has hash {computed}, and it says {found.get('recipe_hash')!r:.40}"
        )
    recipe.check()
    return parse(recipe.method)


def note_not_covered(path: str | os.PathLike[str], record: Mapping[str, Any], progress: Progress | None) -> None:
    """Tell `progress` what the record of an earlier version does not cover."""
    if progress is not None and not isinstance(record["base"], dict):
        progress.note(f"'{path}': {NOT_COVERED}")


def _records(where: Path) -> list[dict[str, Any]]:
    """The record in a JSON file, and the one of the tune it was about to replace."""
    if where.stat().st_size > MAX_BYTES:
        raise ValueError(f"{where.stat().st_size} bytes, expected at most {MAX_BYTES}")
    found = json.loads(where.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    before = found.get("before")
    return [found, before] if isinstance(before, dict) else [found]


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=1) + "\n"
