"""MNIST-style images in idx files: `idx:FOLDER` with train-images-idx3-ubyte[.gz] and its three siblings.

As in the published measurements on MNIST, all training images are trained on and the t10k images are the
validation split.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy
import torch
from torch import Tensor

from d90.errors import InputError
from d90.tasks.base import Split, Task
from d90.tasks.kinds import Images

__all__ = ["load_images", "read_idx"]

LIMIT = 1 << 31  # bytes in one file
PIECE = 1 << 20  # bytes read at a time: a header that lies about its sizes costs nothing


def load_images(name: str, folder: str) -> Task:
    """Images scaled to mean 0 and standard deviation 1 over the training set; classes 0 ... largest label.

    Raises:
        InputError: a missing or unsound file.
    """
    train, scale = _split(Path(folder), "train", None)
    validation, _ = _split(Path(folder), "t10k", scale)
    classes = int(train.labels.max()) + 1
    if int(validation.labels.max()) >= classes:
        raise InputError(
            f"'{folder}': t10k label {int(validation.labels.max())} is not among the training labels 0 to {classes - 1}"
        )
    sizes = [tuple(split.inputs.shape[2:]) for split in (train, validation) if isinstance(split.inputs, Tensor)]
    if sizes[0] != sizes[1]:
        raise InputError(f"'{folder}': training images are {sizes[0]} and t10k images {sizes[1]}, expected equal sizes")
    note = f"pixels scaled with mean {scale[0]:.4f} and standard deviation {scale[1]:.4f} of the training images"
    labels = tuple(str(i) for i in range(classes))
    return Task(
        name,
        Images(labels).fitted(train),
        labels,
        "accuracy",
        train,
        validation,
        None,
        (note, "validation: the t10k files"),
    )


def _split(folder: Path, prefix: str, scale: tuple[float, float] | None) -> tuple[Split, tuple[float, float]]:
    images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), 3)
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise InputError(f"'{folder}': {len(images)} {prefix} images and {len(labels)} labels, expected equal numbers")
    pixels = images.float().div_(255).unsqueeze(1)
    mean, deviation = scale or (pixels.mean().item(), pixels.std().item())
    if not deviation > 0:
        raise InputError(
            f"'{folder}': every pixel of the {prefix} images is {mean * 255:.0f}; expected pixels that differ"
        )
    return Split(pixels.sub_(mean).div_(deviation), labels.long()), (mean, deviation)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"'{folder}' has no {name} or {name}.gz; expected a folder of MNIST-style idx files")


def read_idx(path: Path, dims: int) -> Tensor:
    """Read an idx file of bytes into a uint8 tensor of `dims` dimensions.

    Its sizes are checked against its length, so no more is ever allocated than the file holds.

    Raises:
        InputError: wrong magic number, wrong size, or a damaged file.
    """
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path, "rb") as packed:
                return _idx(path, packed, dims)  # type: ignore[arg-type]
        with path.open("rb") as file:
            return _idx(path, file, dims)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"'{path}': damaged gzip file ({error}); copy it again") from None


def _idx(path: Path, file: BinaryIO, dims: int) -> Tensor:
    magic, sizes = file.read(4), file.read(4 * dims)
    if magic != bytes((0, 0, 8, dims)) or len(sizes) < 4 * dims:
        raise InputError(
            f"'{path}': got magic {magic.hex() or 'nothing'}, expected 000008{dims:02x} (an idx file of bytes, "
            f"{dims}-dimensional); copy it again, or name the right folder"
        )
    shape = [int.from_bytes(sizes[4 * i : 4 * i + 4], "big") for i in range(dims)]
    count = math.prod(shape)
    raw = bytearray()
    while len(raw) <= min(count, LIMIT) and (piece := file.read(PIECE)):
        raw += piece
    if count != len(raw) or count == 0:
        held = f"it holds {'more' if len(raw) > count else len(raw)}"
        raise InputError(f"'{path}': its header says {shape}, {count} bytes, and {held}; copy it again")
    return torch.from_numpy(numpy.frombuffer(raw, numpy.uint8).reshape(shape))
