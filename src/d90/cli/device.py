"""`--device`, on every command that trains or predicts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

__all__ = ["on_device"]

DeviceOpt = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:N or mps; a GPU where torch sees one, if not given."),
]


def on_device(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--device`: what it opens by name, here and in the processes it starts, lies there."""

    @wraps(command)
    def run(*args: Any, device: str | None = None, **kwargs: Any) -> None:
        if device is None:
            return command(*args, **kwargs)
        from d90.training.device import DEVICE, check_device

        before = os.environ.get(DEVICE)
        os.environ[DEVICE] = check_device(device)
        try:
            command(*args, **kwargs)
        finally:
            if before is None:
                del os.environ[DEVICE]
            else:
                os.environ[DEVICE] = before

    signature = inspect.signature(command, eval_str=True)  # options stand in annotations, which are text until then
    option = inspect.Parameter("device", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=DeviceOpt)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()} | {"device": DeviceOpt}
    return run
