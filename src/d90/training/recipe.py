"""What decides a run, as it is stored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from d90.errors import InputError, unknown_name
from d90.files import Json
from d90.methods import Spec, parse
from d90.models.model import Model, name_of
from d90.options import TaskOptions, TrainingOptions, fields_of, parse_rate
from d90.options.base import Weights
from d90.subspace.options import STEP_RULE, STEP_RULES
from d90.tasks import Task, TaskKind

__all__ = [
    "Recipe",
    "bf16_is_fast",
    "check_types",
    "default_lr",
    "make_recipe",
    "recipe_key",
    "suited",
    "trial_key",
    "trial_label",
]


@dataclass(frozen=True)
class Recipe(TrainingOptions):
    """Everything that decides a run's result, as it is stored.

    Training options whose rate and step rule are settled, of a method on a model and a task.

    Example:
        >>> recipe = d90.Recipe("minilm", "docstrings", epochs=1)
        >>> recipe.method, recipe.batch_size
        ('full', 32)

    Attributes:
        model, task: names as given.
        method: the canonical text of the method (`d90.methods`).
        lr: Adam's learning rate; None takes the default of the method and model (`default_lr`).
        train_limit, validation_limit, max_length, columns: how the data was read (`d90.options.TaskOptions`).
        step_rule: version of the subspace's unit of theta; 1 where the rules agree (`step_rule_of`).
        weights: what the base's weights are held in, "auto" settled (`d90.training.weights`).
    """

    model: str
    task: str
    method: str = "full"
    train_limit: int | None = None
    validation_limit: int | None = None
    max_length: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    lr: float | None = field(default=None, kw_only=True)
    step_rule: int = field(default=1, kw_only=True)
    weights: Weights = field(default="fp32", kw_only=True)

    def __post_init__(self) -> None:
        """What is stored is read whatever it holds; `check` refuses what cannot be trained."""

    @property
    def measures_forgetting(self) -> bool:
        """Whether the run measures what it forgets."""
        return self.forgetting or self.keep is not None or self.forget_at_most is not None

    def check(self) -> None:
        """Refuse impossible values.

        Raises:
            InputError: which one, and what was expected.
        """
        for one in fields_of(TrainingOptions).values():
            one.read(getattr(self, one.name))
        if self.lr is not None and not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"got lr={self.lr}, expected a positive number such as 1e-3")

    def steps(self, n: int) -> int:
        """Optimizer steps of a whole run on n training examples."""
        return max(1, round(-(-n // self.batch_size) * self.epochs))

    def to_dict(self) -> Json:
        """As it is stored: a field that came later stands there only where it differs from what was done before."""
        usual = type(self).__dataclass_fields__
        later = {one.name: usual[one.name].default for one in fields_of(TrainingOptions).values() if one.later}
        return {key: value for key, value in asdict(self).items() if key not in later or value != later[key]}

    def key(self, *fingerprints: str) -> str:
        """Hash of the recipe and the fingerprints of data and base: equal keys, equal runs."""
        return recipe_key(self.to_dict(), *fingerprints)

    @classmethod
    def from_dict(cls, found: Json) -> Recipe:
        """From what was stored, by this version or another: a field that is missing has what was done before, one that this
        version does not know is left out.

        Raises:
            InputError: no model or task, or a field of another type.
        """
        known = {key: found[key] for key in cls.__dataclass_fields__ if key in found}
        check_types(cls, known, "a recipe")
        if not {"model", "task"} <= known.keys():
            raise InputError("got a recipe without 'model' or 'task', expected both")
        return cls(**known)


_JSON: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "None": type(None),
    "dict": dict,
    "tuple": list,
}


def _types(kind: type) -> dict[str, tuple[str, ...]]:
    """The JSON types that a dataclass's fields may have, by name; `float | None` gives ("float", "None")."""
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    names = {name: str(field.type).replace("Precision", "str") for name, field in fields.items()}
    return {name: tuple(part.split("[")[0] for part in text.split(" | ")) for name, text in names.items()}


def check_types(kind: type, found: Json, what: str) -> None:
    """Refuse values from JSON that a dataclass's fields cannot hold.

    Raises:
        InputError: which one, and what was expected.
    """
    for name, kinds in _types(kind).items():
        if name in found and not _fits(found[name], kinds):
            raise InputError(f"got {name}={found[name]!r:.60} in {what}, expected {' or '.join(kinds)}")


