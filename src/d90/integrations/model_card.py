"""The model card of a tune: README.md with the metadata of the hub, from the recipe and the file's header."""

from __future__ import annotations

import html
import os
import re
from pathlib import PurePath, PurePosixPath
from typing import Any

from d90.errors import printable
from d90.integrations.serving import serving_lines
from d90.subspace.file import About
from d90.tasks.kinds import stored_kind
from d90.tasks.metrics import to_display
from d90.tasks.readers import ENDINGS
from d90.training.record import TuneRecord

__all__ = ["base_on_hub", "card", "hub_dataset", "local_name"]

_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_FILES = (".gz", ".txt", *ENDINGS)
_FORMS = ("text", "lines", "idx")  # of tasks that are local files
MAX_LABELS = 50
_NETWORKS = re.compile(r"fc|lenet|mlp:.*")


def base_on_hub(model: str) -> str | None:
    """The hub's name of a recipe's model; None for a local folder or a network without a checkpoint."""
    if model == "minilm":
        return _MINILM
    local = PurePath(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model
    if local or os.path.isdir(model) or _NETWORKS.fullmatch(model) or not _HUB_NAME.fullmatch(model):
        return None
    return model


def hub_dataset(task: str) -> tuple[str, str | None] | None:
    """(dataset, config) of a task that surely comes from the hub; None where a name could as well be a local folder's."""
    if task.startswith("glue/"):
        return "nyu-mll/glue", task.removeprefix("glue/")
    owner, *rest = task.removeprefix("hub:").split("/")
    if task.startswith("hub:") and 1 <= len(rest) <= 2 and not os.path.isdir(task.removeprefix("hub:")):
        return f"{owner}/{rest[0]}", rest[1] if len(rest) > 1 else None
    return None


def card(tune: TuneRecord, about: About, repo: str) -> str:
    """README.md of the tune with this record, as it lies in `repo` ("owner/name", or a folder).

    Paths of the machine it was trained on are cut down to their last part; what comes from files (labels, names) is escaped.
    """
    recipe, task, outcome = tune.recipe, tune.task, tune.outcome
    base = base_on_hub(recipe.model)
    space = about.header.structure != "direct"
    how = f"theta_0 + P theta, d = {about.count:,}" if space else "the tuned parameters themselves"
    metric = task.metric
    score, untrained = (to_display(value, metric) for value in (outcome.score, outcome.zero_score))
    labels = ", ".join(map(_text, task.labels[:MAX_LABELS]))
    more = f" and {len(task.labels) - MAX_LABELS} more" if len(task.labels) > MAX_LABELS else ""
    sizes = ", ".join(f"{count:,} {name}" for name, count in task.sizes.items())
    looks = len(outcome.curve)
    rows = {
        "base model": f"[{_text(base)}](https://huggingface.co/{base})" if base else _code(local_name(recipe.model)),
        "task": _code(local_name(recipe.task)) + (f", labels {labels}{more}" if labels else ""),
        "examples": sizes,
        "tokens": f"at most {task.max_length:,}" if task.max_length else "",
        "method": f"{_code(recipe.method)}: {how}",
        "stored": f"{about.count:,} numbers in {about.bytes:,} bytes ({about.dtype})",
        f"{metric}, validation": f"{score:.4f}, the best of {looks} evaluations (untrained {untrained:.4f})",
        "weights moved": f"{outcome.D:,}",
        "base fingerprint": _code(about.header.base),
        "d90": _text(tune.version),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value)
    name = local_name(repo)
    place = repo if name == repo else f"./{name}" if re.fullmatch(r"[\w.-]+", name) else "./folder"
    body = _TEXT.format(name=_text(name), table=table, use=_usage(tune, place))
    return f"---\n{_metadata(tune, about, repo).to_yaml()}\n---\n{body}"


def _metadata(tune: TuneRecord, about: About, repo: str) -> Any:
    """The hub's metadata. A dataset is named where the task's name says which of the hub's it is, and is never guessed."""
    from huggingface_hub import EvalResult, ModelCardData

    recipe, task = tune.recipe, tune.task
    metric, data = task.metric, printable(local_name(recipe.task))
    score = round(to_display(tune.outcome.score, metric), 6)
    known = stored_kind(task.kind, not task.texts, task.labels).hub_task
    kind = known or ("text" if task.texts else "image") + f"-{task.kind}"
    dataset = hub_dataset(recipe.task)
    results = None
    if dataset is not None:
        results = [
            EvalResult(
                task_type=kind,
                dataset_type=dataset[0],
                dataset_name=data,
                dataset_config=dataset[1],
                dataset_split="validation",
                metric_type=metric,
                metric_value=score,
            )
        ]
    details = {
        "version": printable(tune.version),
        "method": printable(recipe.method),
        "d": about.count,
        "task": data,
        "metric": metric,
        "score": score,
        "sizes": dict(task.sizes) or None,
        "max_length": task.max_length,
        "base_fingerprint": about.header.base,
    }
    return ModelCardData(
        base_model=base_on_hub(recipe.model),
        library_name="d90",
        tags=["d90", "intrinsic-dimension"],
        datasets=[dataset[0]] if dataset else None,
        pipeline_tag=known,
        metrics=[printable(metric)],
        model_name=printable(local_name(repo)),
        eval_results=results,
        d90={key: value for key, value in details.items() if value is not None},
    )


def _text(value: object) -> str:
    """A value as text of a table's cell: no markdown, no HTML, no control characters, one line."""
    words = " ".join(printable(value).split())
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(words, quote=False))


