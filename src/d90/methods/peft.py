"""Any method of the library peft that changes layers, by its type and options: peft:type=LOHA,r=4,targets=qv.

peft draws its weights with torch's generator. It is seeded with the run's seed, and the fingerprint of all weights is
checked on load, so a torch that draws others is refused, not silently wrong. peft's prompt learning (prefix tuning,
prompt tuning, p-tuning) wraps the model's forward pass instead of changing layers: `preembed` and `prelayer` are ours.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from d90.errors import InputError, unknown_name
from d90.methods.base import Applied, Context, Inserting, Method
from d90.methods.module_state import module_state, plain
from d90.methods.targets import find_targets

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Peft", "inject"]

ADAPTER = "default"  # peft's name of the one adapter


Setting: TypeAlias = bool | int | float | str | list[str] | None  # of a field of peft's config


@dataclasses.dataclass(frozen=True, init=False)
class Peft(Inserting):
    """Made from a `peft` config, or from its type and fields as words.

    Attributes:
        type: as peft spells it.
        targets: as `d90.methods.targets` reads them.
        settings: fields of the config that were given, in their order.
    """

    name: ClassVar[str] = "peft"
    summary: ClassVar[str] = "any method of peft that changes layers: type=, its options, targets="

    type: str
    targets: str
    settings: tuple[tuple[str, Setting], ...]

    def __init__(self, config: Any = None, *, type: str = "LORA", targets: str = "qv", **settings: Any) -> None:
        from peft import PeftType
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        if config is not None:
            written = _written(config)
            type, targets = str(written.pop("type")), str(written.pop("targets"))
            settings = {**written, **settings}
        kind = str(type).upper()
        if kind not in PeftType.__members__ or kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
            raise unknown_name("type of peft", kind, sorted(map(str, PeftType.__members__)))
        fields = {f.name: f for f in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[kind]])}
        unknown = next((key for key in settings if key not in fields), None)
        if unknown is not None:
            raise unknown_name(f"option of peft:type={kind}", unknown, fields)
        read = tuple((key, _read(value) if isinstance(value, str) else value) for key, value in settings.items())
        self._settle(type=kind, targets=targets, settings=read)
        if self._config().is_prompt_learning:
            raise InputError(
                f"peft: type={kind} wraps the whole model's forward pass, expected a method that changes layers. "
                "Use preembed:prefix=... or prelayer:prefix=... for trained prefixes."
            )

    @property
    def starts_at_base(self) -> bool:  # type: ignore[override]
        return not any(key.startswith("init") and value is False for key, value in self.settings)

    def insert(self, applied: Applied, context: Context) -> None:
        import torch

        before = {name: (p, p.detach().clone()) for name, (p, _) in applied.flags.items()}
        applied.undo.append(lambda: _put_back(before))  # some types change the base's weights at the start
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(context.seed)
            inject(self, applied, self.config_for(applied.model))

    def config_for(self, model: nn.Module) -> Any:
        """The config of peft that names this model's matrices.

        Raises:
            InputError: the model has no such matrices.
        """
        found = find_targets(model, self.targets) if self.targets != "auto" else []
        own: dict[str, list[str] | bool] = {}
        fields = {f.name for f in dataclasses.fields(self._config())}
        if found and "target_modules" in fields:
            own["target_modules"] = [matrix.name for matrix in found]
        if "feedforward_modules" in fields:
            own["feedforward_modules"] = [m.name for m in found if m.role.startswith("mlp")]
        if "fan_in_fan_out" in fields and found:
            own["fan_in_fan_out"] = found[0].transposed
        return self._config(**own)

    def _config(self, **more: Any) -> Any:
        """The config of peft, with the fields that the model gives."""
        from peft import PeftType
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[self.type]](**{**dict(self.settings), **more})

    def __str__(self) -> str:
        given = {"type": self.type, "targets": self.targets, **dict(self.settings)}
        return f"{self.name}:{','.join(f'{key}={value}' for key, value in given.items())}"


def inject(method: Method, applied: Applied, config: Any) -> None:
    """Put peft's layers into the model, in place, with the ways back.

    Raises:
        InputError: peft refuses the config or the model, in its words.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = applied.model
    give_back = module_state(model)
    applied.undo.append(give_back)
    try:
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, ADAPTER)
    except (ValueError, TypeError, NotImplementedError, KeyError) as error:
        raise InputError(f"'{method}': peft cannot put it into this model: {error}") from None

    def fold() -> None:
        try:
            tuner.merge_and_unload()
        except (NotImplementedError, AttributeError, ValueError) as error:
            raise InputError(f"'{method}' cannot be merged: {error}. Keep the tune beside the model.") from None
        give_back()

    applied.fold.append(fold)
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    weights = (layer.get_base_layer() for layer in layers)
    applied.claim(method, (plain(module, "weight") for module in weights if hasattr(module, "weight")))


def _put_back(before: dict[str, tuple[nn.Parameter, Tensor]]) -> None:
    import torch

    with torch.no_grad():
        for parameter, value in before.values():
            parameter.copy_(value)


def _read(text: str) -> Setting:
    """A value of the grammar: a number, true, false, none, or words joined by "/"."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.split("/") if "/" in text else text


def _written(config: Any) -> dict[str, bool | int | float | str]:
    """A config's type and the fields that differ from its defaults.

    Raises:
        InputError: a field that the grammar cannot write.
    """
    kind = type(config)
    plain = {f.name: getattr(kind(), f.name) for f in dataclasses.fields(kind)}
    changed = {name: getattr(config, name) for name, value in plain.items() if getattr(config, name) != value}
    for name in ("base_model_name_or_path", "task_type", "inference_mode", "peft_type", "auto_mapping", "revision"):
        changed.pop(name, None)
    given: dict[str, bool | int | float | str] = {"type": str(config.peft_type.value), "targets": "auto"}
    targets = changed.pop("target_modules", None)
    if targets is not None:
        given["targets"] = targets if isinstance(targets, str) else "/".join(sorted(targets))
    for name, value in changed.items():
        if not isinstance(value, bool | int | float | str):
            raise InputError(
                f"peft config: {name}={value} cannot be written in a method's text, expected numbers and words, so that the "
                "tune's file can name how it was made. Leave it at its default"
            )
        given[name] = value
    return given
