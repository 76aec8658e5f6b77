"""What advice prints beside its sentence: the line to run, the same for other libraries, what is not known and what would settle it."""

from __future__ import annotations

import json
import math
import os
import shlex
from typing import Any

from torch import nn

from d90.errors import InputError
from d90.methods import LoRA, Spec
from d90.methods.peft import Peft
from d90.methods.targets import find_targets, linear_matrices
from d90.options import Options, TaskOptions, TrainingOptions, fields_of
from d90.results.advise import Recommendation
from d90.subspace.layout import head_modules
from d90.tasks import Task
from d90.training.recipe import Recipe

__all__ = ["settle", "snippets", "train_line", "unknown"]

POWER = 2.49  # z at 95 % and 80 %: how many standard errors a margin must be to be shown four times of five


def train_line(
    recipe: Recipe, method: str, lr: float | None, training: TrainingOptions, data: TaskOptions, out: Any
) -> str:
    """The command that trains the answer."""
    words = ["d90", "train", recipe.model, recipe.task, "--method", method]
    words += ["--lr", f"{lr:g}"] if lr is not None else []
    for options in (training, data):
        words += _given(options)
    return shlex.join([*words, "--out", os.fspath(out)])


def _given(options: Options) -> list[str]:
    """Options that differ from their defaults, as the command line spells them."""
    words = []
    for name, value in options.to_dict().items():
        field = fields_of(type(options))[name]
        if name != "lr" and field.shown and value is not None:
            words += [field.flags[0] if field.flags else f"--{name.replace('_', '-')}", f"{value}"]
    return words


def snippets(
    module: nn.Module, spec: Spec, lr: float, training: TrainingOptions, task: Task, recipe: Recipe
) -> dict[str, str]:
    """The answer for other libraries by their names; empty where they have no form of it."""
    method = spec.method
    if spec.space is not None and method.name == "full":
        options = spec.space.options
        return {
            "peft": "from d90 import SubspaceConfig  # registered with peft\n\n"
            f'config = SubspaceConfig(d={spec.space.d}, structure="{options.structure}", projection="{options.projection}", '
            f'scale="{options.scale}")'
        }
    if spec.space is None and isinstance(method, Peft):
        return {"peft": _peft_code(module, method)}
    if spec.space is not None or not isinstance(method, LoRA):
        return {}
    targets = _targets(module, method.targets)
    kind = f', task_type="{task.kind.peft_task}"' if task.kind.peft_task else ""
    heads = [] if task.kind.generative or not task.outputs else head_modules(module)
    head = (f", modules_to_save={json.dumps(heads)}" if heads else "") + (", use_rslora=True" if method.rslora else "")
    found = {
        "peft": f"from peft import LoraConfig\n\nconfig = LoraConfig(r={method.r}, lora_alpha={method.alpha}, lora_dropout=0.0, "
        f"target_modules={targets}{kind}{head})"
    }
    shared = {
        "learning_rate": lr, "num_train_epochs": training.epochs, "per_device_train_batch_size": training.batch_size,
        "lr_scheduler_type": "linear", "warmup_ratio": training.warmup, "weight_decay": training.weight_decay,
        "max_grad_norm": training.clip, "seed": training.seed,
    }  # fmt: skip
    fields = ", ".join(f"{key}={value!r}" for key, value in shared.items())
    if task.kind.auto_class != "AutoModelForCausalLM":
        return found | {
            "transformers": f"from transformers import TrainingArguments\n\narguments = TrainingArguments({fields})"
        }
    length = f", max_length={recipe.max_length}" if recipe.max_length else ""
    found["trl"] = (
        "from trl import SFTConfig, SFTTrainer\n\n"
        f"arguments = SFTConfig({fields}{length})\n"
        f'trainer = SFTTrainer("{recipe.model}", args=arguments, train_dataset=dataset, peft_config=config)'
    )
    settings = {
        "base_model": recipe.model, "adapter": "lora", "lora_r": method.r, "lora_alpha": method.alpha, "lora_dropout": 0.0,
        "lora_target_modules": "".join(f"\n  - {name}" for name in targets), "learning_rate": lr, "lr_scheduler": "linear",
        "warmup_ratio": training.warmup, "optimizer": "adamw_torch", "weight_decay": training.weight_decay,
        "max_grad_norm": training.clip, "num_epochs": training.epochs, "micro_batch_size": training.batch_size,
        "gradient_accumulation_steps": 1, "seed": training.seed, "sequence_len": recipe.max_length,
    }  # fmt: skip
    lines = [f"{key}: {value}".replace(": \n", ":\n") for key, value in settings.items() if value is not None]
    return found | {"axolotl": "\n".join(lines)}


