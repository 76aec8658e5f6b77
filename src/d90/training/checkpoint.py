"""The state of a trial that is under way, kept so that a killed one goes on from there, bit for bit.

One safetensors file: what is trained (theta, or the weights), the optimizer's moments, the best weights and predictions so far, the
random generators; in its metadata the step and the learning curve. It is written whole or not at all, and removed when the
trial has ended and is stored.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d90.errors import D90Error, InputError, RunFailed
from d90.files import Json, write_bytes
from d90.methods import Trainable, restore, snapshot
from d90.methods.direct import Snapshot
from d90.training.result import Evaluation

__all__ = ["Checkpoint", "State", "resumed"]

MINUTES = 10.0


@dataclass
class State:
    """Where a trial stands after `step` steps.

    Attributes:
        trained: what is trained and what training moves, as `d90.methods.snapshot` gives it.
        moments: the optimizer's state of each parameter, by its place.
        step, running, curve, seconds: of the run so far.
        best: the weights of the best evaluation, where they are kept.
        predictions: of the best evaluation, where they are kept.
    """

    trained: Snapshot
    moments: dict[int, dict[str, Tensor]]
    step: int
    running: float
    curve: list[Evaluation]
    seconds: float
    best: Snapshot | None = None
    predictions: Tensor | None = None
    generators: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """A file for one trial's state, written every some minutes.

    Attributes:
        path: the file.
        key: of the trial: a file of another one is not taken.
        minutes: between two writes; 0 writes after every step.
    """

    path: Path
    key: str
    minutes: float = MINUTES

    def __post_init__(self) -> None:
        if not self.minutes >= 0:
            raise InputError(f"got {self.minutes} minutes between checkpoints, expected 0 or more")
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self._last >= 60 * self.minutes

    def save(self, state: State) -> str | None:
        """Write the state; says in a line why it could not, for a trial must not end of that."""
        from safetensors.torch import save

        self._last = time.monotonic()
        tensors = _flat("trained", state.trained) | (_flat("best", state.best) if state.best is not None else {})
        tensors |= {f"moment:{i}:{name}": t for i, found in state.moments.items() for name, t in found.items()}
        tensors |= {f"generator:{name}": tensor for name, tensor in _generators().items()}
        if state.predictions is not None:
            tensors["predictions"] = state.predictions
        about = {"key": self.key, "step": state.step, "running": state.running, "seconds": state.seconds}
        about |= {"curve": [look.to_dict() for look in state.curve], "best": state.best is not None}
        about["none"] = [name for name, tensor in state.trained[1].items() if tensor is None]
        try:
            plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
            write_bytes(self.path, save(plain, metadata={"d90": json.dumps(about)}))
        except (RunFailed, D90Error, OSError) as error:
            return f"no checkpoint: {error}"
        return None

    def load(self) -> State | None:
        """The state of this trial; None where there is none, or one of another trial or damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.path), framework="pt") as file:
                about: Json = json.loads(file.metadata()["d90"])
                if about["key"] != self.key:
                    return None
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            looks = [Evaluation.from_dict(one) for one in about["curve"]]
            moments: dict[int, dict[str, Tensor]] = {}
            for name, tensor in found.items():
                kind, _, rest = name.partition(":")
                if kind == "moment":
                    place, _, what = rest.partition(":")
                    moments.setdefault(int(place), {})[what] = tensor
            best = _snapshot(found, "best", about["none"]) if about["best"] else None
            generators = {n.partition(":")[2]: t for n, t in found.items() if n.startswith("generator:")}
            kept = _snapshot(found, "trained", about["none"])
            numbers = int(about["step"]), float(about["running"]), looks, float(about["seconds"])
            return State(kept, moments, *numbers, best, found.get("predictions"), generators)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def remove(self) -> None:
        """The trial has ended: take the file away, and its folder with the last one."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            if self.path.parent.name.endswith(".trials"):
                self.path.parent.rmdir()


def _flat(kind: str, held: Snapshot) -> dict[str, Tensor]:
    """A snapshot as named tensors; a buffer that is None has none."""
    tensors = {f"{kind}:{i}": tensor for i, tensor in enumerate(held[0])}
    return tensors | {f"{kind}-buffer:{name}": tensor for name, tensor in held[1].items() if tensor is not None}


def _snapshot(found: dict[str, Tensor], kind: str, none: Sequence[str]) -> Snapshot:
    count = sum(name.startswith(f"{kind}:") for name in found)
    buffers: dict[str, Tensor | None] = {
        name.partition(":")[2]: tensor for name, tensor in found.items() if name.startswith(f"{kind}-buffer:")
    }
    return [found[f"{kind}:{i}"] for i in range(count)], buffers | dict.fromkeys(none)


def _generators() -> dict[str, Tensor]:
    """The state of torch's generators: of the processor, and of the GPU where one is used."""
    found = {"cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def _set_generators(found: dict[str, Tensor]) -> None:
    """Put the generators where they were."""
    if "cpu" in found:
        torch.random.set_rng_state(found["cpu"])
    if "cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state(found["cuda"])


def resumed(
    checkpoint: Checkpoint, trained: Trainable, optimizer: torch.optim.Optimizer, schedule: Any, last: int
) -> State | None:
    """Put a killed run back where its checkpoint left it; None where there is none that fits."""
    state, (tensors, buffers) = checkpoint.load(), snapshot(trained)
    if state is None or not 0 < state.step < last or buffers.keys() != state.trained[1].keys():
        return None
    if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in state.trained[0]]:
        return None
    restore(trained, state.trained)
    body = optimizer.state_dict()
    optimizer.load_state_dict({**body, "state": state.moments})
    schedule.load_state_dict({**schedule.state_dict(), "last_epoch": state.step, "_step_count": state.step + 1})
    for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * factor(state.step)
    _set_generators(state.generators)
    return state
