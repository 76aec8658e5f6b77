"""Pictures of two classes in class folders, and a vision transformer of two blocks with its processor."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["save_pictures", "save_vit"]


def save_pictures(folder: Path, count: int = 56) -> Path:
    """folder/a and folder/b: dark and light ones."""
    from PIL import Image

    for i in range(count):
        where = folder / "ab"[i % 2]
        where.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200 * (i % 2), 4 * i, 50)).save(where / f"{i}.png")
    return folder


def save_vit(folder: Path) -> Path:
    """Random weights for pictures of 8 x 8."""
    import torch
    import transformers as t
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    t.ViTForImageClassification(t.ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(folder)
    logging.enable_progress_bar()
    settings = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 8, "width": 8}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
