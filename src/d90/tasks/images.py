"""MNIST-style images in idx files: `idx:FOLDER` with train-images-idx3-ubyte[.gz] and its three siblings.

As in the published measurements on MNIST, all training images are trained on and the t10k images are the validation split.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy
import torch
from torch import Tensor

from d90.errors import InputError
from d90.tasks.base import Split, Task

__all__ = ["load_images", "read_idx"]

LIMIT = 1 << 31  # bytes in one file


def load_images(name: str, folder: str) -> Task:
    """Images scaled to mean 0 and standard deviation 1 over the training set; classes 0 ... largest label.

    Raises:
        InputError: a missing or unsound file.
    """
    train, scale = _split(Path(folder), "train", None)
    validation, _ = _split(Path(folder), "t10k", scale)
    classes = int(train.labels.max()) + 1
    note = f"pixels scaled with mean {scale[0]:.4f} and standard deviation {scale[1]:.4f} of the training images"
    labels = tuple(str(i) for i in range(classes))
    return Task(
        name, "classification", labels, "accuracy", train, validation, None, (note, "validation: the t10k files")
    )


def _split(folder: Path, prefix: str, scale: tuple[float, float] | None) -> tuple[Split, tuple[float, float]]:
    images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), 3)
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise InputError(f"'{folder}': {len(images)} {prefix} images and {len(labels)} labels, expected equal numbers")
    pixels = images.float().div_(255).unsqueeze(1)
    mean, deviation = scale or (pixels.mean().item(), pixels.std().item())
    return Split(pixels.sub_(mean).div_(deviation), labels.long()), (mean, deviation)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"'{folder}' has no {name} or {name}.gz; expected a folder of MNIST-style idx files")


def read_idx(path: Path, dims: int) -> Tensor:
    """Read an idx file of bytes; its sizes are checked against its length before anything is allocated for them.

    Raises:
        InputError: wrong magic number, wrong size, or a damaged file.
    """
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            raw = file.read(LIMIT)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"'{path}': damaged gzip file ({error}); copy it again") from None
    start = 4 + 4 * dims
    if len(raw) < start or raw[:4] != bytes((0, 0, 8, dims)):
        raise InputError(
            f"'{path}': got magic {raw[:4].hex()}, expected 000008{dims:02x} (an idx file of bytes, {dims}-dimensional)"
        )
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    count = 1
    for n in shape:
        count *= n
    if count != len(raw) - start or count == 0:
        raise InputError(
            f"'{path}': its header says {shape}, {count} bytes, and it holds {len(raw) - start}; copy it again"
        )
    return torch.from_numpy(numpy.frombuffer(raw, numpy.uint8, offset=start).reshape(shape).copy())
