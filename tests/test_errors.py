"""What errors may repeat of a file."""

from __future__ import annotations

import pytest

from d90.errors import InputError, RunFailed, printable, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with é, 日本語 and 👩‍👩‍👧", "plain, with é, 日本語 and 👩‍👩‍👧"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("\x7f\x00\r", r"\x7f\x00\r"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\ud83d", r"\ud83d"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def test_a_quoted_value_is_one_line_and_cut() -> None:
    assert quoted("x" * 1000) == f"'{'x' * 60}... (1,000 characters)'"
    assert quoted("a\nb\x1b") == r"'a\nb\x1b'"
    assert quoted(7) == "'7'"


@pytest.mark.parametrize("error", [InputError, RunFailed])
def test_errors_carry_no_control_characters(error: type[Exception]) -> None:
    assert str(error("column '\x1b[31mred'")) == "column '\\x1b[31mred'"
