"""Nothing of size D is held: peak memory of a projection, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from d90 import projections

MEMORY = """
import os, sys, torch
os.environ["D90_KERNEL"] = sys.argv[4]
sys.path.insert(0, {source!r})
from d90 import projections
from d90.projections import dense, sparse
dense.CACHE_BYTES = sparse.CACHE_BYTES = 0  # the documented caches are not scratch
spec, d, D = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
p = projections.build(spec, d, (D // 2, 1000, D - D // 2 - 1000))
g = torch.ones(D)
open("/proc/self/clear_refs", "w").write("5")
held = status("VmRSS")
out = p.forward(torch.ones(d))
back = p.adjoint(g)
print(status("VmHWM") - held - 4 * D / 2**20)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak counter")
@pytest.mark.parametrize(
    ("spec", "d", "D", "path"),
    [
        ("fastfood:sign", 10_000, 23_000_000, ""),
        ("fastfood:sign", 1000, 23_000_000, "torch"),
        ("fastfood:gaussian", 1000, 23_000_000, ""),
        ("onehot:sign", 1000, 23_000_000, ""),
        ("sparse:sign", 20, 23_000_000, ""),
        ("dense:gaussian", 4, 3_000_000, ""),
        ("dense:gaussian", 4, 3_000_000, "torch"),
    ],
)
def test_scratch_does_not_grow_with_the_model(spec: str, d: int, D: int, path: str) -> None:
    """At D = 2.3e7, forward and adjoint take at most 200 MB beyond input and output."""
    source = str(Path(projections.__file__).parents[2])
    program = [sys.executable, "-c", MEMORY.format(source=source), spec, str(d), str(D), path]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    most = 400 if spec.startswith("dense") and path == "torch" else 200  # torch's redraw of few columns is the dearest
    assert float(done.stdout) <= most
