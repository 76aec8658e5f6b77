"""`d90 pretrain`: a small masked language model, its checkpoints on a log schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d90.cli.expand import expanded
from d90.cli.options import echo, make_progress
from d90.options import PretrainOptions


@expanded()
def pretrain(
    text: Annotated[str, typer.Argument(help="A file with one text a line, plain or .gz.")],
    out: Annotated[Path, typer.Option(help="The folder that gets the checkpoints.")] = Path("runs/pretraining"),
    validation: Annotated[str | None, typer.Option(help="Another such file, whose masked loss is kept.")] = None,
    options: PretrainOptions = PretrainOptions(),
) -> None:
    """Pretrain a small masked language model; its checkpoints are what `d90 trajectory` measures."""
    from d90.studies.pretrain import pretrain as study

    for path in study(text, out, validation, options=options, progress=make_progress()):
        echo(path)
