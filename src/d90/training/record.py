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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from d90._version import __version__
from d90.errors import InputError, RunFailed
from d90.files import Json, check_output, write_bytes, write_text
from d90.methods import Spec, parse
from d90.subspace import file as tune_file
from d90.subspace.fingerprint import NOT_COVERED, Base, digest_of
from d90.tasks.kinds import TaskKind, stored_kind
from d90.training.progress import Progress
from d90.training.recipe import Recipe, recipe_key
from d90.training.result import TrialResult

__all__ = [
    "Encoding",
    "TaskRecord",
    "TuneRecord",
    "beside",
    "checked",
    "copy_pair",
    "note_not_covered",
    "read_record",
    "save_pair",
    "sealed",
]

MAX_BYTES = 1 << 26
_TASK = {"kind": str, "labels": list, "metric": str, "texts": int, "fingerprint": str, "notes": list}


@dataclass(frozen=True)
class Encoding:
    """How a tune's texts were encoded.

    Attributes:
        separator, separator_token: the id between two texts and its token; None: they are not separated.
        split_special: whether the names of special tokens in a text are text.
    """

    separator: int | None = None
    separator_token: str | None = None
    split_special: bool = False


@dataclass(frozen=True)
class TaskRecord:
    """A tune's task, as its record tells it.

    Attributes:
        kind: the kind's stored word.
        texts: inputs of text in an example, 0 of images.
        sizes, max_length: examples of each split, and tokens of an example at most, where it says them.
        kept: what the kind itself keeps (`TaskKind.record`).
    """

    kind: str
    metric: str
    texts: int
    labels: tuple[str, ...] = ()
    fingerprint: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    max_length: int | None = None
    notes: tuple[str, ...] = ()
    kept: Json = field(default_factory=dict)

    def to_dict(self) -> Json:
        """As it is stored."""
        return {
            "kind": self.kind,
            "labels": list(self.labels),
            "metric": self.metric,
            **self.kept,
            "texts": self.texts,
            "fingerprint": self.fingerprint,
            "sizes": dict(self.sizes),
            "max_length": self.max_length,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, found: Json) -> TaskRecord:
        """From what was stored.

        Raises:
            InputError: a field that is missing or of another type.
        """
        for name, kind in _TASK.items():
            if type(found.get(name)) is not kind:
                raise InputError(f"its task has {name}={found.get(name)!r:.60}, expected {kind.__name__}")
        for name in ("labels", "notes"):
            if not all(isinstance(value, str) for value in found[name]) or (
                name == "labels" and len(set(found[name])) < len(found[name])
            ):
                raise InputError(f"its task has {name} that are no texts, or that repeat")
        given = {name: found[name] for name in ("kind", "metric", "texts", "fingerprint")}
        own = {name: value for name, value in found.items() if name not in cls.__dataclass_fields__}
        sizes, longest = found.get("sizes") or {}, found.get("max_length")
        return cls(
            **given,
            labels=tuple(found["labels"]),
            sizes=sizes,
            max_length=longest,
            notes=tuple(found["notes"]),
            kept=own,
        )


@dataclass(frozen=True)
class TuneRecord:
    """What lies beside a tune.

    Attributes:
        version: d90's that trained it.
        recipe, outcome: how it was trained, and what that gave.
        task: what loading its task and reading its outputs needs.
        base: of its base model; of files of formats 1 and 2 the fingerprint of the weights alone.
        fresh: the parameters that come from no checkpoint; None in files of the first formats, whose head is what is called like one.
        encoding: of texts.
        digest: the hash of the whole record, by which the tune names it.
        stored: the JSON object that it was read from, with what this version does not know.
    """

    version: str
    recipe: Recipe
    outcome: TrialResult
    task: TaskRecord
    base: Base | str
    fresh: tuple[str, ...] | None
    encoding: Encoding
    digest: str
    stored: Json = field(repr=False)

    @property
    def spec(self) -> Spec:
        """The method."""
        return parse(self.recipe.method)

    @property
    def kind(self) -> TaskKind:
        """The kind of task, with what it kept of the training labels."""
        return stored_kind(self.task.kind, not self.task.texts, self.task.labels).restored(self.task.kept)

    @classmethod
    def made(
        cls,
        recipe: Recipe,
        outcome: TrialResult,
        task: TaskRecord,
        base: Base,
        fresh: Sequence[str],
        encoding: Encoding,
    ) -> TuneRecord:
        """The record of a run that has just ended."""
        body = {
            "recipe": recipe.to_dict(),
            "outcome": outcome.to_dict(),
            "task": task.to_dict(),
            "base": base.to_dict(),
        }
        return cls.from_dict(sealed({"d90": __version__, **body, "fresh": list(fresh), "encoding": asdict(encoding)}))

    @classmethod
    def from_dict(cls, found: Json) -> TuneRecord:
        """From what was stored, by this version or another.

        Raises:
            InputError: a field that is missing or of another type.
        """
        for name in ("recipe", "outcome", "task"):
            if not isinstance(found.get(name), dict):
                raise InputError(f"it has no '{name}'")
        recipe, outcome = Recipe.from_dict(found["recipe"]), TrialResult.from_dict(found["outcome"])
        if "precision" not in found["outcome"] or "score" not in found["outcome"]:
            raise InputError("its outcome has no 'precision' or no 'score'")
        task, base = TaskRecord.from_dict(found["task"]), found.get("base")
        if not isinstance(base, dict | str):
            raise InputError("it has no 'base'")
        encoding, fresh = found.get("encoding") or {}, found.get("fresh")
        return cls(
            str(found.get("d90", "")),
            recipe,
            outcome,
            task,
            base if isinstance(base, str) else Base.from_dict(base),
            None if fresh is None else tuple(map(str, fresh)),
            Encoding(
                encoding.get("separator"), encoding.get("separator_token"), bool(encoding.get("split_special", False))
            ),
            str(found.get("recipe_hash", "")),
            found,
        )


