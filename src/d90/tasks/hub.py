"""Tasks from the Hugging Face hub through `datasets`: `glue/NAME` with GLUE's columns and metric, or any dataset.

For machines without a network: a folder of local copies, named by the environment variable D90_DATASETS, is looked at
first, as <D90_DATASETS>/glue/mrpc/train.jsonl and validation.jsonl (mnli: validation_matched.jsonl and validation_mismatched.jsonl), or
<D90_DATASETS>/OWNER/NAME/CONFIG. Loading scripts are never run.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.tasks.base import Task
from d90.tasks.columns import Columns, Table
from d90.tasks.files import PARTS, from_tables
from d90.tasks.kinds import Classification
from d90.tasks.names import GLUE
from d90.tasks.readers import Row, find_split

__all__ = ["SUBSETS", "load_glue", "load_hub"]

SUBSETS = {"mnli_mismatched": "mnli"}  # whose files a task is made of, where they are not of its own name


def load_glue(name: str, metric: str | None, group: str | None = None) -> Task:
    """A GLUE task; its test labels are hidden, so it has no test split.

    Raises:
        InputError: its data cannot be had.
    """
    subset = name.removeprefix("glue/")
    text, own_metric, validation = GLUE[subset]
    kind = "regression" if subset == "stsb" else "classification"
    source = SUBSETS.get(subset, subset)
    local = _mirror("glue", source)
    found = _fetch("nyu-mll/glue", source, local, ("train", validation))
    for part in ("train", validation):
        if part not in found:
            where = f"the folder '{local}'" if local else f"'{name}'"
            raise InputError(f"{where} has splits {', '.join(found)}, expected {part} (as in {part}.jsonl) among them")
    parts = {"train": found["train"], "validation": found[validation]}
    task = from_tables(
        name,
        {part: Table(rows, f"{name} {part}") for part, rows in parts.items()},
        Columns(text, group=group),
        metric or own_metric,
        kind,
        notes=(f"validation: GLUE's {validation}",),
    )
    if isinstance(task.kind, Classification) and len(task.labels) == 2:
        task = replace(task, kind=task.kind.named(task.labels[1]))  # the class of GLUE's published F1, common or rare
    return task


def load_hub(name: str, columns: Columns, metric: str | None, kind: str | None) -> Task:
    """Any dataset of the hub, `owner/name[/config]`, or a folder that `datasets` can read, `hub:FOLDER`.

    Its splits train, validation and test are taken, where labelled.

    Raises:
        InputError: no such dataset, or what is wrong in it.
    """
    path = name.removeprefix("hub:")
    if Path(path).is_dir():
        found = _fetch(path, None, Path(path), PARTS)
    else:
        owner, *rest = path.split("/")
        dataset, config = "/".join([owner, *rest[:1]]), "/".join(rest[1:]) or None
        found = _fetch(dataset, config, _mirror(dataset, config), PARTS)
    if "train" not in found:
        raise InputError(f"dataset '{name}' has splits {', '.join(found)}, expected one called train")
    parts = {part: found[part] for part in PARTS if part in found}
    hidden = [
        part
        for part, rows in parts.items()
        if part != "train"
        and any(columns.label in row for row in found["train"][:1])
        and _unlabelled(rows, columns.label)
    ]
    shown = {part: Table(rows, f"{name} {part}") for part, rows in parts.items() if part not in hidden}
    return from_tables(
        name, shown, columns, metric, kind, notes=tuple(f"{part}: left out, no labels" for part in hidden)
    )


def _unlabelled(rows: list[Row], label: str) -> bool:
    """The hub's convention for hidden labels: all of them -1 or missing."""
    return all(row.get(label, -1) in (-1, None) for row in rows)


def _mirror(path: str, config: str | None) -> Path | None:
    root = os.environ.get("D90_DATASETS")
    folder = Path(root, path, config or "") if root else None
    return folder if folder is not None and folder.is_dir() else None


def _fetch(path: str, config: str | None, local: Path | None, wanted: Iterable[str]) -> dict[str, list[Row]]:
    """The rows of the wanted splits (or of all there are, where none of them is), from a local folder or the hub."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    files: dict[str, str] = {}
    if local is not None:
        # Said file by file where they are named for their splits: `datasets` takes validation_matched for validation.
        files = {part: str(file) for part in wanted if (file := find_split(local, PARTS.get(part, (part,))))}
    below_4 = "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters
    no_code = {"trust_remote_code": False} if below_4 else {}
    asked: tuple[Any, ...] = (str(local),) if local else (path, config)
    bars, level = datasets.is_progress_bar_enabled(), hub_logging.get_verbosity()
    datasets.disable_progress_bars()
    hub_logging.set_verbosity(hub_logging.ERROR)  # without a network: two lines for each retry, before our one
    try:
        loaded = datasets.load_dataset(*asked, data_files=files or None, **no_code)
    except Exception as error:  # the library raises a dozen unrelated types here, network errors among them
        cause = error.__cause__ or error
        why = " ".join(str(cause).split())[:240] or type(cause).__name__
        if local is not None:
            raise InputError(
                f"the folder '{local}' is no dataset that can be read: {why}. Expected files such as train.jsonl"
            ) from None
        raise InputError(
            f"unknown task '{'/'.join(filter(None, (path, config)))}': no file, no folder, and the hub did not give it "
            f"({why}). Check the name and the network; 'd90 tasks' lists the forms of a name."
        ) from None
    finally:
        hub_logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
    chosen = [part for part in wanted if part in loaded] or list(loaded)
    return {part: _with_names(loaded[part]) for part in chosen}


def _with_names(dataset: Any) -> list[Row]:
    """A split's rows; where its numbers in lists are classes that have names, as tags of words, with the names."""
    rows: list[Row] = dataset.to_list()
    inner = {name: getattr(feature, "feature", None) for name, feature in dataset.features.items()}
    for name, classes in inner.items():
        if classes is not None and hasattr(classes, "int2str"):
            for row in rows:
                row[name] = [None if number is None else classes.int2str(number) for number in row[name] or []]
    return rows
