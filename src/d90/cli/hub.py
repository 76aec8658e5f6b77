"""`d90 push | pull | merge`: a tune on the hub, and a tune as an ordinary model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d90.cli.options import echo, make_notices

TuneArg = Annotated[Path, typer.Argument(help="A tune written by 'd90 train'.")]
RepoArg = Annotated[str, typer.Argument(help="OWNER/NAME on the hub, or a local folder such as ./shelf.")]
OutOpt = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]


def push(
    tune: TuneArg,
    repo: RepoArg,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Send a tune, its recipe and a model card to the hub."""
    from d90.integrations.hub import CARD, RECIPE, TUNE
    from d90.integrations.hub import push as send
    from d90.integrations.model_card import base_on_hub
    from d90.training.record import read_record

    open_executor = send(tune, repo, private)
    echo(f"{open_executor}: {TUNE} ({tune.stat().st_size:,} bytes), {RECIPE}, {CARD}")
    model = read_record(tune).recipe.model
    if base_on_hub(model) is None:
        echo(f"note: the recipe names the base model '{model}'; whoever pulls the tune needs it by that name")


def pull(
    repo: RepoArg,
    out: OutOpt,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
) -> None:
    """Fetch a tune and its recipe from the hub."""
    from d90.integrations.hub import pull as fetch
    from d90.tasks.metrics import to_display
    from d90.training.record import read_record

    path = fetch(repo, out, revision)
    record = read_record(path)
    recipe, metric = record.recipe, record.task.metric
    echo(f"wrote {path} ({path.stat().st_size:,} bytes) and {path.with_suffix('.json').name}")
    score = to_display(record.outcome.score, metric)
    echo(f"{recipe.method} on {recipe.model}, {recipe.task}: {metric} {score:.4f}")


def merge(tune: TuneArg, out: OutOpt) -> None:
    """Write the tuned model as an ordinary folder: config, tokenizer, safetensors."""
    from d90.integrations.merge import auto_class_of
    from d90.integrations.merge import merge as write
    from d90.integrations.serving import serving_lines
    from d90.training.record import read_record

    folder = write(tune, out, make_notices())
    size = sum(file.stat().st_size for file in folder.iterdir())
    kind = read_record(tune).kind
    opened = "SentenceTransformer(" if kind.pools else f"{auto_class_of(folder, kind)}.from_pretrained("
    echo(f"wrote {folder} ({size:,} bytes): {opened}'{folder}')")
    for line in serving_lines("", folder) if kind.generative and not kind.writes else ():
        echo(line)
