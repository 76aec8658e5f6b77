"""Documents for a causal language model: plain text, gzipped or not, one file or a folder of train, validation and test.

A document is what lies between blank lines (`text:`), or each line that is not blank (`lines:`). It is the example: losses are
means over documents, and a bound counts documents, which must be independent; the lines of one article are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from d90.errors import InputError
from d90.tasks.base import Split, Task
from d90.tasks.files import split_files
from d90.tasks.kinds.language import Language, documents
from d90.tasks.metrics import LOSS
from d90.tasks.names import UNITS
from d90.tasks.readers import ending_of, numbered_lines

__all__ = ["load_text"]

ENDINGS = (".txt", ".txt.gz")


def load_text(name: str, metric: str | None = None) -> Task:
    """A task of documents.

    Args:
        name: "text:" or "lines:" and a path.

    Raises:
        InputError: an unsound file, or fewer than two documents.
    """
    unit = next(unit for unit in UNITS if name.startswith(unit))
    path = Path(name.removeprefix(unit))
    if ending_of(path) is not None:
        raise InputError(
            f"'{path}' is a table, and {unit} takes plain text ({', '.join(ENDINGS)}); leave {unit} out and, where it has no "
            "labels, add --kind language"
        )
    files = split_files(str(path), ENDINGS)
    splits = {part: _split(file, unit) for part, file in files.items()}
    notes = [f"{sum(map(len, splits.values())):,} {UNITS[unit]}"]
    if len(splits["train"]) < 2:
        other = "lines:" if unit == "text:" else "text:"
        raise InputError(
            f"'{files['train']}' has {len(splits['train'])} {UNITS[unit]}, expected at least two; try {other}{path}"
        )
    if "validation" not in splits:
        splits["train"], splits["validation"] = splits["train"].hold_out(0)
        notes.append(
            f"validation: {len(splits['validation'])} of the training documents, drawn with the stream 'split'"
        )
    return Task(
        name, Language(), (), metric or LOSS, splits["train"], splits["validation"], splits.get("test"), tuple(notes)
    )


def _split(file: Path, unit: str) -> Split:
    return documents([(document,) for document in _documents(file, unit)])


def _documents(file: Path, unit: str) -> Iterator[str]:
    held: list[str] = []
    for _, line in numbered_lines(file):
        if line.strip():
            held.append(line.rstrip("\r\n"))
        if held and (unit == "lines:" or not line.strip()):
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)
