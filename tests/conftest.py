"""What every test file shares: no network, a seeded torch, and threads and dtype given back."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
