"""Pictures as a model takes them: by the processor of its checkpoint, or plain pixels where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d90.errors import InputError
from d90.subspace.fingerprint import NO_PART, digest_of
from d90.tasks.pictures import decode

__all__ = ["PictureBatches", "load_processor", "processor_digest"]

CACHE = 1 << 30  # bytes of prepared pictures that are kept
DIGITS = 8


def load_processor(name: str, source: str, revision: str) -> Any:
    """The checkpoint's processor of images.

    Raises:
        InputError: it has none.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model '{name}' comes without a processor of images ({first[:120]}); expected preprocessor_config.json beside its weights"
        ) from None


def processor_digest(processor: Any | None) -> str:
    """8 hex digits over what a processor does to a picture; "-" for none."""
    if processor is None:
        return NO_PART
    kept = {
        key: value for key, value in processor.to_dict().items() if not key.startswith("_") and "version" not in key
    }
    return digest_of(
        {key: list(value) if isinstance(value, tuple) else value for key, value in sorted(kept.items())}, DIGITS
    )


class PictureBatches:
    """Pictures that are prepared when a batch asks for them, and kept while there is room (`d90.tasks.encoded.Lazy`).

    Args:
        processor: makes tensors (channels, height, width) of equal sizes; None: pixels from 0 to 1, grey or RGB as the files are.
        inputs: one picture each (`d90.tasks.pictures`).
    """

    def __init__(self, processor: Any | None, inputs: Sequence[tuple[str, ...]]) -> None:
        self.processor, self.inputs = processor, inputs
        self._kept: dict[int, Tensor] = {}
        self._size = 0

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return torch.stack([self._prepared(i) for i in chosen.tolist()])

    def _prepared(self, i: int) -> Tensor:
        if i in self._kept:
            return self._kept[i]
        image = decode(self.inputs[i][0], f"picture {i + 1}")
        if self.processor is None:
            found = self._plain(image, i)
        else:
            found = self.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        if self._size + found.numel() * 4 <= CACHE:
            self._kept[i] = found
            self._size += found.numel() * 4
        return found

    def _plain(self, image: Any, i: int) -> Tensor:
        import numpy

        values = torch.from_numpy(numpy.array(image)).float().div(255)
        found = values[None] if values.dim() == 2 else values.permute(2, 0, 1).contiguous()
        first = self._kept.get(0)
        if first is not None and first.shape != found.shape:
            raise InputError(
                f"picture {i + 1} is {tuple(found.shape)} (channels, height, width) and the first {tuple(first.shape)}; a network without "
                "a processor takes one size and mode: bring all pictures to it"
            )
        return found
