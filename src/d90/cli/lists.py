"""`d90 tasks | methods`: what names there are, and what a method costs on a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from d90.cli.options import echo, two_columns


def tasks() -> None:
    """List the forms a task's name takes, the kinds of task, and the models."""
    from d90.models.loading import MODELS
    from d90.tasks.kinds import find_kind, kind_names
    from d90.tasks.names import LOADERS, TASKS

    others = [name for name in LOADERS if name not in TASKS]
    two_columns("tasks", TASKS | {name: (LOADERS[name].__doc__ or "registered").splitlines()[0] for name in others})
    two_columns(
        "kinds of task, guessed from the columns or named with --kind", {n: find_kind(n).summary for n in kind_names()}
    )
    two_columns("models", MODELS)


def methods(
    given: Annotated[list[str] | None, typer.Argument(help="Methods to count; all at their defaults if none.")] = None,
    model: Annotated[str | None, typer.Option(help="Count what they train, store and add on this model.")] = None,
    outputs: Annotated[int, typer.Option(help="Classes of the head, for the counts.")] = 2,
) -> None:
    """List the methods, projections and subspace options; with --model, what each method costs in numbers."""
    from d90.methods import METHODS
    from d90.methods.fields import fields_of
    from d90.projections import PROJECTIONS
    from d90.subspace.options import HEADS, LAYERS, SCALES, STRUCTURES

    if model is not None or given:
        _costs(given or list(METHODS), model or "minilm", outputs)
        return

    def usage(kind: Any) -> str:
        fields = fields_of(kind).values()
        keys = ",".join(f"{field.name}={field.default}" for field in fields if field.default is not None)
        left_open = "".join(f"[,{field.name}=]" for field in fields if field.default is None)
        return f"{kind.name}:{keys}{left_open}" if keys else kind.name

    two_columns("methods, joined by '+'", {usage(kind): _summary(kind) for kind in METHODS.values()})
    projections = ", ".join(f"{kind.name}[:{'|'.join(kind.entry_kinds)}]" for kind in PROJECTIONS.values())
    two_columns(
        "after @, as in full@d=1000,structure=said",
        {
            "d": "how many numbers are trained, lambdas included",
            "structure": " | ".join(STRUCTURES),
            "projection": projections,
            "scale": " | ".join(SCALES),
            "layer": " | ".join(LAYERS),
            "head": " | ".join(HEADS),
            "seed": "of P; the run's seed by default",
        },
    )


def _summary(kind: Any) -> str:
    return f"{kind.summary}; {'merges into the weights' if kind.merges is not False else f'adds {kind.adds}'}"


def _costs(methods: list[str], model: str, outputs: int) -> None:
    from d90.errors import InputError
    from d90.methods import counts, parse
    from d90.models.loading import load
    from d90.training.console import make_table, print_table

    loaded = load(model, outputs)
    table = make_table(f"on {model}, {sum(p.numel() for p in loaded.module.parameters()):,} weights")
    for name in ("method", "weights moved", "of the head", "trained", "stored", "added at inference"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name == "method")
    refused = []
    for text in methods:
        spec = parse(text)
        try:
            applied = spec.method.apply(loaded.module)
        except InputError as error:
            refused.append(f"{text}: {error}")
            continue
        found = counts(spec, applied)
        applied.remove()
        sizes = (found.moved, found.head, found.trained, found.stored)
        table.add_row(text, *map("{:,}".format, sizes), f"{found.added:,}" if found.added else "none")
    print_table(table)
    for line in refused:
        echo(line)
