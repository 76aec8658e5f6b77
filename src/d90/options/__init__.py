"""The options of training, tasks, searches and studies: a dataclass each, from which signatures, command line and recipes come."""

from __future__ import annotations

from d90.options.base import Limit, OptionField, Options, Precision, fields_of, option
from d90.options.certificate import CertificateOptions
from d90.options.pretrain import PretrainOptions
from d90.options.rates import AUTO, DEFAULT, USUAL, parse_rate
from d90.options.search import RULES, RuleName, SearchOptions
from d90.options.studies import (
    TARGETS,
    AdviseOptions,
    CompareOptions,
    LatencyOptions,
    LowDataOptions,
    PreflightOptions,
    SeriesOptions,
    StudyOptions,
    Target,
)
from d90.options.task import COLUMN_OPTIONS, LossOn, TaskOptions
from d90.options.training import TrainingOptions
from d90.options.wrap import from_fields, with_options

__all__ = [
    "AUTO",
    "COLUMN_OPTIONS",
    "DEFAULT",
    "RULES",
    "TARGETS",
    "USUAL",
    "AdviseOptions",
    "CertificateOptions",
    "CompareOptions",
    "LatencyOptions",
    "Limit",
    "LossOn",
    "LowDataOptions",
    "OptionField",
    "Options",
    "Precision",
    "PreflightOptions",
    "PretrainOptions",
    "RuleName",
    "SearchOptions",
    "SeriesOptions",
    "StudyOptions",
    "Target",
    "TaskOptions",
    "TrainingOptions",
    "fields_of",
    "from_fields",
    "option",
    "parse_rate",
    "with_options",
]
