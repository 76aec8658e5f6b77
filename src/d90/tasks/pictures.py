"""Pictures as examples: a file's bytes as base64 text, so that one text is one example and a task's hash covers what is seen.

A folder of class folders is a table too: a picture and the name of its folder in each row.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d90.errors import InputError, quoted
from d90.tasks.choices import has_choices
from d90.tasks.columns import Columns, Table

__all__ = [
    "ENDINGS",
    "IMAGE_COLUMNS",
    "class_folders",
    "decode",
    "folder_table",
    "labelled_texts",
    "picture_column",
    "picture_of",
    "read_picture",
]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_COLUMNS = ("image", "img")
MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28  # of a file


def picture_column(table: Table, columns: Columns) -> str | None:
    """The column of images, the one that was named or the first usual one; None where a table has none."""
    row = table.rows[0]
    name = columns.text[0] if columns.text else next((name for name in IMAGE_COLUMNS if name in row), None)
    value = row.get(name) if name is not None else None
    held = isinstance(value, bytes | Path) or (isinstance(value, Mapping) and "bytes" in value)
    path = isinstance(value, str) and value.lower().endswith(ENDINGS)
    return name if held or path else None


def labelled_texts(table: Table, columns: Columns) -> bool:
    """Whether a table has a label, and no column of images instead of texts, nor choices beside a question."""
    row = table.rows[0]
    return (
        columns.label in row
        and not has_choices(row, columns)
        and (picture_column(table, columns) is None or (not columns.text and columns.find(row) is not None))
    )


def class_folders(folder: Path) -> list[Path]:
    """The folders in `folder` that hold pictures, or nothing at all, by name; empty where none holds a picture."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [path for path in inside if _pictures(path)]
    return inside if found else []


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())


def folder_table(folder: Path) -> tuple[Table, tuple[str, ...]]:
    """A folder of class folders as a table, one picture of each class after another, and what is worth a note.

    Raises:
        InputError: a class folder without a picture.
    """
    rows: list[tuple[int, str, Path]] = []
    other = 0
    for place in class_folders(folder):
        pictures = _pictures(place)
        if not pictures:
            raise InputError(
                f"'{place}': no picture in this class folder, expected {', '.join(ENDINGS[:4])} and the like; remove it"
            )
        other += sum(1 for path in place.iterdir() if not path.name.startswith(".")) - len(pictures)
        rows += [(i, place.name, path) for i, path in enumerate(pictures)]
    rows.sort(key=lambda row: (row[0], row[1]))  # a limit of N takes as many of each class
    notes = (f"'{folder}': {other:,} files that are no pictures were passed over",) if other else ()
    table = [{IMAGE_COLUMNS[0]: path, "label": label} for _, label, path in rows]
    return Table(table, f"'{folder}'", [f"{label}/{path.name}" for _, label, path in rows]), notes


def read_picture(path: Path, spot: str) -> str:
    """A file's picture.

    Raises:
        InputError: no such file, or one that holds no sound picture.
    """
    if not path.is_file():
        raise InputError(f"{spot}: no such file '{path}', expected a picture")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(
            f"{spot}: '{path.name}' has {path.stat().st_size:,} bytes, expected a picture of at most {MAX_BYTES:,}"
        )
    return _checked(path.read_bytes(), spot)


def picture_of(value: Any, spot: str, folder: Path | None = None) -> str:
    """What a cell holds: a path, bytes, or the hub's {"bytes", "path"}.

    Args:
        folder: where a path that is not absolute begins.

    Raises:
        InputError: no picture, or a broken one.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return _checked(value, spot)
    if isinstance(value, str) and value.strip():
        value = Path(value)
    if not isinstance(value, Path):
        raise InputError(f"{spot}: no picture, expected the path of a file, or its bytes")
    return read_picture(value if folder is None else folder / value, spot)


def _checked(content: bytes, spot: str) -> str:
    text = base64.b64encode(content).decode("ascii")
    decode(text, spot)
    return text


def decode(text: str, spot: str = "a picture") -> Any:
    """The picture as an upright PIL image in RGB, or in grey ("L") where it was grey.

    Raises:
        InputError: bytes that are no sound picture, or one of too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"{spot}: {image.width} x {image.height} pixels, expected at most {MAX_PIXELS:,}; scale it down"
                )
            whole = ImageOps.exif_transpose(image)
            if whole.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
                return _eight_bits(whole)
            return whole.convert("L" if whole.mode in ("1", "L") else "RGB")
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        binascii.Error,
        Image.DecompressionBombError,
    ) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        why = "its bytes are of no known format" if isinstance(error, UnidentifiedImageError) else why
        raise InputError(f"{spot}: broken picture ({quoted(why, 80)[1:-1]}); drop it, or save it again") from None


def _eight_bits(image: Any) -> Any:
    """Sixteen bits a pixel, or more, as eight: `convert` would cut what is above 255."""
    import numpy
    from PIL import Image

    values = numpy.asarray(image, dtype="float64")
    top = 65535.0 if values.max(initial=0) > 255 else 255.0
    return Image.fromarray((values.clip(0, top) / top * 255).round().astype("uint8"), "L")
