"""Hints of the Python API in the command line's spelling."""

from __future__ import annotations

import pytest

from d90.cli import compare, convert, latency, measure, tunes
from d90.cli.spelling import as_options, option_names


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("got epochs=0, expected more than 0", "got --epochs 0, expected more than 0"),
        ("above chance (try rule='gain')", "above chance (try --rule gain)"),
        ("got batch_size=0", "got --batch-size 0"),
        ("got baseline_lr=1; raise it", "got --baseline-lr 1; raise it"),
        ("trained 'lora:r=8,targets=qv@d=5,seed=3'", "trained 'lora:r=8,targets=qv@d=5,seed=3'"),
        ("expected 32 <= d <= 99 (m lambdas, D=163)", "expected 32 <= d <= 99 (m lambdas, D=163)"),
        ("'model' is an argument: model=fc", "'model' is an argument: model=fc"),
    ],
)
def test_fields_become_options(said: str, shown: str) -> None:
    assert as_options(said, measure.measure) == shown


def test_only_the_commands_own_options_are_spelled() -> None:
    assert as_options("got rank=0 for to='peft'", convert.convert) == "got --rank 0 for --to peft"
    assert as_options("got rank=0", measure.measure) == "got rank=0"
    assert option_names(tunes.train)["d"] == "--d"
    assert option_names(latency.latency)["r"] == "--r"
    assert option_names(compare.compare)["train_limit"] == "--train-limit"
