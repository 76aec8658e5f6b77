"""Values joined by commas: one reader for the command line and for recipes."""

from __future__ import annotations

import pytest

from d90.errors import InputError
from d90.joined import JOINED, read_joined, split_joined


@pytest.mark.parametrize("name", JOINED)
def test_each_form_reads_its_own_example(name: str) -> None:
    form = JOINED[name]
    assert len(read_joined(name, form.example)) == form.example.count(",") + 1


def test_values_have_their_types_and_spaces_and_empty_parts_are_left_out() -> None:
    assert read_joined("dims", " 100, ,1000,") == [100, 1000]
    assert read_joined("dims", "") == []
    assert read_joined("rates", "0.3,1") == [0.3, 1.0]
    assert read_joined("counts", "100,all") == [100, None]
    assert read_joined("pairs", "1x128,16x256") == [(1, 128), (16, 256)]
    assert split_joined("a  b", None) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("dims", "100,1e3", "got '1e3' among --dims, expected whole numbers joined by commas, as in 100,1000"),
        ("ranks", "4,0", "got '0' among --ranks, expected positive whole numbers"),
        ("rates", "1,-3", "got '-3' among --rates, expected positive numbers"),
        ("rates", "nan", "got 'nan' among --rates"),
        ("counts", "100,most", "got 'most' among --counts, expected whole numbers and 'all'"),
        ("pairs", "1x8,axb", "got 'axb' among --pairs, expected BATCHxTOKENS"),
        ("levels", " , ", "got --levels ' , ', expected whole numbers joined by commas, as in 3,5,9"),
        ("dims", "-4", "got '-4' among --dims"),
    ],
)
def test_what_does_not_fit_is_named(name: str, text: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        read_joined(name, text)
    assert words in str(raised.value)
