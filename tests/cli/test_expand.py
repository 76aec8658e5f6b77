"""Commands whose options are made from dataclasses: values, lists, earlier spellings, recipes."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.testing import CliRunner

from d90.cli.expand import expanded
from d90.errors import InputError
from d90.options import SearchOptions, TrainingOptions


def command(**more: Any) -> tuple[typer.Typer, list[Any]]:
    seen: list[Any] = []

    @expanded(**more)
    def study(
        model: Annotated[str, typer.Argument(help="A model.")] = "m",
        search: SearchOptions = SearchOptions(start=64),
        training: TrainingOptions = TrainingOptions(),
    ) -> None:
        seen.extend((model, search, training))

    app = typer.Typer()
    app.command()(study)
    return app, seen


def test_fields_are_options_and_the_command_gets_whole_options() -> None:
    app, seen = command()
    done = CliRunner().invoke(app, ["n", "--dims", "10, 20", "--warmup", "0.2", "--no-prune", "--lr", "1e-3"])
    assert done.exit_code == 0, done.output
    assert seen == ["n", SearchOptions(start=64, dims=(10, 20), prune=False), TrainingOptions(warmup=0.2, lr="1e-3")]


def test_an_earlier_spelling_works_and_is_reported() -> None:
    app, seen = command()
    done = CliRunner().invoke(app, ["--of", "lora:r=8", "--no-hopeless"])
    assert (seen[1].baseline, seen[1].prune) == ("lora:r=8", False)
    assert "note: --of is now called --baseline\n" in done.stderr
    assert "note: --hopeless is now called --prune\n" in done.stderr
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "--baseline" in shown
    assert "--of" not in shown
    both = CliRunner().invoke(app, ["--of", "full", "--baseline", "bitfit"])
    assert isinstance(both.exception, InputError)
    assert "--baseline bitfit and --of full, which are two names of one option" in str(both.exception)


def test_what_cannot_be_is_refused_before_the_command_runs() -> None:
    app, seen = command()
    done = CliRunner().invoke(app, ["--epochs", "0"])
    assert isinstance(done.exception, InputError)
    assert not seen


def test_a_field_may_be_left_out() -> None:
    app, seen = command(without=("warmup",))
    assert CliRunner().invoke(app, ["--warmup", "0.2"]).exit_code == 2
    assert CliRunner().invoke(app, []).exit_code == 0
    assert seen[2] == TrainingOptions()
