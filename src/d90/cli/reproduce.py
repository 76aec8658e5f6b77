"""`d90 run`: the studies of a recipe, and the papers' figures beside ours."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli import certify, compare, latency, measure, pretrain, series, tunes, weight_change
from d90.cli.expand import expanded
from d90.cli.options import echo, make_progress
from d90.errors import InputError, RunFailed
from d90.files import check_recipe
from d90.trials.options import ExecutorOptions

if TYPE_CHECKING:
    from d90.reproduce import Plan, TableRow

RecipeArg = Annotated[
    Path, typer.Argument(help="A YAML file, as recipes/aghajanyan-table1.yaml.", callback=check_recipe)
]
SetOpt = Annotated[list[str] | None, typer.Option("--set", help="A variable of the recipe, NAME=VALUE; once for each.")]
DryOpt = Annotated[bool, typer.Option("--dry-run", help="Check the recipe and print what would run.")]
OutOpt = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The folder of its store, pages and summary.json; runs/NAME by default."),
]

AnywhereOpt = Annotated[
    bool, typer.Option("--anywhere", help="Let the recipe write outside its folder; for recipes that you trust.")
]

FUNCTIONS = (
    *(measure.measure, compare.compare, series.trajectory, series.family, series.lowdata),
    *(latency.latency, certify.certify, tunes.train, weight_change.analyze, pretrain.pretrain),
)


@expanded()
def run(
    recipe: RecipeArg,
    values: SetOpt = None,
    dry_run: DryOpt = False,
    out: OutOpt = None,
    anywhere: AnywhereOpt = False,
    where: ExecutorOptions = ExecutorOptions(),
) -> None:
    """Run a recipe: every study it lists, then one table with the published figures beside ours."""
    from d90 import reproduce as recipes

    commands = {function.__name__: recipes.command_of(function) for function in FUNCTIONS}
    plan = recipes.read(recipe, commands, _values(values or []), out, anywhere)
    found = recipes.resolve(plan, load=dry_run)
    if dry_run:
        _plan(plan, found)
        return
    # a recipe's own options stand where none is given
    rows, failed = recipes.run(plan, make_progress(), where)
    _show(plan, rows)
    echo(f"store, pages and summary.json: {plan.folder}")
    if failed:
        more = f" (and {len(failed) - 1} more, in {plan.folder / 'summary.json'})" if len(failed) > 1 else ""
        raise RunFailed(
            f"{len(failed)} of {len(plan.studies)} studies failed: {failed[0]}{more}. The others are stored; the same "
            "command goes on"
        )


def _values(pairs: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"got --set {pair}, expected NAME=VALUE, as in --set data=path/to/data")
        if name.strip() in found:
            raise InputError(f"got --set {name.strip()} twice, expected each variable once")
        found[name.strip()] = value
    return found


def _plan(plan: Plan, found: dict[str, str]) -> None:
    from d90.reproduce import names

    echo(plan.title)
    for line in (plan.paper, *plan.differs):
        if line:
            echo(f"  {' '.join(line.split())}")
    for number, study in enumerate(plan.studies, 1):
        echo(f"\n{number}. {study.name}\n   {shlex.join(['d90', *study.line])}")
        for what, name in dict.fromkeys(names(study)):
            echo(f"   {what} {name}: {found.get(name, 'trained by an earlier study')}")
        for one in study.published:
            of = ", ".join([one.of, *one.keys.values()] if one.of else one.keys.values())
            echo(f"   published{f' ({of})' if of else ''}: {one.value}, {one.source}")
    echo(f"\n{len(plan.studies)} studies; store, pages and summary.json would go to {plan.folder}. Nothing was trained")


def _show(plan: Plan, rows: list[TableRow]) -> None:
    from d90.training.console import make_table, print_table

    table = make_table(plan.title)
    for name in ("study", "figure", "ours", "interval", "published", "source"):
        table.add_column(name, justify="right" if name in ("ours", "interval") else "left", overflow="fold")
    before = ""
    for row in rows:
        ours = row.word if row.ours is None else _number(row.ours, row.unit)
        published = row.published if isinstance(row.published, str) else _number(row.published, row.unit)
        if before and row.study != before:
            table.add_section()
        table.add_row(row.study if row.study != before else "", row.figure, ours, _interval(row), published, row.source)
        before = row.study
    print_table(table)
    echo(
        "interval: of d90, with the probability the study's page names; of scores the lowest and the highest seed; of "
        "latencies 95 %, noise included"
    )
    for line in plan.differs:
        echo(f"differs: {' '.join(line.split())}")


def _interval(row: TableRow) -> str:
    if row.low is None and row.high is None:
        return ""
    low, high = ("..." if end is None else _number(end, row.unit) for end in (row.low, row.high))
    return f"{low} to {high}"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if float(value).is_integer() and unit != "%":
        return f"{int(value):,} {unit}".strip()
    return f"{value:,.2f} {unit}" if unit else f"{value:.4g}"
