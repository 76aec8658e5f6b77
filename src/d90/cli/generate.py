"""`d90 generate`: what a tuned language model writes to prompts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from d90.cli.options import TextOpt, echo
from d90.errors import InputError, printable


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
        Path | None,
        typer.Option("--out", "-o", help="Write to this .jsonl file: prompt and answer, or a chat's turns."),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="A conversation: a turn a line from standard input, answers as they are written."),
    ] = False,
) -> None:
    """Answer prompts with a finished tune of a language model: greedy, an answer a line, each asked as in training."""
    from d90.files import check_output, write_text
    from d90.tasks.columns import Columns
    from d90.tasks.readers import check_regular

    if chat and (prompts or file):
        raise InputError("got prompts with --chat, which reads turns from standard input; leave one out")
    if not chat and bool(prompts) == bool(file):
        raise InputError("expected either prompts or --file, and one of them")
    if max_new_tokens < 1:
        raise InputError(f"got --max-new-tokens {max_new_tokens}, expected at least 1")
    if out is not None and out.suffix != ".jsonl":
        raise InputError(f"got --out {out}, expected a name that ends in .jsonl")
    check_output(out, tune, file)
    if chat:
        _converse(tune, max_new_tokens, out)
        return
    if file is not None:
        check_regular(file)

    from d90.tasks.examples import read_examples  # torch, once nothing that needs none is wrong
    from d90.training.generation import answer
    from d90.training.loading import open_tune
    from d90.training.record import read_record

    asked = list(prompts or [])
    if file is not None:
        column = text or read_record(tune).recipe.columns.get("prompt") or "prompt"
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


def _converse(tune: Path, limit: int, out: Path | None) -> None:
    from d90.files import write_text
    from d90.training.generation import chat
    from d90.training.loading import open_tune

    def said(text: str) -> None:
        typer.echo(printable(text.removesuffix("\n")), nl=text.endswith("\n"))
        sys.stdout.flush()

    def turns() -> Iterator[str]:
        while True:
            if sys.stdin.isatty():
                typer.echo("> ", nl=False, err=True)
            line = sys.stdin.readline()
            if not line:
                return
            if line.strip():
                yield line.strip()

    held = chat(open_tune(tune), turns(), limit, said)
    if out is not None and held:
        turns_ = [{"role": one.role, "content": one.content} for one in held]
        write_text(out, json.dumps({"messages": turns_}, ensure_ascii=False) + "\n")
        echo(f"wrote {out}: {len(held):,} turns")
