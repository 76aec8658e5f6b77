"""The embedded task of pictures: digits drawn here in matplotlib's own fonts, turned, moved, and under noise.

Nothing is shipped or downloaded. Split by font, so that no validation picture is in a font that training has seen. The pictures differ
between versions of Pillow and matplotlib, so their hash is part of every result.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import torch

from d90.errors import InputError
from d90.projections.philox import name_block, words
from d90.tasks.base import Split, Task
from d90.tasks.kinds.pictures import Pictures

__all__ = ["SIZE", "load_digits"]

SIZE = 16  # pixels
DRAWN = 64  # pixels of the drawing that is scaled down
TURN, MOVE, NOISE = 12.0, 0.06, 0.15  # degrees, a share of the picture, a share of full contrast
FONTS = {
    "train": (
        *("DejaVuSans", "DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-BoldOblique", "DejaVuSerif"),
        *("DejaVuSerif-BoldItalic", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmtt10"),
    ),
    "validation": ("DejaVuSans-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif-Italic", "STIXGeneral", "cmss10"),
    "test": ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif-Bold", "STIXGeneralBolIta", "cmb10"),
}
COUNTS = {"train": 2000, "validation": 1000, "test": 1000}


def load_digits() -> Task:
    """4,000 grey pictures of 16 x 16 pixels, as many of each digit.

    Raises:
        InputError: matplotlib came without its fonts.
    """
    splits = {part: _split(part) for part in FONTS}
    names = tuple("0123456789")
    fonts = ", ".join(f"{len(FONTS[part])} for {part}" for part in FONTS)
    return Task(
        "digits",
        Pictures(names),
        names,
        "accuracy",
        splits["train"],
        splits["validation"],
        splits["test"],
        notes=(f"digits in fonts of their own: {fonts}",),
    )


def _split(part: str) -> Split:
    fonts = [_font(name) for name in FONTS[part]]
    blocks = torch.tensor([name_block(f"{part}:{i}") for i in range(COUNTS[part])])
    draws = words(0, "split", blocks, SIZE * SIZE // 4 + 1).reshape(len(blocks), -1).double() / 2**32
    labels = torch.arange(COUNTS[part]) % 10
    pictures = [(_picture(fonts[i // 10 % len(fonts)], str(i % 10), draws[i].tolist()),) for i in range(COUNTS[part])]
    return Split(pictures, labels)


def _font(name: str) -> Any:
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    if not path.is_file():
        raise InputError(
            f"matplotlib came without its font '{name}', in which digits are drawn; give a task of your own"
        )
    return ImageFont.truetype(str(path), round(0.95 * DRAWN))


def _picture(font: Any, digit: str, draws: list[float]) -> str:
    """One digit as the base64 text of a PNG."""
    from PIL import Image, ImageDraw

    turn, across, down, contrast, *noise = draws
    drawn = Image.new("L", (DRAWN, DRAWN))
    ImageDraw.Draw(drawn).text((DRAWN / 2, DRAWN / 2), digit, fill=255, font=font, anchor="mm")
    shift = (round(2 * MOVE * DRAWN * (across - 0.5)), round(2 * MOVE * DRAWN * (down - 0.5)))
    turned = drawn.rotate(2 * TURN * (turn - 0.5), Image.Resampling.BILINEAR, translate=shift)
    small = turned.resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = [
        round((0.6 + 0.4 * contrast) * (1 - NOISE) * value + 255 * NOISE * one)
        for value, one in zip(small.tobytes(), noise, strict=False)
    ]
    file = io.BytesIO()
    Image.frombytes("L", (SIZE, SIZE), bytes(pixels)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
