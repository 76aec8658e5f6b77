"""d90: how few parameters a fine-tune really needs: measured, trained in exactly that many, stored in under a kilobyte.

Names are imported when they are first asked for: torch takes seconds, and `d90 --help` needs none of it.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from d90._version import __version__

if TYPE_CHECKING:
    from d90 import analysis, methods, projections, tasks
    from d90.bank import Bank
    from d90.certify import Certificate, certify
    from d90.compare import Comparison, compare
    from d90.integrations.peft import SubspaceConfig
    from d90.language import LanguageCertificate, certify_language
    from d90.measure import Measurement, measure
    from d90.recipe import Recipe
    from d90.subspace import Subspace
    from d90.training import Run, train

__all__ = [
    "Bank",
    "Certificate",
    "Comparison",
    "LanguageCertificate",
    "Measurement",
    "Recipe",
    "Run",
    "Subspace",
    "SubspaceConfig",
    "__version__",
    "analysis",
    "certify",
    "certify_language",
    "compare",
    "measure",
    "methods",
    "projections",
    "tasks",
    "train",
]

_ROOMS = {
    "Bank": "bank",
    "Certificate": "certify",
    "Comparison": "compare",
    "LanguageCertificate": "language",
    "Measurement": "measure",
    "Recipe": "recipe",
    "Run": "training",
    "Subspace": "subspace",
    "SubspaceConfig": "integrations.peft",
    "certify": "certify",
    "certify_language": "language",
    "compare": "compare",
    "measure": "measure",
    "train": "training",
}
_PACKAGES = ("analysis", "methods", "projections", "tasks")


class _Package(ModuleType):
    """This module: its names come from their rooms, and a room of the same name (`measure`) does not hide its function."""

    def __getattr__(self, name: str) -> object:
        if name in _PACKAGES:
            return import_module(f"d90.{name}")
        if name not in _ROOMS:
            raise AttributeError(f"module 'd90' has no attribute '{name}'")
        value = getattr(import_module(f"d90.{_ROOMS[name]}"), name)
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _ROOMS and isinstance(value, ModuleType)):  # the import system binds each submodule here
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
