"""What every test file shares: no network, a seeded torch, and threads and dtype given back."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # small models; several threads only wait for one another

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_torch_for_all() -> Iterator[None]:
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small idx folder: 4 x 4 images of three blobs."""
    from tests.reference.blobs import blobs

    folder = tmp_path_factory.mktemp("digits")
    task = blobs()
    for prefix, split in (("train", task.train), ("t10k", task.validation)):
        pixels = ((split.inputs.squeeze(1) + 4) * 30).clamp(0, 255).to(torch.uint8)
        images = struct.pack(">4B3I", 0, 0, 8, 3, len(split), 4, 4) + pixels.numpy().tobytes()
        labels = struct.pack(">4BI", 0, 0, 8, 1, len(split)) + split.labels.to(torch.uint8).numpy().tobytes()
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return folder
