"""A random subspace as a method of peft: get_peft_model(model, d90.SubspaceConfig(d=200)).

    theta_D = theta_0 + c lambda_i sigma_t (P theta)_t        `d90.Subspace`; a folder holds theta (d,) alone

peft knows methods that put layers into a model. This one puts none in: the tuner holds theta in a ParameterDict, a
`Subspace` for each adapter writes the weights, and one "layer" without a base answers what peft asks of layers. Import
this module (or name `d90.SubspaceConfig`) before `PeftModel.from_pretrained` opens a folder: peft learns the method then.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft import (
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor, nn

from d90.errors import InputError, UnsupportedModelError
from d90.integrations.parameter_twins import ParameterTwins
from d90.subspace import file as tune_file
from d90.subspace import layout, support
from d90.subspace.buffers import trained_state
from d90.subspace.fingerprint import base_of, earlier_weights, tensor_digest
from d90.subspace.options import Layer, Scale, Structure, SubspaceOptions, option_help
from d90.subspace.subspace import Subspace

__all__ = ["SubspaceConfig", "SubspaceTuner", "from_tune", "to_tune"]

NAME = "D90"


def _new_type() -> Any:
    """A member of peft's enumeration, which has no door for methods from outside."""
    if NAME not in PeftType.__members__:
        member = str.__new__(PeftType, NAME)
        member._name_ = member._value_ = NAME
        PeftType._member_names_.append(NAME)
        PeftType._member_map_[NAME] = PeftType._value2member_map_[NAME] = member
        type.__setattr__(PeftType, NAME, member)
    return PeftType[NAME]


_TYPE = _new_type()


DEFAULT = SubspaceOptions()


