"""The embedded task of pictures: the same every time, split by font, and learnt by a small network."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image

import d90
from d90.errors import InputError
from d90.tasks import digits, load
from d90.tasks.digits import COUNTS, FONTS, SIZE, load_digits


def test_it_is_the_same_every_time_and_no_font_is_in_two_splits() -> None:
    task = load("digits")
    assert task.fingerprint == load_digits().fingerprint
    assert {part: len(split) for part, split in task.splits.items()} == COUNTS
    fonts = [font for names in FONTS.values() for font in names]
    assert len(set(fonts)) == len(fonts) == 20
    for split in task.splits.values():
        assert torch.bincount(split.labels).tolist() == [len(split) // 10] * 10
    assert task.chance() == 0.1


def test_a_picture_is_a_png_of_its_digit() -> None:
    train = load("digits").train
    with Image.open(io.BytesIO(base64.b64decode(str(train.inputs[0][0])))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (SIZE, SIZE))
        assert max(picture.tobytes()) > 120


def test_missing_fonts_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(digits.FONTS, "train", ("NoSuchFont",))
    with pytest.raises(InputError, match="matplotlib came without its font 'NoSuchFont'"):
        load_digits()


@pytest.mark.slow
def test_a_small_network_learns_it_and_its_d_decides() -> None:
    task = load("digits")
    options = {"epochs": 10, "batch_size": 50, "evaluations": 2, "seed": 1}
    scores = []
    for method, lr in (("full", 3e-3), ("full@d=1000", 5e-2), ("full@d=130", 5e-2)):
        run = d90.train("mlp:256-64-64-10", task, method, lr=lr, **options)
        scores.append(run.score)
        run.release()
    full, many, few = scores
    assert full > 0.94
    assert many > 0.9 * full > few + 0.05
