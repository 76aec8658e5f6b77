"""d90: how few parameters a fine-tune really needs: measured, trained in exactly that many, stored in under a kilobyte."""

from d90 import methods, projections, tasks
from d90._version import __version__
from d90.bank import Bank
from d90.certify import Certificate, certify
from d90.compare import Comparison, compare
from d90.measure import Measurement, measure
from d90.recipe import Recipe
from d90.subspace import Subspace
from d90.training import Run, train

__all__ = [
    "Bank",
    "Certificate",
    "Comparison",
    "Measurement",
    "Recipe",
    "Run",
    "Subspace",
    "SubspaceConfig",
    "__version__",
    "certify",
    "compare",
    "measure",
    "methods",
    "projections",
    "tasks",
    "train",
]


def __getattr__(name: str) -> object:
    if name == "SubspaceConfig":  # peft takes seconds to import, and few need it
        from d90.integrations.peft import SubspaceConfig

        return SubspaceConfig
    raise AttributeError(f"module 'd90' has no attribute '{name}'")
