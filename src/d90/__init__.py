"""d90: how few parameters a fine-tune really needs: measured, trained in exactly that many, stored in under a kilobyte.

Names are imported when they are first asked for: torch takes seconds, and `d90 --help` needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from d90._version import __version__

if TYPE_CHECKING:
    from d90 import analysis, methods, projections, tasks
    from d90.certificates.classification import Certificate, certify
    from d90.certificates.language import LanguageCertificate, certify_language
    from d90.integrations.peft import SubspaceConfig
    from d90.models.model import Model
    from d90.projections import register_projection
    from d90.studies.compare import Comparison, compare
    from d90.studies.measure import Measurement, measure
    from d90.subspace.bank import Bank
    from d90.subspace.options import SubspaceOptions
    from d90.subspace.subspace import Subspace
    from d90.training.loop import Run, train
    from d90.training.recipe import Recipe

__all__ = [
    "Bank",
    "Certificate",
    "Comparison",
    "LanguageCertificate",
    "Measurement",
    "Model",
    "Recipe",
    "Run",
    "Subspace",
    "SubspaceConfig",
    "SubspaceOptions",
    "__version__",
    "analysis",
    "certify",
    "certify_language",
    "compare",
    "measure",
    "methods",
    "projections",
    "register_projection",
    "tasks",
    "train",
]

_MODULES = {
    "Bank": "subspace.bank",
    "Certificate": "certificates.classification",
    "Comparison": "studies.compare",
    "LanguageCertificate": "certificates.language",
    "Measurement": "studies.measure",
    "Model": "models.model",
    "Recipe": "training.recipe",
    "Run": "training.loop",
    "Subspace": "subspace.subspace",
    "SubspaceConfig": "integrations.peft",
    "SubspaceOptions": "subspace.options",
    "certify": "certificates.classification",
    "certify_language": "certificates.language",
    "compare": "studies.compare",
    "measure": "studies.measure",
    "register_projection": "projections",
    "train": "training.loop",
}
_PACKAGES = ("analysis", "methods", "projections", "tasks")


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return import_module(f"d90.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'd90' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(f"d90.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
