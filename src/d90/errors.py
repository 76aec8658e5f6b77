"""The errors d90 raises on purpose: each says what it got, what it expected, the likely cause and the next step."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


class _Printable(Exception):
    """An error may repeat what a file holds; control characters in it are written out."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(part) if isinstance(part, str) else part for part in args))


class D90Error(_Printable):
    """Something the user can put right. The command line prints it as one line and exits with status 2."""


class InputError(D90Error, ValueError):
    """A wrong value: an unknown name, a bad number, a malformed file."""


class UnsupportedModelError(D90Error, TypeError):
    """A model the in-place engine cannot write to: sharded, quantised, on the meta device, ..."""


class StoreError(D90Error):
    """A store that cannot be used as it is: written by a newer version, or not a store at all."""


class RunFailed(_Printable):
    """A run or the machine failed (disk full, every trial diverged). The command line exits with status 1."""


class TrainingFailed(RunFailed):
    """Every trial of something failed: it diverged, or memory did not suffice. What else was to be trained may still succeed."""


def unknown_name(what: str, got: object, known: object, hint: str = "") -> InputError:
    """Build the error for a name outside a closed list, with the nearest known name as a guess."""
    names = [str(k) for k in known]  # type: ignore[attr-defined]
    guess = did_you_mean(got, names)
    tail = f" {hint}" if hint else ""
    return InputError(f"unknown {what} '{got}': expected one of {', '.join(names)}.{guess}{tail}")


def did_you_mean(got: object, names: Iterable[str]) -> str:
    """The nearest of the names as a question, with a space before it; "" where none is near."""
    import difflib

    text = str(got)
    listed = list(dict.fromkeys(names))
    folded = {name.casefold(): name for name in listed}
    near = difflib.get_close_matches(text.casefold(), folded, n=1)
    return f" Did you mean '{folded[near[0]]}'?" if near else ""


_KEPT = "\n\t\u200c\u200d"  # line ends, tabs, and the joiners that scripts and emoji are written with


def printable(text: object) -> str:
    r"""Text with its control characters written out (`\x1b`), so that a terminal shows them and obeys none.

    Control and formatting characters (escape sequences, text direction), lone surrogates, line and paragraph separators;
    line feeds and tabs stay.
    """
    return "".join(_visible(letter) for letter in str(text))


def _visible(letter: str) -> str:
    if letter.isprintable() or letter in _KEPT:
        return letter
    if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return letter.encode("unicode_escape").decode()
    return letter


def quoted(value: object, longest: int = 60) -> str:
    """A value as an error repeats it: printable, on one line, between quotes, cut to `longest` characters."""
    text = str(value)
    cut = text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"
    return "'" + printable(cut).replace("\n", "\\n").replace("\t", "\\t") + "'"
