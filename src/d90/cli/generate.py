"""`d90 generate`: what a tuned language model writes to prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from d90.cli.options import TextOpt, echo
from d90.errors import InputError


def generate(
    tune: Annotated[Path, typer.Argument(help="A tune of a language model, written by 'd90 train'.")],
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="A table with a column of prompts, or text with a prompt a line."),
    ] = None,
    text: TextOpt = None,
    max_new_tokens: Annotated[int, typer.Option(help="New tokens of an answer at most.")] = 256,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write to this .jsonl file: prompt and answer.")
    ] = None,
) -> None:
    """Answer prompts with a finished tune of a language model: greedy, an answer a line, each asked as in training."""
    from d90.files import check_output, write_text
    from d90.tasks.columns import Columns
    from d90.tasks.examples import read_examples
    from d90.training.generation import answer
    from d90.training.loading import open_tune, read_record

    if bool(prompts) == bool(file):
        raise InputError("expected either prompts or --file, and one of them")
    if max_new_tokens < 1:
        raise InputError(f"got --max-new-tokens {max_new_tokens}, expected at least 1")
    if out is not None and out.suffix != ".jsonl":
        raise InputError(f"got --out {out}, expected a name that ends in .jsonl")
    check_output(out, tune, file)
    asked = list(prompts or [])
    if file is not None:
        column = text or read_record(tune)[0]["recipe"]["columns"].get("prompt") or "prompt"
        asked = [one for (one,) in read_examples(file, Columns(column), 1).texts]
    answers = answer(open_tune(tune), asked, max_new_tokens)
    if out is None:
        for one in answers:
            echo(one)
    else:
        lines = (
            json.dumps({"prompt": a, "answer": b}, ensure_ascii=False) for a, b in zip(asked, answers, strict=True)
        )
        write_text(out, "".join(f"{line}\n" for line in lines))
        echo(f"wrote {out}: {len(answers):,} answers")
