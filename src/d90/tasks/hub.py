"""Tasks from the Hugging Face hub through `datasets`: `glue/NAME` with GLUE's columns and metric, or any dataset with columns named.

A folder of local copies, named by the environment variable D90_DATASETS, is looked at first: <D90_DATASETS>/glue/mrpc/train.jsonl and so on.
Loading scripts are never run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from d90.errors import InputError, choose
from d90.tasks.base import Task
from d90.tasks.files import Columns, Row, from_rows

__all__ = ["GLUE", "load_glue", "load_hub"]

# columns, metric, validation split
GLUE = {
    "cola": ("sentence", "matthews", "validation"),
    "sst2": ("sentence", "accuracy", "validation"),
    "mrpc": ("sentence1,sentence2", "accuracy", "validation"),
    "qqp": ("question1,question2", "accuracy", "validation"),
    "stsb": ("sentence1,sentence2", "pearson", "validation"),
    "mnli": ("premise,hypothesis", "accuracy", "validation_matched"),
    "qnli": ("question,sentence", "accuracy", "validation"),
    "rte": ("sentence1,sentence2", "accuracy", "validation"),
    "wnli": ("sentence1,sentence2", "accuracy", "validation"),
}


def load_glue(name: str, metric: str | None) -> Task:
    """A GLUE task; its test labels are hidden, so it has no test split."""
    subset = name.removeprefix("glue/")
    if subset not in GLUE:
        raise choose("GLUE task", subset, GLUE)
    text, own_metric, validation = GLUE[subset]
    kind = "regression" if subset == "stsb" else "classification"
    found = _fetch("glue" if _mirror("glue", subset) else "nyu-mll/glue", subset)
    parts = {"train": found["train"], "validation": found[validation]}
    return from_rows(
        name,
        {part: (rows, f"{name} {part}") for part, rows in parts.items()},
        Columns(text),
        metric or own_metric,
        kind,
    )


def load_hub(name: str, columns: Columns, metric: str | None, kind: str | None) -> Task:
    """Any dataset of the hub, `owner/name[/config]`; splits train, validation and test, where labelled."""
    owner, *rest = name.removeprefix("hub:").split("/")
    path, config = "/".join([owner, *rest[:1]]), "/".join(rest[1:]) or None
    found = _fetch(path, config)
    if "train" not in found:
        raise InputError(f"dataset '{name}' has splits {', '.join(found)}, expected one called train")
    parts = {part: (found[part], f"{name} {part}") for part in ("train", "validation", "test") if part in found}
    hidden = [part for part, (rows, _) in parts.items() if part != "train" and _unlabelled(rows, columns.label)]
    return from_rows(name, {part: rows for part, rows in parts.items() if part not in hidden}, columns, metric, kind)


def _unlabelled(rows: list[Row], label: str) -> bool:
    """The hub's convention for hidden labels: all of them -1 or missing."""
    return all(row.get(label, -1) in (-1, None) for row in rows)


def _mirror(path: str, config: str | None) -> Path | None:
    root = os.environ.get("D90_DATASETS")
    folder = Path(root, path, config or "") if root else None
    return folder if folder is not None and folder.is_dir() else None


def _fetch(path: str, config: str | None) -> dict[str, list[Row]]:
    """Every split's rows, from the local mirror or the hub."""
    import datasets

    local = _mirror(path, config)
    asked: tuple[Any, ...] = (str(local),) if local else (path, config)
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(*asked)
    except Exception as error:  # the library raises a dozen unrelated types here, network errors among them
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"unknown task '{'/'.join(filter(None, (path, config)))}': no file, no folder, and the hub did not give it "
            f"({first[:160]}). Check the name and the network; 'd90 tasks' lists the forms of a name."
        ) from None
    finally:
        if bars:
            datasets.enable_progress_bars()
    return {part: split.to_list() for part, split in loaded.items()}
