"""The model card of a tune: README.md with the metadata of the hub, from the recipe and the file's header."""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import Any

from d90.subspace.file import About
from d90.tasks.metrics import to_display

__all__ = ["base_on_hub", "card"]

_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_FILES = (".jsonl", ".gz", ".csv", ".tsv", ".parquet")
_NETWORKS = re.compile(r"fc|lenet|mlp:.*")


def base_on_hub(model: str) -> str | None:
    """The hub's name of a recipe's model; None for a local folder or a network without a checkpoint."""
    if model == "minilm":
        return _MINILM
    local = PurePath(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model
    if local or os.path.isdir(model) or _NETWORKS.fullmatch(model) or not _HUB_NAME.fullmatch(model):
        return None
    return model


def card(record: dict[str, Any], about: About, repo: str) -> str:
    """README.md of the tune that `record` made, as it lies in `repo` ("owner/name", or a folder).

    Paths of the machine it was trained on are cut down to their last part.
    """
    from huggingface_hub import EvalResult, ModelCardData

    recipe, outcome, task = record["recipe"], record["outcome"], record["task"]
    model, data = _shown(recipe["model"]), _shown(recipe["task"])
    base = base_on_hub(recipe["model"])
    kind = ("text" if task["texts"] else "image") + f"-{task['kind']}"
    space = about.header.structure != "direct"
    result = EvalResult(
        task_type=kind,
        dataset_type=data,
        dataset_name=data,
        dataset_split="validation",
        metric_type=task["metric"],
        metric_value=round(to_display(outcome["score"], task["metric"]), 6),
    )
    details = {
        "version": record["d90"],
        "method": recipe["method"],
        "d": about.count,
        "task": data,
        "metric": task["metric"],
        "score": round(to_display(outcome["score"], task["metric"]), 6),
        "base_fingerprint": about.header.base,
    }
    metadata = ModelCardData(
        base_model=base,
        library_name="d90",
        tags=["d90", "intrinsic-dimension"],
        pipeline_tag="text-classification" if kind == "text-classification" else None,
        metrics=[task["metric"]],
        model_name=_shown(repo),
        eval_results=[result],
        d90=details,
    )
    score, untrained = (to_display(outcome[key], task["metric"]) for key in ("score", "zero_score"))
    numbers = f"{about.count:,} numbers in {about.bytes:,} bytes ({about.dtype})"
    how = f"theta_0 + P theta, d = {about.count:,}" if space else "the tuned parameters themselves"
    rows = {
        "base model": f"[{base}](https://huggingface.co/{base})" if base else f"`{model}`",
        "task": f"`{data}`" + (f", labels {', '.join(map(str, task['labels']))}" if task["labels"] else ""),
        "method": f"`{recipe['method']}`: {how}",
        "stored": numbers,
        f"{task['metric']}, validation": f"{score:.4f} (untrained {untrained:.4f})",
        "weights moved": f"{outcome['D']:,}",
        "base fingerprint": f"`{about.header.base}`",
        "d90": record["d90"],
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"---\n{metadata.to_yaml()}\n---\n{_TEXT.format(name=_shown(repo), table=table, use=_usage(task, repo))}"


_TEXT = """
# {name}

A fine-tune stored by [d90](https://arxiv.org/abs/2012.13255): what it holds is added to the base model's weights.

| | |
|-|-|
{table}

## Use

{use}
The base model is loaded by its name and checked against the fingerprint; `task.json` is the recipe that made the tune.
"""


def _usage(task: dict[str, Any], repo: str) -> str:
    if not task["texts"]:
        return f"```\nd90 pull {repo} --out tuned\nd90 evaluate tuned/task.d90\n```\n"
    texts = ", ".join(['"some text"', '"another text"'][: task["texts"]])
    return (
        f"```\nd90 pull {repo} --out tuned\nd90 predict tuned/task.d90 {texts.replace(',', '')}\n```\n\n"
        "```python\nfrom d90.training.loading import open_tune\nfrom d90.integrations.hub import pull\n\n"
        f'tuned = open_tune(pull("{repo}", "tuned"))\n'
        f"print(tuned.predict([({texts}{',' if task['texts'] == 1 else ''})]))\n```\n"
    )


def _shown(name: str) -> str:
    """A name as it is, a path as its last part."""
    prefix, colon, rest = name.rpartition(":")
    path = PurePath(rest)
    local = path.is_absolute() or rest.startswith((".", "~")) or rest.count("/") > 1 or rest.endswith(_FILES)
    return f"{prefix}{colon}{path.name}" if local else name
