"""Where trials and studies run: versions and the machine."""

from __future__ import annotations

import platform

import numpy
import torch

from d90._version import __version__
from d90.training.result import TrialContext

__all__ = ["context_here", "versions"]


def context_here(task: str, base: str, device: str = "") -> TrialContext:
    """The context of a trial that ran in this process, of a task and a base by their fingerprints."""
    return TrialContext(
        task,
        base,
        d90=__version__,
        torch=str(torch.__version__),
        numpy=numpy.__version__,
        python=platform.python_version(),
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        device=device,
    )


def versions() -> dict[str, str | int]:
    """Versions and machine, as recorded with every study."""
    return context_here("", "").to_dict()