def _fits(value: object, names: Sequence[str]) -> bool:
    """Whether a value read from JSON has one of these types; a truth value is no number."""
    kinds = [_JSON.get(name, object) for name in names]
    return any(isinstance(value, kind) and (not isinstance(value, bool) or kind in (bool, object)) for kind in kinds)


def recipe_key(recipe: Json, *fingerprints: str) -> str:
    """The key of a trial: a hash of its recipe as stored, and of the fingerprints of data and base."""
    canonical = json.dumps([recipe, *fingerprints], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def trial_key(recipe: Recipe, task: Task, model: Model, start: str | None = None) -> str:
    """A trial's key in a store: of its recipe, its data, its base, and of what is done otherwise than in d90's first trials.

    Args:
        start: fingerprint of the starting point, where it is not the base itself.
    """
    spec = parse(recipe.method)
    changes = list(model.changes)
    outside = spec.space is not None and spec.space.options.head == "outside"
    if spec.method.name != "full" or outside:
        changes += model.head_changes
    if model.tokenizer is not None:
        if model.separator is not None and task.texts > 1:
            changes.append("pairs are separated")
        if model.split_special and task.mentions(getattr(model.tokenizer, "all_special_tokens", ())):
            changes.append("special tokens are text")
    return recipe.key(task.fingerprint, start or model.fingerprint, *changes)


def suited(method: str | Spec, kind: TaskKind) -> Spec:
    """A method as it is meant for a kind of task: of a language model, LoRA that names no targets takes every linear layer of the blocks.

    q and v alone need ten times the rate there and forget more (docs/decisions.md). A method given as an object is taken as it is.
    """
    if isinstance(method, Spec):
        return method
    return parse(method, {"lora": {"targets": "all"}} if kind.generative else {})


def step_rule_of(spec: Spec) -> int:
    """The newest step rule that says something new about a method: 1 for most, 2 for a subspace of scale global or relative."""
    return 1 if spec.space is None or spec.space.options.scale == "tensor" else STEP_RULE


def trial_label(spec: Spec, recipe: Recipe, kind: TaskKind) -> str:
    """What a trial is called in a line that tells of it: "full@d=1000 seed 0, rate 0.005"."""
    return f"{spec.brief} seed {recipe.seed}, rate {recipe.lr if recipe.lr is not None else default_lr(spec, kind):g}"


def default_lr(spec: Spec, kind: TaskKind) -> float:
    """The learning rate a run takes when none is given.

    A subspace: 5e-3 over a pretrained model, 5e-2 over a network trained from scratch. Weights
    trained as they are: 1e-4 for most of a pretrained model, 1e-3 otherwise. Measured in `docs/decisions.md`.
    """
    if spec.space is not None:
        return 5e-2 if kind.from_scratch else 5e-3
    return 1e-4 if not kind.from_scratch and spec.method.name in ("full", "top") else 1e-3


def bf16_is_fast(device: str) -> bool:
    """Whether bf16 autocast pays there: a GPU that has it, or a processor with AMX or AVX512-BF16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def make_recipe(
    model: str | Model | nn.Module,
    task: str | Task,
    spec: Spec,
    training: TrainingOptions | None = None,
    data: TaskOptions | None = None,
) -> Recipe:
    """The recipe of a run from what the caller gave; a rate that is to be found, or the usual one, is left open.

    The step rule is the newest that says something about the method, or an older one that was asked for.
    """
    training, data = training or TrainingOptions(), data or TaskOptions()
    if training.step_rule not in (None, *STEP_RULES):
        raise unknown_name("step_rule", str(training.step_rule), [str(rule) for rule in STEP_RULES])
    rule, rate = step_rule_of(spec), parse_rate(training.lr)
    given = {name: getattr(training, name) for name in fields_of(TrainingOptions)}
    given["weights"] = "fp32" if training.weights == "auto" else training.weights
    given |= {"lr": rate if isinstance(rate, float) else None, "step_rule": min(rule, training.step_rule or rule)}
    recipe = Recipe(
        name_of(model),
        task if isinstance(task, str) else task.name,
        str(spec),
        data.train_limit,
        data.validation_limit,
        data.max_length,
        data.columns,
        **given,
    )
    recipe.check()
    return recipe