@dataclass
class SubspaceConfig(PeftConfig):
    """A subspace of `d` dimensions over the weights of a model, for `peft.get_peft_model`.

    Example:
        >>> d90.SubspaceConfig(d=100, structure="said").d
        100

    Args:
        d: how many numbers are trained, lambdas included.
        structure, projection, scale, layer, seed, step_rule: the fields of `d90.SubspaceOptions`.
        parameters: which parameters move: a pattern of their names (the whole name), or a list of names; None for all
            that require gradients when the adapter is made.
        modules_to_save: modules trained and stored as they are, beside theta: a head, as `head="outside"`. All adapters
            of a model name the same. With a `task_type` peft adds the head by itself.
        base, draws: the base's fingerprint and the checksum of P, filled in; a folder's are checked when it is loaded.

    Raises:
        InputError: d below 1, an unknown option, a pattern that is not a regular expression.
    """

    d: int = field(default=200, metadata={"help": "how many numbers are trained, lambdas included"})
    structure: Structure = field(default=DEFAULT.structure, metadata={"help": option_help("structure")})
    projection: str = field(default=DEFAULT.projection, metadata={"help": option_help("projection")})
    scale: Scale = field(default=DEFAULT.scale, metadata={"help": option_help("scale")})
    layer: Layer = field(default=DEFAULT.layer, metadata={"help": option_help("layer")})
    seed: int = field(default=DEFAULT.seed, metadata={"help": option_help("seed")})
    step_rule: int = field(default=DEFAULT.step_rule, metadata={"help": option_help("step_rule")})
    parameters: list[str] | str | None = field(
        default=None,
        metadata={"help": "which parameters move: a pattern of whole names, or a list of names; all for None"},
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "modules trained and stored as they are, beside theta: a head"}
    )
    target_modules: list[str] | str | None = field(
        default=DUMMY_TARGET_MODULES,
        metadata={"help": "peft's own; no layer is replaced, `parameters` says what moves"},
    )
    base: str = field(default="", metadata={"help": "the base's fingerprint, filled in and checked"})
    draws: str = field(default="", metadata={"help": "the checksum of P, filled in and checked"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = _TYPE
        self.seed = self.options.seed  # checked, as the others are
        if isinstance(self.d, bool) or not isinstance(self.d, int) or self.d < 1:
            raise InputError(f"got d={self.d!r}, expected a whole number of at least 1")
        if isinstance(self.parameters, str):
            try:
                re.compile(self.parameters)
            except re.error as error:
                raise InputError(f"parameters={self.parameters!r} is not a regular expression: {error}") from None
        elif not _names(self.parameters):
            raise InputError(f"got parameters={self.parameters!r}, expected a pattern, a list of names or None")
        if not _names(self.modules_to_save):
            raise InputError(f"got modules_to_save={self.modules_to_save!r}, expected a list of modules or None")
        for key in ("base", "draws"):
            if not isinstance(getattr(self, key), str):
                raise InputError(f"got {key}={getattr(self, key)!r}, expected text, or nothing: it is filled in")

    @property
    def options(self) -> SubspaceOptions:
        """The subspace's options; a head outside it is one of `modules_to_save`."""
        return SubspaceOptions(
            self.structure, self.projection, self.scale, self.layer, seed=self.seed, step_rule=self.step_rule
        )


def _names(value: object) -> bool:
    return value is None or (isinstance(value, list | tuple | set) and all(isinstance(one, str) for one in value))


class _Layer(nn.Module, BaseTunerLayer):
    """What peft asks of layers, answered once for the whole model; the thetas belong to the tuner."""

    adapter_layer_names = ("thetas",)

    def __init__(self, thetas: nn.ParameterDict) -> None:
        super().__init__()
        self.__dict__["thetas"] = thetas  # not registered: one key in a state dict, not two
        self._active_adapter: list[str] = []
        self.merged_adapters: list[str] = []

    def _move_adapter_to_device_of_base_layer(self, *args: Any, **kwargs: Any) -> None:
        """There is no base layer; a Subspace moves its theta to where the model is."""


class SubspaceTuner(BaseTuner):
    """peft's tuner: a theta and a `Subspace` for each adapter, of which one is active."""

    uses_shared_state = True  # else peft's way of injecting drops the tuner, and theta with it
    prefix = "d90_"
    tuner_layer_cls = _Layer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    # --- an adapter comes ------------------------------------------------------------------------------------------

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        if "d90_bias" not in self._modules:
            self._open(model)
        try:
            self._add(adapter_name, self.peft_config[adapter_name])
            super().inject_adapter(model, adapter_name, *args, **kwargs)  # freezes the base, wraps modules_to_save
        except BaseException:
            self._lay()  # the adapter that was active
            raise

    def _open(self, model: nn.Module) -> None:
        support.check_supported(model)
        statistics = trained_state(model)
        if statistics:
            raise UnsupportedModelError(
                f"'{statistics[0]}' is a buffer that training moves and a peft folder does not hold; expected "
                "a model without them. Use d90.Subspace, whose file holds them"
            )
        # "bias" is in the name for the Trainer, which decays no parameter called so: decay would pull theta to theta_0
        self.d90_bias = nn.ParameterDict()
        self.d90_layer: Any = _Layer(self.d90_bias)
        self._named = dict(model.named_parameters())
        self._movable = list(layout.trainable(model))
        self._theta_0: dict[str, Tensor] = {}
        self._spaces: dict[str, Subspace] = {}
        self._standins: dict[str, ParameterTwins] = {}
        self._laid: str | None = None
        self.d90_base = base_of(model)
        self.head = set(layout.head_tensors(model, self._movable)) if any(True for _ in model.children()) else set()

    def _add(self, name: str, config: SubspaceConfig) -> None:
        saved = self.saved(config)
        if any(self.saved(self.peft_config[other]) != saved for other in self._spaces):
            raise InputError(
                f"adapter '{name}' has modules_to_save={config.modules_to_save}, the model's other adapters have other ones; "
                "expected the same for all. Give it the same, or make a second model"
            )
        chosen = _chosen(self._named, self._movable, config.parameters, saved)
        if config.parameters is None and chosen != [n for n in self._named if n not in saved]:
            config.parameters = chosen
        self._take_off()
        kept = [(n, p) for n, p in self._named.items() if n not in saved]
        base = replace(self.d90_base, weights=tensor_digest(kept)).digest
        if config.base and config.base not in (base, earlier_weights(kept)):
            raise InputError(
                f"adapter '{name}' was trained on another base model: fingerprint {config.base}, this model has {base}. Load the "
                "base it was trained on, with the same seed for weights that come from no checkpoint (a new head)"
            )
        twins = ParameterTwins(self.model, [self._named[n] for n in chosen])
        with twins.alone():
            space = Subspace(self.model, config.d, options=config.options)
            space.disable()
        draws = space.projection.checksum()
        if config.draws and config.draws != draws:
            raise InputError(
                f"adapter '{name}': P is another one here (checksum {draws}, the folder's {config.draws}); the weights would be "
                "wrong. Likely cause: other weights move here than in training, or an edited config"
            )
        for n in chosen:
            if n not in self._theta_0:
                self._theta_0[n] = self._named[n].detach().clone(memory_format=torch.contiguous_format)
        space.share(self._theta_0)
        space.guard.others = False  # modules_to_save are trained beside it, by peft
        config.base, config.draws = base, draws
        self._spaces[name], self._standins[name] = space, twins
        self.d90_bias[name] = space.theta

    def saved(self, config: SubspaceConfig) -> set[str]:
        """The parameters of the modules that `modules_to_save` names, as peft matches them."""
        ends = tuple(config.modules_to_save or ())
        return {n for n in self._named if any(m.endswith(ends) for m in _holders(n))} if ends else set()

    # --- one adapter is active -------------------------------------------------------------------------------------

    def space(self, adapter_name: str) -> Subspace:
        """The `Subspace` of an adapter, with the theta that peft holds now."""
        space, theta = self._spaces[adapter_name], self.d90_bias[adapter_name]
        if space.theta is not theta and not theta.is_meta:  # peft may assign new parameters when it loads
            space.theta = theta
        return space

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        if len(names) > 1:
            raise InputError(
                f"got adapters {names}, expected one at a time: each writes all weights. Set one, or merge it first"
            )
        super().set_adapter(adapter_name, inference_mode)
        self.d90_layer.set_adapter(names, inference_mode)
        self._lay()

    def set_requires_grad(self, adapter_names: Any, requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        self.d90_layer.set_requires_grad(adapter_names, requires_grad)

    def enable_adapter_layers(self) -> None:
        super().enable_adapter_layers()
        self.d90_layer.enable_adapters(True)
        self._lay()

    def disable_adapter_layers(self) -> None:
        super().disable_adapter_layers()
        self.d90_layer.enable_adapters(False)
        self._lay()

    def delete_adapter(self, adapter_name: str) -> None:
        self._take_off()
        super().delete_adapter(adapter_name)
        self.d90_layer.delete_adapter(adapter_name)
        del self._spaces[adapter_name], self._standins[adapter_name]
        self.set_adapter(self.d90_layer.active_adapters)

    def _lay(self) -> None:
        """Put the active adapter's tune on the base, if it is not, or take it off where adapters are disabled."""
        active = None if self.d90_layer.disable_adapters else next(iter(self.active_adapters), None)
        if active != self._laid or self.d90_layer.merged:
            self._take_off()
        if active not in self._spaces or self._laid is not None:
            return
        space, twins = self.space(active), self._standins[active]
        with twins.alone():
            space.enable()
        twins.on(lambda: self.space(active).theta)
        self._laid = active

    def _take_off(self) -> None:
        """Leave theta_0 in the weights, and no hooks."""
        if self._laid is not None:
            self._standins[self._laid].off()
            self._spaces[self._laid].unmerge()
        self._laid, self.d90_layer.merged_adapters = None, []

    # --- merging ---------------------------------------------------------------------------------------------------

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        if adapter_names:
            self.set_adapter(adapter_names)
        self._lay()
        if self._laid is None:
            return
        space = self.space(self._laid)
        if safe_merge and not bool(torch.isfinite(space.theta).all()):
            raise ValueError(f"adapter '{self._laid}' holds NaN or infinity; its training diverged")
        self._standins[self._laid].off()
        space.merge()
        self.d90_layer.merged_adapters = [self._laid]

    def unmerge_adapter(self) -> None:
        self._lay()

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self.merge_adapter(adapter_names, safe_merge)
        else:
            self._take_off()
        model: nn.Module = super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
        vars(model).pop("peft_config", None)  # peft 0.18 leaves it
        return model

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        """No layer is replaced."""

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        return peft_config


register_peft_method(name=NAME.lower(), config_cls=SubspaceConfig, model_cls=SubspaceTuner, prefix="d90_")


# --- tunes ------------------------------------------------------------------------------------------------------------


def from_tune(
    path: str | os.PathLike[str],
    model: nn.Module,
    adapter_name: str = "default",
    parameters: list[str] | None = None,
    **config: Any,
) -> PeftModel:
    """A tune of a subspace over a model's own weights, as an adapter of peft; `save_pretrained` then writes its folder.

    Args:
        path: written by `Subspace.save` or `d90 train ... --d`.
        model: its base, plain.
        parameters: the names that moved, where they are not all that require gradients.
        config: more fields of `SubspaceConfig`, as task_type.

    Raises:
        InputError: an unsound file, another base, running statistics, a tune over parameters that a method put in.
    """
    header, tensors = tune_file.read(path)
    theta = tune_file.theta_of(header, tensors, path)
    if getattr(model, "_d90_space", None) is not None or isinstance(model, PeftModel):
        raise InputError("got a model that carries a tune, expected the plain base. Call release() or unload() on it")
    tune_file.same_base(header, model, path)
    beside = {name: tensor for name, tensor in tensors.items() if name != "theta"}
    held = [name for name in beside if not name.startswith("head:")]
    if held:
        raise InputError(
            f"'{path}' holds '{held[0]}' beside theta, and a peft folder has no place for it; keep the tune"
        )
    head = layout.owners(model, (name.removeprefix("head:") for name in beside))
    fields = {name: value for name, value in vars(header.options).items() if name != "head"}
    fields |= {"parameters": parameters, "modules_to_save": head or None, "draws": header.draws, **config}
    found = get_peft_model(model, SubspaceConfig(d=theta.numel(), **fields), adapter_name)
    values = {"base_model.d90_bias": theta} | {
        f"base_model.model.{n.removeprefix('head:')}": t for n, t in beside.items()
    }
    set_peft_model_state_dict(found, values, adapter_name)
    return found


def to_tune(model: PeftModel, path: str | os.PathLike[str], adapter_name: str = "default", dtype: str = "fp32") -> None:
    """Write an adapter as a tune, which `d90.Subspace.load` applies to the plain base.

    Raises:
        InputError: no adapter of this method by that name; modules_to_save that are not the model's head.
    """
    tuner = model.base_model
    if not isinstance(tuner, SubspaceTuner) or adapter_name not in tuner.peft_config:
        raise InputError(f"got no adapter '{adapter_name}' of SubspaceConfig in this model, expected one to write")
    config, space = tuner.peft_config[adapter_name], tuner.space(adapter_name)
    saved = tuner.saved(config)
    if saved and saved != tuner.head:
        raise InputError(
            f"adapter '{adapter_name}' has modules_to_save={config.modules_to_save}, expected the model's head or nothing: a "
            f"tune holds theta and the head. Its head is {sorted(tuner.head)}"
        )
    kept = get_peft_model_state_dict(model, adapter_name=adapter_name)
    head = {f"head:{name}": kept[f"base_model.model.{name}"] for name in sorted(saved)}
    header = replace(
        space.header(),
        head="outside" if saved else "inside",
        base=tuner.d90_base.digest,
        tokenizer=tuner.d90_base.tokenizer,
        draws=config.draws,
    )
    tune_file.write(path, header, {"theta": space.theta, **head}, dtype)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _holders(name: str) -> list[str]:
    """The modules a parameter lies in, outermost first: a.b.weight -> a, a.b."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _chosen(
    named: dict[str, nn.Parameter], movable: list[str], asked: list[str] | str | None, saved: set[str]
) -> list[str]:
    """The names of the parameters that move, in the model's order.

    Raises:
        InputError: a name that the model does not have, or nothing found.
    """
    if asked is None:
        found = set(movable)
    elif isinstance(asked, str):
        found = {name for name in named if re.fullmatch(asked, name)}
    else:
        found = set(asked)
        missing = sorted(found - named.keys())
        if missing:
            raise InputError(
                f"parameters: this model has none called '{missing[0]}'; expected names as in named_parameters()"
            )
    chosen = [name for name in named if name in found and name not in saved]
    if not chosen:
        raise InputError(
            f"parameters={asked!r} moves nothing in this model, expected some of its {len(named)} parameters"
        )
    return chosen
