"""d90: how few parameters a fine-tune really needs: measured, trained in exactly that many, stored in under a kilobyte.

Names are imported when they are first asked for: torch takes seconds, and `d90 --help` needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from d90._version import __version__
from d90.display import before_showing
from d90.registry import late_names

if TYPE_CHECKING:
    from d90 import analysis, methods, projections, tasks
    from d90.certificates.classification import Certificate, certify
    from d90.certificates.drawn import GaussianCertificate
    from d90.certificates.gaussian import certify_gaussian
    from d90.certificates.language import LanguageCertificate, certify_language
    from d90.integrations.hub import pull, push
    from d90.integrations.merge import merge
    from d90.integrations.peft import SubspaceConfig
    from d90.methods import register_method
    from d90.models.model import Model
    from d90.options import (
        AdviseOptions,
        CertificateOptions,
        CompareOptions,
        LatencyOptions,
        LowDataOptions,
        PreflightOptions,
        PretrainOptions,
        SearchOptions,
        SeriesOptions,
        StudyOptions,
        TaskOptions,
        TrainingOptions,
    )
    from d90.projections import register_projection
    from d90.results.advise import Recommendation
    from d90.results.compare import Comparison
    from d90.results.latency import Latency
    from d90.results.low_data import LowData
    from d90.results.measure import Measurement
    from d90.results.preflight import Preflight
    from d90.results.series import Series
    from d90.results.weight_change import Analysis
    from d90.serving.bank import Bank
    from d90.studies.advise import advise
    from d90.studies.compare import compare
    from d90.studies.generalization import generalization
    from d90.studies.latency import latency
    from d90.studies.low_data import low_data
    from d90.studies.measure import measure
    from d90.studies.preflight import preflight
    from d90.studies.pretrain import pretrain
    from d90.studies.series import family, trajectory
    from d90.studies.study import Study
    from d90.studies.weight_change import analyze
    from d90.subspace.options import SubspaceOptions
    from d90.subspace.subspace import Subspace
    from d90.tasks import Task, register_kind, register_task
    from d90.training.loading import Tuned, open_tune
    from d90.training.loop import train
    from d90.training.recipe import Recipe
    from d90.training.run import Run
    from d90.trials.options import RunOptions

__all__ = [
    "AdviseOptions",
    "Analysis",
    "Bank",
    "Certificate",
    "CertificateOptions",
    "CompareOptions",
    "Comparison",
    "GaussianCertificate",
    "LanguageCertificate",
    "Latency",
    "LatencyOptions",
    "LowData",
    "LowDataOptions",
    "Measurement",
    "Model",
    "Preflight",
    "PreflightOptions",
    "PretrainOptions",
    "Recipe",
    "Recommendation",
    "Run",
    "RunOptions",
    "SearchOptions",
    "Series",
    "SeriesOptions",
    "Study",
    "StudyOptions",
    "Subspace",
    "SubspaceConfig",
    "SubspaceOptions",
    "Task",
    "TaskOptions",
    "TrainingOptions",
    "Tuned",
    "__version__",
    "advise",
    "analysis",
    "analyze",
    "certify",
    "certify_gaussian",
    "certify_language",
    "compare",
    "family",
    "generalization",
    "latency",
    "low_data",
    "measure",
    "merge",
    "methods",
    "open_tune",
    "preflight",
    "pretrain",
    "projections",
    "pull",
    "push",
    "register_kind",
    "register_method",
    "register_projection",
    "register_task",
    "tasks",
    "train",
    "trajectory",
]

_MODULES = {
    "Analysis": "results.weight_change",
    "Bank": "serving.bank",
    "Certificate": "certificates.classification",
    "AdviseOptions": "options",
    "CertificateOptions": "options",
    "CompareOptions": "options",
    "Comparison": "results.compare",
    "GaussianCertificate": "certificates.drawn",
    "LanguageCertificate": "certificates.language",
    "Latency": "results.latency",
    "LatencyOptions": "options",
    "LowData": "results.low_data",
    "LowDataOptions": "options",
    "Measurement": "results.measure",
    "Model": "models.model",
    "Preflight": "results.preflight",
    "PreflightOptions": "options",
    "PretrainOptions": "options",
    "Recipe": "training.recipe",
    "Recommendation": "results.advise",
    "Run": "training.run",
    "RunOptions": "trials.options",
    "SearchOptions": "options",
    "Series": "results.series",
    "SeriesOptions": "options",
    "Study": "studies.study",
    "StudyOptions": "options",
    "Subspace": "subspace.subspace",
    "SubspaceConfig": "integrations.peft",
    "SubspaceOptions": "subspace.options",
    "Task": "tasks",
    "TaskOptions": "options",
    "TrainingOptions": "options",
    "Tuned": "training.loading",
    "advise": "studies.advise",
    "analyze": "studies.weight_change",
    "certify": "certificates.classification",
    "certify_gaussian": "certificates.gaussian",
    "certify_language": "certificates.language",
    "compare": "studies.compare",
    "family": "studies.series",
    "generalization": "studies.generalization",
    "latency": "studies.latency",
    "low_data": "studies.low_data",
    "measure": "studies.measure",
    "merge": "integrations.merge",
    "open_tune": "training.loading",
    "preflight": "studies.preflight",
    "pretrain": "studies.pretrain",
    "pull": "integrations.hub",
    "push": "integrations.hub",
    "register_kind": "tasks",
    "register_method": "methods",
    "register_projection": "projections",
    "register_task": "tasks",
    "train": "training.loop",
    "trajectory": "studies.series",
}
_PACKAGES = ("analysis", "methods", "projections", "tasks")


before_showing(lambda: import_module("d90.report.display"))


_late = late_names("d90", _MODULES)


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return import_module(f"d90.{name}")
    return _late(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
