"""preflight(model, method) -> Preflight: the memory of a run, known before a weight is loaded.

    peak = weights + first + Adam's moments + best copy + max(step, evaluation)

The network is made of its config alone, on the meta device; the method is put on it, and one forward and backward pass runs on shapes
(`d90.training.footprint`), of which every allocation is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from typing_extensions import Unpack

from d90.errors import InputError, UnsupportedModelError
from d90.methods import Space, Spec, counts
from d90.models.images import is_image_net, plain_net
from d90.models.loading import outline
from d90.models.model import SHORT, positions
from d90.options import PreflightOptions, with_options
from d90.options.studies import PreflightFields
from d90.projections import build
from d90.results.preflight import MemoryParts, Preflight
from d90.subspace import layout
from d90.tasks.kinds import TaskKind, stored_kind
from d90.training.evaluation import rows_looked_at, rows_of_logits
from d90.training.footprint import emptied, fold_gradients, peak_of, size_of
from d90.training.recipe import bf16_is_fast, suited
from d90.training.schedule import recomputing
from d90.training.weights import check_weights, memory

__all__ = ["preflight"]

BLOCKS = {"cpu": 1, "cuda": 512}  # an allocation takes a multiple of so many bytes
BY_VALUE = (DataDependentOutputException, DynamicOutputShapeException)
ADAM = 8  # bytes of both moments of a number


@with_options
def preflight(
    model: str,
    method: str | Spec = "full",
    d: int | None = None,
    *,
    options: PreflightOptions = PreflightOptions(),
    command: str = "",
    **fields: Unpack[PreflightFields],
) -> Preflight:
    """Tell how much memory training takes, from the model's config alone.

    Example:
        >>> small = d90.preflight("fc", "full@d=100", batch="64")
        >>> small.trained, small.moved
        (100, 199210)
        >>> small.peak < d90.preflight("fc", "full", batch="64").peak
        True

    Args:
        model: a name as for `d90.train`; of a hub's model the config alone is fetched.
        method: what moves, in the grammar of `d90.methods`.
        d: short for the method's "@d=...".
        options: the batch, and how it is trained.
        command: recorded.
        fields: those of `PreflightOptions` as keywords, as batch="8x512".

    Returns:
        The bytes of each part and their peak, beyond those of the program itself.

    Raises:
        InputError: what was wrong, what was expected, what to do.
    """
    examples, tokens = options.size
    module, kind, tokens = _network(model, options, tokens)
    spec = suited(method, kind)
    spec = spec if d is None else spec.at(d)
    check_weights(options.weights, spec, kind)
    if options.weights == "bf16":
        module.to(torch.bfloat16)
    count = sum(parameter.numel() for parameter in module.parameters())
    found = counts(spec, spec.method.apply(module))
    weights = size_of((*module.parameters(), *module.buffers()))
    first = size_of(layout.trainable(module).values())
    projection = 0 if spec.space is None else _of_projection(spec.space, module)
    precision = _precision(options, kind)
    step, evaluation = _passes(module, spec, kind, precision, options, tokens)
    parts = MemoryParts(weights, first, ADAM * found.trained, 4 * found.trained, projection, step, evaluation)
    return Preflight(
        model, str(spec), kind.name, options.device, precision, options.weights, examples, tokens, count, found.moved,
        found.trained, parts, parts.peak, _resident(), _available(options.device), command,
    )  # fmt: skip


def _network(name: str, options: PreflightOptions, tokens: int) -> tuple[Any, TaskKind, int]:
    """(the network on the meta device, the kind of its task, tokens or values of an example)."""
    if is_image_net(name):
        with torch.device("meta"):
            module, values, _ = plain_net(name)
        return module, stored_kind("classification", True, ()), values
    module, kind = outline(name, options.outputs, options.kind)
    longest = positions(module)[0]
    if longest is not None and tokens > longest:
        raise InputError(
            f"got batch={options.batch}, {tokens} tokens, expected at most {longest}, the positions of '{name}'"
        )
    if options.device == "cpu" and tokens <= SHORT:
        module.set_attn_implementation("eager")  # as `Model.choose_attention`
    return module, kind, tokens


def _of_projection(space: Space, module: nn.Module) -> int:
    """Bytes that P keeps over what moves; refuses a d that it cannot have."""
    if space.d is None:
        raise InputError("a subspace needs its dimension; expected d=... after '@', as in full@d=1000")
    named = layout.trainable(module)
    outside = set(layout.head_tensors(module, named)) if space.options.head == "outside" else set()
    inside = {name: parameter for name, parameter in named.items() if name not in outside}
    layers = len(set(layout.layer_of(module, list(inside), space.options.layer)[0]))
    lambdas = layers if space.options.structure == "said" else 0
    if space.d <= lambdas:
        raise InputError(
            f"got d={space.d}, expected more than {lambdas}: 'said' spends one number on each of its layers"
        )
    return build(space.options.projection, space.d - lambdas, [tuple(p.shape) for p in inside.values()]).kept_bytes


def _precision(options: PreflightOptions, kind: TaskKind) -> str:
    if options.weights == "bf16":
        return "bf16"
    if options.precision != "auto":
        return options.precision
    fast = not kind.from_scratch and (options.device == "cuda" or bf16_is_fast("cpu"))
    return "bf16" if fast else "fp32"


def _passes(
    module: Any, spec: Spec, kind: TaskKind, precision: str, options: PreflightOptions, tokens: int
) -> tuple[int, int]:
    """Bytes beside what is held: at the peak of a step, and of an evaluated batch."""
    rows = rows_looked_at(options.device, hasattr(module, "config"))
    if kind.generative:
        rows = rows_of_logits(module.config.vocab_size, tokens, rows)
    block = BLOCKS[options.device]

    def losses(examples: int, outputs_of: Callable[..., Tensor]) -> Tensor:
        batch = _batch(module, examples, tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = outputs_of(module, batch, kind)
        goal = torch.zeros(len(logits), dtype=torch.int64)
        return nn.functional.cross_entropy(logits.float(), goal, reduction="none")

    def both(outputs_of: Callable[..., Tensor]) -> tuple[int, int]:
        module.train()
        step = peak_of(lambda: losses(options.size[0], outputs_of).mean().backward(), block)
        module.zero_grad()
        module.eval()
        with torch.no_grad():
            return step, peak_of(lambda: losses(rows, outputs_of), block)

    with emptied(module), recomputing(module, options.gradient_checkpointing):
        if spec.space is not None:
            fold_gradients(module)
        try:
            return both(_logits)
        except BY_VALUE:  # as BART's head, which looks for the end of each text
            module.zero_grad()
        try:
            return both(_states)
        except BY_VALUE as error:
            raise UnsupportedModelError(
                f"a {type(module).__name__} decides by values what it computes ({error}), expected shapes alone to tell; "
                "its memory can only be measured: train it for a step"
            ) from None


def _batch(module: Any, examples: int, tokens: int) -> dict[str, Tensor] | Tensor:
    if not hasattr(module, "config"):
        return torch.zeros(examples, 1, *((28, 28) if tokens == 784 else (tokens,)))
    ids = torch.zeros(examples, tokens, dtype=torch.int64)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _logits(module: Any, batch: dict[str, Tensor] | Tensor, kind: TaskKind) -> Tensor:
    """(n, outputs); of a language model (tokens that are predicted, V), as `outputs_of` asks for them."""
    if isinstance(batch, Tensor):
        found: Tensor = module(batch)
        return found
    if not kind.generative:
        return module(**batch).logits
    handle = module.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: (args[0][:, :-1].reshape(1, -1, args[0].shape[-1]), *args[1:])
    )
    try:
        return module(**batch).logits.flatten(0, -2)
    finally:
        handle.remove()


def _states(module: Any, batch: dict[str, Tensor], kind: TaskKind) -> Tensor:
    """In the place of a small head's logits, the first tokens' last states."""
    found: Tensor = module.base_model(**batch).last_hidden_state[:, 0]
    return found


def _resident() -> int | None:
    """Bytes of this process that are resident now: Python, torch and transformers, with no model."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    except (OSError, StopIteration, ValueError):
        return None


def _available(device: str) -> int | None:
    return None if device == "cuda" and not torch.cuda.is_available() else memory(device)
