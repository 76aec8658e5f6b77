"""The same weights stored in fp32, fp16 and bf16 must have the same d90 within its interval: all three are trained in fp32.

    python benchmarks/storage_precision.py MODEL TASK [--out NAME] [options of d90.measure as name=value ...]

The copies are made in a temporary folder (fp16 and bf16 round the weights once; nothing else differs), each is measured with the
same rates, and the answers are written to storage_precision.json, a line of the log for each trial beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import named_values, processor

import d90
from d90.training.console import progress_for

HERE = Path(__file__).parent
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def copy_of(model: str, dtype: torch.dtype, auto_class: Any, folder: Path) -> Path:
    """The model and its tokenizer, stored in `dtype`."""
    auto_class.from_pretrained(model, dtype=torch.float32).to(dtype).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def measured(folder: Path, task: str, store: Path, options: dict[str, Any]) -> dict[str, Any]:
    answer = d90.measure(str(folder), task, store=store, progress=progress_for(False), **options)
    return {
        "baseline": answer.baseline,
        "threshold": answer.threshold,
        "d90": answer.d90,
        "interval": answer.interval,
        "status": answer.status,
        "spent": round(answer.spent, 1),
        "trials": [[point.d, point.score, point.status] for point in answer.curve],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("task")
    parser.add_argument("options", nargs="*", help="name=value, the value in JSON where it is no text")
    parser.add_argument("--auto-class", default="AutoModelForCausalLM", help="of transformers, to copy the model")
    arguments = parser.parse_args()
    options = named_values(arguments.options)
    path = HERE / "storage_precision.json"
    written = json.loads(path.read_text()) if path.exists() else {}
    name = f"{Path(arguments.model).name} on {Path(arguments.task).name}"
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for dtype, torch_dtype in DTYPES.items():
            folder = copy_of(
                arguments.model, torch_dtype, getattr(transformers, arguments.auto_class), Path(temporary) / dtype
            )
            rows[dtype] = measured(folder, arguments.task, Path(temporary) / "trials.sqlite", options)
            print(dtype, json.dumps(rows[dtype]), flush=True)
            written[name] = {"options": options, "processor": processor(), **rows}
            path.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