def sealed(body: Json) -> Json:
    """A record as JSON will read it back, with its hash."""
    plain: Json = json.loads(json.dumps(body))
    return {**plain, "recipe_hash": digest_of(plain)}


def beside(path: str | os.PathLike[str]) -> Path:
    """Where a tune's record lies: task.json beside task.d90."""
    return Path(path).with_suffix(".json")


def save_pair(path: str | os.PathLike[str], record: Json, write_tune: Callable[[Path, str], None]) -> None:
    """Write a tune and its record, so that at every moment the old pair or the new one opens.

    Args:
        path: of the tune.
        record: from `sealed`.
        write_tune: writes the tune atomically, with the hash it is given in its header.

    Raises:
        InputError, RunFailed: one of the two could not be written; the pair that was there still opens.
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


def _current(target: Path) -> Json | None:
    """The record, as JSON, of the tune that lies there; None for no pair."""
    with contextlib.suppress(InputError, OSError, ValueError, RecursionError):
        header = tune_file.about(target).header
        return next((one for one in _records(beside(target)) if one.get("recipe_hash") == header.recipe), None)
    return None


def read_record(path: str | os.PathLike[str], header: tune_file.Header | None = None) -> TuneRecord:
    """The record beside a tune, checked. `header` is the tune's, where it was read before.

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
            checked(records[0])  # an edited record is named as such, whatever it says of itself
            raise InputError(
                f"'{where}' is the recipe {records[0]['recipe_hash']} and '{target.name}' was made by {header.recipe}; copy the right one"
            )
        return checked(found)
    except (OverflowError, RecursionError, ValueError) as error:
        if str(error).startswith(f"'{where}'"):
            raise
        raise InputError(f"'{where}' is not the recipe of a tune: {error!s:.400}; copy it again") from None


def checked(found: Json) -> TuneRecord:
    """The record in a JSON object, its types checked and its hash computed again.

    Raises:
        InputError: a field that is missing or of another type; a record that was edited.
    """
    record = TuneRecord.from_dict(found)
    if isinstance(record.base, Base):
        computed = digest_of({key: value for key, value in found.items() if key not in ("recipe_hash", "before")})
    else:
        computed = recipe_key(found["recipe"], record.task.fingerprint, record.base)[:16]
    if computed != found.get("recipe_hash"):
        raise InputError(
            f"it was edited: its content has hash {computed}, and it says {found.get('recipe_hash')!r:.40}"
        )
    record.recipe.check()
    parse(record.recipe.method)
    return record


def note_not_covered(path: str | os.PathLike[str], record: TuneRecord, progress: Progress | None) -> None:
    """Tell `progress` what the record of an earlier version does not cover."""
    if progress is not None and not isinstance(record.base, Base):
        progress.note(f"'{path}': {NOT_COVERED}")


def _records(where: Path) -> list[Json]:
    """The record in a JSON file, and the one of the tune it was about to replace."""
    if where.stat().st_size > MAX_BYTES:
        raise ValueError(f"{where.stat().st_size} bytes, expected at most {MAX_BYTES}")
    found = json.loads(where.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    before = found.get("before")
    return [found, before] if isinstance(before, dict) else [found]


def _json(body: Json) -> str:
    return json.dumps(body, indent=1) + "\n"
