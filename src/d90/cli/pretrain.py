"""`d90 pretrain`: a small masked language model, its checkpoints on a log schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d90.cli.options import SeedOpt, echo, make_progress


def pretrain(
    text: Annotated[str, typer.Argument(help="A file with one text a line, plain or .gz.")],
    out: Annotated[Path, typer.Option(help="The folder that gets the checkpoints.")] = Path("runs/pretraining"),
    validation: Annotated[str | None, typer.Option(help="Another such file, whose masked loss is kept.")] = None,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 4,
    width: Annotated[int, typer.Option(help="Hidden size, a multiple of 32.")] = 256,
    vocabulary: Annotated[int, typer.Option(help="Entries of the tokenizer.")] = 8192,
    length: Annotated[int, typer.Option(help="Tokens in a text.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Texts in a step.")] = 64,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 2048,
    lr: Annotated[float, typer.Option(help="AdamW's peak rate.")] = 2e-3,
    checkpoints: Annotated[int, typer.Option(help="How many are kept: step 0, and each at half the next's.")] = 8,
    limit: Annotated[int | None, typer.Option(help="Use the first N lines.")] = None,
    seed: SeedOpt = 0,
) -> None:
    """Pretrain a small masked language model; its checkpoints are what `d90 trajectory` measures."""
    from d90.studies.pretrain import Pretraining, pretrain

    wanted = Pretraining(
        text=text, layers=layers, width=width, vocabulary=vocabulary, length=length, batch_size=batch_size,
        steps=steps, lr=lr, checkpoints=checkpoints, limit=limit, seed=seed,
    )  # fmt: skip
    for path in pretrain(wanted, out, validation, make_progress()):
        echo(path)