def _code(value: object) -> str:
    """A value as code in a table's cell; markdown counts inside HTML's tag as well."""
    return f"<code>{_text(value)}</code>"


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


def _usage(tune: TuneRecord, repo: str) -> str:
    task = tune.task
    kind = stored_kind(task.kind, not task.texts, task.labels)
    if kind.generative and not kind.writes:
        return _usage_of_language(tune, repo)
    if not task.texts:
        return f"```\nd90 pull {repo} --out tuned\nd90 evaluate tuned/task.d90\n```\n"
    texts = ", ".join(['"some text"', '"another text"'][: task.texts])
    return (
        f"```\nd90 pull {repo} --out tuned\nd90 predict tuned/task.d90 {texts.replace(',', '')}\n```\n\n"
        "```python\nfrom d90.training.loading import open_tune\nfrom d90.integrations.hub import pull\n\n"
        f'tuned = open_tune(pull("{repo}", "tuned"))\n'
        f"print(tuned.predict([({texts}{',' if task.texts == 1 else ''})]))\n```\n"
    )


def _usage_of_language(tune: TuneRecord, repo: str) -> str:
    base = base_on_hub(tune.recipe.model) or "path/to/the/base"
    adapter, merged = (
        "\n".join(lines)
        for lines in (serving_lines(base, "adapter", rank_of(tune.recipe.method)), serving_lines(base, "model"))
    )
    return (
        f"```\nd90 pull {repo} --out tuned\nd90 generate tuned/task.d90 'a prompt'\n```\n\n"
        "```python\nfrom d90.integrations.hub import pull\nfrom d90.training.generation import answer\n"
        "from d90.training.loading import open_tune\n\n"
        f'print(answer(open_tune(pull("{repo}", "tuned")), ["a prompt"], 256))\n```\n\n'
        "As a LoRA adapter, which holds a tune over LoRA exactly (`--rank` cuts another), or as a whole model "
        "(`AutoModelForCausalLM.from_pretrained('model')`):\n\n"
        f"```\nd90 convert tuned/task.d90 --to lora --out adapter\n{adapter}\n"
        f"d90 merge tuned/task.d90 --out model\n{merged}\n```\n"
    )


def rank_of(method: str) -> int:
    """LoRA's rank of a method's text; 16 of others, whose change is cut to one that the user chooses."""
    found = re.search(r"\blora:r=(\d+)", method)
    return int(found[1]) if found else 16


def local_name(name: str) -> str:
    """A name as it is, a path as its last part."""
    if name.startswith(("glue/", "hub:")) and not os.path.isdir(name.removeprefix("hub:")):
        return name
    prefix, colon, rest = name.partition(":")
    if prefix not in _FORMS:
        prefix, colon, rest = "", "", name
    path = PurePosixPath(rest.replace("\\", "/"))
    far = path.is_absolute() or rest.startswith((".", "~")) or rest.count("/") > 1 or "\\" in rest
    local = far or prefix in _FORMS or rest.endswith(_FILES) or os.path.isdir(rest)
    return f"{prefix}{colon}{path.name}" if local else name