def _peft_code(module: nn.Module, method: Peft) -> str:
    """The config of one of peft's own methods, as Python."""
    config = method.config_for(module)
    name = type(config).__name__
    given = dict(method.settings)
    for key in ("target_modules", "feedforward_modules"):
        if names := getattr(config, key, None):
            given[key] = _shortened(module, sorted(names))
    return (
        f"from peft import {name}\n\nconfig = {name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
    )


def _targets(module: nn.Module, targets: str) -> list[str]:
    """LoRA's target modules as peft names them."""
    try:
        return _shortened(module, [matrix.name for matrix in find_targets(module, targets)])
    except InputError:
        return targets.split("/")


def _shortened(module: nn.Module, chosen: list[str]) -> list[str]:
    """The last names of modules where these mean the same, else the whole names."""
    lasts = list(dict.fromkeys(name.rpartition(".")[2] for name in chosen))
    matched = [one.name for one in linear_matrices(module) if one.name.rpartition(".")[2] in lasts]
    every = {
        name
        for name, part in module.named_modules()
        if name.rpartition(".")[2] in lasts and isinstance(part, nn.Linear)
    }
    return lasts if set(matched) == set(chosen) and every <= set(chosen) | set(matched) else chosen


def unknown(result: Recommendation) -> tuple[str, ...]:
    """What the answer does not say."""
    measured = result.chosen is not None and result.chosen.forgetting
    found = [] if measured else ["forgetting was not measured (--forgetting, of a language model)"]
    found += ["one validation split, one schedule and one batch size"]
    examples = result.validation_examples
    if examples < 100:
        found.append(f"{examples} validation examples are few, and errors wide")
    if result.chosen is not None and len(result.chosen.scores) == 1:
        found.append("one seed of the answer")
    apart = _apart(result)
    return (*found, apart) if apart else tuple(found)


def _apart(result: Recommendation) -> str:
    """A line where the data do not tell the smallest size that ran from the reference."""
    reference = result.reference
    small = next((one for one in result.tried if reference is None or one.family == reference.family), None)
    if small is None or reference is None or small.gap is None or small.shown or small.worse or small.error <= 0:
        return ""
    need = _examples(result, small.error, result.margin)
    count = result.validation_examples
    if need <= count:
        return ""
    return f"data too few to tell {small.method} from {reference.method}: {need:,} validation examples would, there are {count:,}"


def _examples(result: Recommendation, error: float, distance: float) -> int:
    """How many validation examples show a distance four times of five; as a share of the error that seeds make stays, at least so many."""
    count = result.validation_examples
    need = count * (POWER * error / max(distance, 1e-12)) ** 2
    unit = 10 ** max(0, int(math.log10(max(need, 1))) - 1)
    return math.ceil(need / unit) * unit


def settle(result: Recommendation) -> str:
    """What would show the best guess, in a clause."""
    guess = result.guess
    if guess is None or guess.gap is None:
        return ""
    distance = result.margin - guess.gap
    if distance <= 0.1 * guess.error:
        return "it lies at the margin itself, so a wider --within alone would show it"
    runs = math.ceil(len(guess.scores) * (POWER * guess.error / distance) ** 2)
    return f"some {_examples(result, guess.error, distance):,} validation examples, or {runs} seeds (--seeds {runs}), would settle it"
