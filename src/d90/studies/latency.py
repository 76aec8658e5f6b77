"""latency(model) -> Latency: what a method adds to the time of a forward pass, as table 1 of Hu et al. 2021 has it.

Every method is put on a copy of the model that shares its weights; one that merges is merged. A round is one pass of
each, the bare model included, in an order drawn afresh; what a method adds is taken inside the round, and medians with
intervals over the rounds are reported, so that a machine whose speed drifts does not decide. A merged model is the bare one:
its modules, and nothing to add. What it seems to add all the same, and what a second copy of the bare model seems to add, is
noise that rounds do not show (where a copy lies in memory); every interval is wider by it.
"""

from __future__ import annotations

import copy
import platform
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn
from typing_extensions import Unpack

from d90.errors import InputError, unknown_name
from d90.methods import Context, Spec, parse
from d90.models.images import is_image_net
from d90.models.loading import load
from d90.models.model import positions
from d90.options import LatencyOptions, with_options
from d90.options.studies import LatencyFields
from d90.results.latency import Latency, LatencyRow
from d90.training.progress import Progress
from d90.training.showing import ProgressOption, listener, shows_progress
from d90.trials.context import versions
from d90.trials.store import digest

__all__ = ["SHAPES", "latency", "latency_question", "usual_methods"]

SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-medium": ("gpt2", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "gpt2-large": ("gpt2", {"n_embd": 1280, "n_layer": 36, "n_head": 20}),
    "bert-base": ("bert", {}),
    "bert-large": (
        "bert",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
    "roberta-base": ("roberta", {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}),
    "roberta-large": (
        "roberta",
        {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "hidden_size": 1024}
        | {"num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
}
TWIN = "base again"  # what it adds is noise
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def usual_methods(ranks: Sequence[int] = (64,), prefix: int = 16) -> list[str]:
    """The paper's rows: LoRA, which is merged, AdapterL and AdapterH at each width, and PreEmbed and PreLayer."""
    adapters = [f"adapter:kind={kind},r={r}" for kind in ("lin", "houlsby") for r in ranks]
    return ["lora:r=8,targets=all", *adapters, f"preembed:prefix={prefix}", f"prelayer:prefix={prefix}"]


@with_options
@shows_progress
def latency(
    model: str = "minilm",
    methods: Sequence[str | Spec] | None = None,
    *,
    options: LatencyOptions = LatencyOptions(),
    progress: ProgressOption = None,
    command: str = "",
    **fields: Unpack[LatencyFields],
) -> Latency:
    """Time forward passes of a text model with each method on it, beside the bare model.

    Example:
        >>> found = d90.latency(text_model, ["bitfit"], pairs=[(1, 8), (2, 8)], rounds=2, seconds=0)
        >>> found.rows[0].milliseconds > 0
        True

    Args:
        model: as for `d90.train`; a sequence classifier is made of it.
        methods: in the grammar of `d90.methods`, without subspaces; `usual_methods()` where none are given. An untrained
            method takes the time of a trained one.
        options: the sizes that are timed, how often, and on what; `shape` is one of `SHAPES`.
        progress: receives the events; by default bars in a terminal, lines in a notebook; False silences it.
        command: recorded.
        fields: those of `LatencyOptions` as keywords, as pairs=[(1, 128)].

    Raises:
        InputError: what was wrong, what was expected, what to do.
    """
    progress, given = listener(progress), methods or usual_methods()
    specs = [parse(method) if isinstance(method, str) else method for method in given]
    module = _opened(model, specs, options)
    weights = sum(p.numel() for p in module.parameters())
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    try:
        progress.search_started(f"{len(specs)} methods beside the bare model, {weights:,} weights")
        names = {str(spec): str(text) for spec, text in zip(specs, given, strict=True)}
        rows = _timed(module, specs, names, options, progress)
        found = {**versions(), "processor": _processor(), "attention": module.config._attn_implementation}
    finally:
        torch.set_num_threads(before)
    progress.search_ended(f"{len(options.pairs)} sizes measured")
    name = f"{options.shape} (shapes, random weights)" if options.shape is not None else model
    return Latency(name, weights, options.dtype, tuple(rows), found, command, latency_question(model, methods, options))


def _opened(model: str, specs: Sequence[Spec], options: LatencyOptions) -> Any:
    """The bare model that is timed.

    Raises:
        InputError: sizes or methods that cannot be timed on it.
    """
    pairs = options.pairs
    if not pairs or min(min(pair) for pair in pairs) < 1:
        raise InputError(f"got pairs={list(pairs)}, expected (batch, tokens) of at least 1 each, as 1x128,16x256")
    under = next((spec for spec in specs if spec.space is not None), None)
    if under is not None:
        raise InputError(f"got '{under}', expected a method without '@': a subspace adds nothing to a forward pass")
    module = random_model(options.shape, options.seed) if options.shape is not None else _loaded(model, options.seed)
    module = module.to(DTYPES[options.dtype]).eval()
    module.config.use_cache = False  # nothing is generated
    longest = positions(module)[0]
    far = next((length for _, length in pairs if longest is not None and length > longest), None)
    if far is not None:
        raise InputError(
            f"got {far} tokens, expected at most {longest}, the positions of the model; give shorter --pairs"
        )
    return module


def _timed(
    module: Any, specs: Sequence[Spec], names: Mapping[str, str], options: LatencyOptions, progress: Progress
) -> list[LatencyRow]:
    """A row for each size and method, the bare model's first; `names`, what each method was given as."""
    seed, asked = options.seed, {"base": "base", **names}
    models = {"base": module, TWIN: _copy(module), **{str(spec): with_method(spec, module, seed) for spec in specs}}
    merged, rows = {str(spec) for spec in specs if spec.method.merges}, list[LatencyRow]()
    with torch.inference_mode():
        for _, length in options.pairs:  # a warm-up that also refuses what cannot run, before anything is measured
            for one in models.values():
                one(input_ids=_tokens(module, 1, length, seed))
        for batch, length in options.pairs:
            progress.search_planned(f"{batch} x {length} tokens")
            passes = time_rounds(models, _tokens(module, batch, length, seed), options.rounds, options.seconds, seed)
            added = {name: _added(own, passes["base"]) for name, own in passes.items()}
            noise = max(max(-low, high, 0.0) for name in (TWIN, *merged) for _, low, high in [added[name]])
            rows += [latency_row(name, asked[name], name in merged, (batch, length), passes, noise) for name in asked]
    return rows


def latency_question(model: str, methods: Sequence[str | Spec] | None, options: LatencyOptions) -> str:
    """The hash of what a latency is of: figures of an equal question need not be measured again."""
    given = methods or usual_methods()
    specs = [str(parse(method) if isinstance(method, str) else method) for method in given]
    return digest(["latency", model, specs, options.to_dict()])


def _loaded(name: str, seed: int) -> Any:
    if is_image_net(name):
        raise InputError(f"model '{name}' takes images, expected a text model such as minilm, or --shape gpt2-medium")
    return load(name, 2, seed=seed).module


def random_model(shape: str, seed: int) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if shape not in SHAPES:
        raise unknown_name("shape", shape, SHAPES)
    kind, sizes = SHAPES[shape]
    config = AutoConfig.for_model(kind, **sizes)
    if config.pad_token_id is None:
        config.pad_token_id = 0  # a decoder's classifier asks for it
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_config(config)


def with_method(spec: Spec, module: nn.Module, seed: int) -> nn.Module:
    """A copy of the model that shares its weights, with the method on it, merged where it merges."""
    own = _copy(module)
    applied = spec.method.apply(own, Context(seed))
    return (applied.merge() if spec.method.merges else own).eval()


def _copy(module: nn.Module) -> nn.Module:
    """Another model on the same weights."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def _tokens(module: Any, batch: int, length: int, seed: int) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(3, module.config.vocab_size, (batch, length), generator=drawn)


def time_rounds(
    models: dict[str, nn.Module], tokens: Tensor, rounds: int, seconds: float, seed: int
) -> dict[str, list[float]]:
    """Seconds of each model's pass, round after round."""
    passes: dict[str, list[float]] = {name: [] for name in models}
    orders, end = random.Random(seed), time.perf_counter() + seconds
    while len(passes["base"]) < rounds or time.perf_counter() < end:
        for name in orders.sample(list(models), len(models)):
            began = time.perf_counter()
            models[name](input_ids=tokens)
            passes[name].append(time.perf_counter() - began)
    return passes


def _added(own: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Median of own / base - 1 over the rounds, and the interval of that median by order statistics."""
    added = sorted(one / other - 1 for one, other in zip(own, base, strict=True))
    n = len(added)
    below = max(0, int(stats.binom.ppf(0.025, n, 0.5)) - 1)
    return statistics.median(added), added[below], added[n - 1 - below]


def latency_row(
    name: str, asked: str, merged: bool, size: tuple[int, int], passes: dict[str, list[float]], noise: float
) -> LatencyRow:
    middle, low, high = _added(passes[name], passes["base"])
    if name == "base":
        noise = 0.0
    milliseconds = 1000 * statistics.median(passes[name])
    return LatencyRow(
        name, asked, merged, *size, milliseconds, middle, low - noise, high + noise, len(passes[name]), noise
    )


def _processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
