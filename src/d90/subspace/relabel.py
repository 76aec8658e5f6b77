"""A tune under another record: the hash in its header is exchanged, every number stays bit for bit."""

from __future__ import annotations

import hashlib
import json

from d90.subspace.header import LINE, NO_CHECK, shorter

__all__ = ["with_recipe"]

_PLACE = 1 + LINE.index("recipe")  # in the metadata line, behind the format


def with_recipe(content: bytes, recipe: str) -> bytes:
    """The bytes of a sound tune whose header names `recipe`, the hash of another record, 16 hex digits.

    Args:
        content: of the file, as `d90.subspace.file.read` has checked it.
        recipe: from `d90.training.record.sealed`.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    line = json.loads(content[8:start])["__metadata__"]["d90"]
    values = line.split("|")
    values[_PLACE] = shorter(recipe) if values[_PLACE].startswith("~") else recipe  # of the same length
    checked = values[0] != "1"
    if checked:
        values[-1] = NO_CHECK
    header = content[8:start].replace(f'"{line}"'.encode(), f'"{"|".join(values)}"'.encode(), 1)
    changed = content[:8] + header + content[start:]
    if not checked:
        return changed
    check = hashlib.sha256(changed).hexdigest()[:8]
    return changed.replace(f'|{NO_CHECK}"'.encode(), f'|{check}"'.encode(), 1)
