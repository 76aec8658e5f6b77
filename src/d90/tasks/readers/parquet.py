"""Parquet, in pieces, within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d90.errors import InputError, quoted
from d90.tasks.readers.lines import MAX_BYTES, MAX_ROWS, FileRows

__all__ = ["read_parquet"]

PIECE = 256  # rows decoded at a time: a dictionary's one long value may stand in each


def read_parquet(path: Path) -> FileRows:
    """Rows of a parquet file.

    Raises:
        InputError: not a sound parquet file; a column or a value that cannot be read, with its row.
    """
    import pyarrow
    import pyarrow.parquet

    found, size = FileRows(), 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check(path, file)
            for batch in file.iter_batches(batch_size=PIECE):
                size += batch.nbytes
                if size > MAX_BYTES:
                    raise InputError(f"'{path}': more than {MAX_BYTES >> 20:,} MiB of values; take a part of it")
                columns = [
                    _values(path, name, batch.column(place), len(found.rows))
                    for place, name in enumerate(batch.schema.names)
                ]
                for values in zip(*columns, strict=True):
                    row = dict(zip(batch.schema.names, values, strict=True))
                    found.add(path, f"row {len(found.rows) + 1}", row)
    except (pyarrow.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"'{path}' is no sound parquet file: {first[:240]}") from None
    return found


def _check(path: Path, file: Any) -> None:
    """Refuse a table whose footer already tells that it is too large, and names that stand twice."""
    about, names = file.metadata, file.schema_arrow.names
    size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    if about.num_rows > MAX_ROWS or size > MAX_BYTES:
        raise InputError(
            f"'{path}': {about.num_rows:,} rows of {size >> 20:,} MiB, expected at most {MAX_ROWS:,} rows and "
            f"{MAX_BYTES >> 20:,} MiB; take a part of it"
        )
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"'{path}': two columns are called {quoted(twice)}, expected different ones; rename one")


def _values(path: Path, name: str, column: Any, before: int) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
        return values
    except (ValueError, OverflowError):  # broken UTF-8, a date out of Python's range
        pass
    for at in range(len(column)):
        try:
            column[at].as_py()
        except UnicodeDecodeError as error:
            raise InputError(
                f"'{path}', row {before + at + 1}: broken UTF-8 at byte {error.start} of column {quoted(name)}; write it as UTF-8"
            ) from None
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"'{path}', row {before + at + 1}: column {quoted(name)} cannot be read ({error}); leave the column out"
            ) from None
    raise InputError(f"'{path}': column {quoted(name)} cannot be read; leave it out")
