"""What `d90 preflight` tells beside what a process grows by: the peak resident size of a short training run above what it began with.

Each run is a process of its own: a tiny training first, so that what is imported and kept once counts as the program's, then two or three
steps of the batch. Freed memory is given back to the system at once, so that the peak is what was in use. "told" is what is held and a
step's peak; the evaluated batch is no larger than the trained one here.

    python benchmarks/preflight.py [--models minilm ...] [--batches 4x64 32x64]        writes preflight.json
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import beside, processor
from memory import resident

METHODS = ("full", "full@d=1000", "lora:r=8,targets=all", "lora:r=8,targets=all@d=1000")
LIMITS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def grown(model: str, kind: str, method: str, batch: str) -> None:
    """Print the MB that training in this process takes at its peak, and those that were told."""
    import torch

    import d90

    torch.set_num_threads(1)
    examples, tokens = map(int, batch.split("x"))

    def train(rows: int, batch_size: int, length: int, share: float) -> None:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder, "rows.jsonl")
            lines: list[dict[str, object]] = [{"text": "once upon a time " * 99 + str(i)} for i in range(rows)]
            if kind == "classification":
                lines = [line | {"label": i % 2} for i, line in enumerate(lines)]
            data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
            options = {"batch_size": batch_size, "max_length": length, "epochs": share, "kind": kind}
            run = d90.train(model, str(data), method, evaluations=1, precision="fp32", progress=False, **options)  # type: ignore[arg-type]
            run.release()

    found = d90.preflight(model, method, batch=batch, kind=kind, precision="fp32")  # type: ignore[arg-type]
    train(40, 2, 8, 0.1)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    train(9 * examples, examples, tokens, 0.4)
    told = (found.parts.held + found.parts.step) / 2**20
    print(json.dumps({"told MB": round(told, 1), "grown MB": round(resident("VmHWM") - before, 1)}))


def small_llama(folder: Path) -> str:
    """A Llama of seven million random weights, over a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "once": 2, "upon": 3, "a": 4, "time": 5}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<pad>")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 6, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=512, num_key_value_heads=4, pad_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["minilm", "llama"], help="minilm, llama, or folders of language models."
    )
    parser.add_argument("--batches", nargs="+", default=["4x64", "32x64"])
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        grown(*given.run)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in given.models:
            name = small_llama(Path(folder)) if model == "llama" else model
            kind = "classification" if model == "minilm" else "language"
            for method in METHODS:
                for batch in given.batches:
                    command = [sys.executable, __file__, "--run", name, kind, method, batch]
                    done = subprocess.run(command, env=os.environ | LIMITS, capture_output=True, text=True, check=True)
                    seen = json.loads(done.stdout.splitlines()[-1])
                    row = {"model": Path(model).name, "method": method, "batch": batch} | seen
                    rows.append(row | {"told over grown": round(seen["told MB"] / seen["grown MB"], 3)})
                    print(json.dumps(rows[-1]), flush=True)
    line = {"processor": processor(), "threads": 1, "rows": rows}
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(beside(out, line), indent=1) + "\n")


if __name__ == "__main__":
    main()
