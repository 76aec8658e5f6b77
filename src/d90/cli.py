"""The command line: each command parses, calls one public function, and prints.

Exit status 0 on success; 2 for what the user got wrong, in one line; 1 for a failed run or machine; 130 when
interrupted.
"""

from __future__ import annotations

import errno
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d90._version import __version__
from d90.errors import D90Error, InputError, RunFailed

if TYPE_CHECKING:
    from d90.measure import Measurement
    from d90.progress import Progress

__all__ = ["app", "main"]

# the usage error of the click that typer brings or uses: its own copy since 0.2x, the package before
_UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="How few parameters a fine-tune really needs: measure it, train in exactly that many, store it in under a kilobyte.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelArg = Annotated[str, typer.Argument(help="minilm, fc, lenet, mlp:WIDTHS, a hub name or a local folder.")]
TaskArg = Annotated[str, typer.Argument(help="docstrings, glue/NAME, a file or folder, idx:FOLDER, or a hub dataset.")]
MethodOpt = Annotated[str, typer.Option("--method", "-m", help="What moves: method[:key=value,...][@key=value,...].")]
TextOpt = Annotated[str | None, typer.Option("--text", help="Text column, or two joined by a comma.")]
LabelOpt = Annotated[str | None, typer.Option("--label", help="Label column.")]
MetricOpt = Annotated[str | None, typer.Option("--metric", help="accuracy, f1, matthews, pearson or spearman.")]
KindOpt = Annotated[str | None, typer.Option("--kind", help="classification or regression; guessed by default.")]
LrOpt = Annotated[float | None, typer.Option("--lr", help="Adam's learning rate; the method's default if not given.")]
EpochsOpt = Annotated[float, typer.Option("--epochs", help="Passes over the training split.")]
BatchOpt = Annotated[int, typer.Option("--batch-size", help="Examples in a batch.")]
EvaluationsOpt = Annotated[int, typer.Option("--evaluations", help="Evaluations in a run.")]
SeedOpt = Annotated[int, typer.Option("--seed", help="Seed of fresh weights, order, dropout and P.")]
LimitOpt = Annotated[int | None, typer.Option("--train-limit", help="Train on the first N examples.")]
ValidationOpt = Annotated[int | None, typer.Option("--validation-limit", help="Evaluate on the first N examples.")]
LengthOpt = Annotated[int | None, typer.Option("--max-length", help="Cut texts to N tokens.")]
PrecisionOpt = Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")]
StoreOpt = Annotated[Path, typer.Option("--store", help="The SQLite file trials are kept in.")]


def _options(
    text: str | None, label: str | None, metric: str | None, kind: str | None, **recipe: Any
) -> dict[str, Any]:
    """Fields of a Recipe; columns only where they were given."""
    columns = {"text": text, "label": label, "metric": metric, "kind": kind}
    return {**recipe, "columns": {key: value for key, value in columns.items() if value is not None}}


@app.command()
def measure(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    method: MethodOpt = "full",
    rule: Annotated[str, typer.Option(help="paper: 90 % of the score; gain: 90 % of the way from chance.")] = "paper",
    fraction: Annotated[float, typer.Option(help="The share of the baseline to reach.")] = 0.9,
    dims: Annotated[str, typer.Option(help="Values of d to try besides, joined by commas.")] = "",
    low: Annotated[int | None, typer.Option(help="Smallest d to try.")] = None,
    high: Annotated[int | None, typer.Option(help="Largest d to try.")] = None,
    start: Annotated[int, typer.Option(help="The d the search starts at.")] = 256,
    resolution: Annotated[float, typer.Option(help="Stop when the bracket's ends are within this ratio.")] = 1.1,
    seeds: Annotated[int, typer.Option(help="Trials for each d; more than half must pass.")] = 1,
    full_curve: Annotated[bool, typer.Option("--full-curve", help="Do not stop trials that have passed.")] = False,
    baseline: Annotated[str, typer.Option(help="The method that counts as full, or a number.")] = "full",
    baseline_lr: Annotated[float | None, typer.Option(help="The baseline's learning rate.")] = None,
    baseline_epochs: Annotated[float | None, typer.Option(help="The baseline's epochs.")] = None,
    text: TextOpt = None,
    label: LabelOpt = None,
    metric: MetricOpt = None,
    kind: KindOpt = None,
    lr: LrOpt = None,
    epochs: EpochsOpt = 3,
    batch_size: BatchOpt = 32,
    evaluations: EvaluationsOpt = 6,
    seed: SeedOpt = 0,
    train_limit: LimitOpt = None,
    validation_limit: ValidationOpt = None,
    max_length: LengthOpt = None,
    precision: PrecisionOpt = "auto",
    store: StoreOpt = Path("runs/d90.sqlite"),
    page: Annotated[Path | None, typer.Option(help="The HTML page; beside the store by default.")] = None,
    log: Annotated[Path | None, typer.Option(help="Append one JSON line for each trial as it ends.")] = None,
) -> None:
    """Measure d90: the smallest d whose fine-tune reaches 90 % of full fine-tuning."""
    from d90 import report
    from d90.measure import measure as run
    from d90.sweep.store import Store

    tried = _numbers(dims)
    given: str | float = float(baseline) if _is_number(baseline) else baseline
    opened = Store(store)
    result = run(
        model,
        task,
        method,
        rule=rule,
        fraction=fraction,
        store=opened,
        full_curve=full_curve,
        dims=tried,
        low=low,
        high=high,
        start=start,
        resolution=resolution,
        seeds=seeds,
        baseline=given,
        baseline_lr=baseline_lr,
        baseline_epochs=baseline_epochs,
        command=shlex.join(["d90", *sys.argv[1:]]),
        log=log,
        progress=_progress(),
        **_options(
            text,
            label,
            metric,
            kind,
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            evaluations=evaluations,
            seed=seed,
            train_limit=train_limit,
            validation_limit=validation_limit,
            max_length=max_length,
            precision=precision,
        ),
    )
    written = report.write_report(opened, page or store.with_suffix(".html"))
    _show(result)
    typer.echo(f"\n{result}\npage: {written}")


@app.command()
def train(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    method: MethodOpt = "full",
    d: Annotated[int | None, typer.Option("--d", "-d", help="Train in a subspace of this many numbers.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The tune to write; its recipe goes beside it.")] = Path(
        "runs/task.d90"
    ),
    text: TextOpt = None,
    label: LabelOpt = None,
    metric: MetricOpt = None,
    kind: KindOpt = None,
    lr: LrOpt = None,
    epochs: EpochsOpt = 3,
    batch_size: BatchOpt = 32,
    evaluations: EvaluationsOpt = 6,
    seed: SeedOpt = 0,
    train_limit: LimitOpt = None,
    validation_limit: ValidationOpt = None,
    max_length: LengthOpt = None,
    precision: PrecisionOpt = "auto",
) -> None:
    """Fine-tune a model and write the tune."""
    from d90.training import train as run

    if out.suffix == ".json":
        raise InputError(f"got --out {out}, expected another ending such as .d90: the recipe takes the .json beside it")
    options = _options(
        text,
        label,
        metric,
        kind,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        evaluations=evaluations,
        seed=seed,
        train_limit=train_limit,
        validation_limit=validation_limit,
        max_length=max_length,
        precision=precision,
    )
    result = run(model, task, method, d, progress=_progress(), **options)
    outcome = result.outcome
    if outcome.status == "diverged":
        raise RunFailed(
            f"the loss was not finite at step {outcome.steps}; nothing was saved. Lower --lr ({outcome.lr:g})"
        )
    result.save(out)
    typer.echo(
        f"{result.task.metric} {outcome.score:.4f} (untrained {outcome.zero_score:.4f}), {outcome.trained:,} numbers trained of "
        f"{outcome.D:,} weights, {outcome.seconds:.0f} s"
    )
    typer.echo(f"wrote {out} ({out.stat().st_size:,} bytes) and {out.with_suffix('.json').name}")


@app.command()
def predict(
    tune: Annotated[Path, typer.Argument(help="A tune written by 'd90 train'.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; for pairs, two at a time.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A text file with an example a line (pairs: a tab between).")
    ] = None,
) -> None:
    """Predict with a finished tune: a line for each text, label and probability first."""
    from d90.finished import open_tune

    if bool(texts) == bool(file):
        raise InputError("expected either texts or --file, and one of them")
    tuned = open_tune(tune)
    width = max(1, tuned.record["task"]["texts"])
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise InputError(f"no such file: '{file}'") from None
        except UnicodeDecodeError as error:
            raise InputError(f"'{file}': broken UTF-8 at byte {error.start}; save the file as UTF-8") from None
        examples = [tuple(line.split("\t")) if width > 1 else (line,) for line in lines if line.strip()]
        if not examples:
            raise InputError(f"'{file}': empty, expected an example a line")
    else:
        given = texts or []
        if len(given) % width:
            raise InputError(f"got {len(given)} texts, expected them two at a time: this tune was trained on pairs")
        examples = [tuple(given[i : i + width]) for i in range(0, len(given), width)]
    for (answer, value), example in zip(tuned.predict(examples), examples, strict=True):
        shown = f"{answer}\t{value:.4f}" if tuned.labels else answer
        typer.echo(f"{shown}\t" + "\t".join(example))


@app.command()
def evaluate(
    tune: Annotated[Path, typer.Argument(help="A tune written by 'd90 train'.")],
    task: Annotated[str | None, typer.Option(help="Another task with the same labels.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
) -> None:
    """Score a finished tune on a split of its task, or of another."""
    from d90.finished import open_tune

    scored = open_tune(tune).evaluate(task, split)
    typer.echo(
        f"{scored.metric} {scored.score:.4f}, loss {scored.loss:.4f} on {scored.count} {scored.split} examples of {scored.task}"
    )


@app.command()
def inspect(
    tune: Annotated[Path, typer.Argument(help="A tune written by 'd90 train' or space.save().")],
) -> None:
    """Show what a tune's file is; reads the file alone, and checks all of it."""
    from d90 import tune as files

    header, tensors = files.read(tune)
    about = files.about(tune)
    rows = {"method": "parameters trained as they are" if header.structure == "direct" else "a subspace"}
    rows["d"] = f"{about.count:,}"
    if header.structure != "direct":
        rows |= {"structure": header.structure, "projection": header.projection, "scale": header.scale}
        rows |= {
            "layer": header.layer,
            "head": header.head,
            "seed": str(header.seed),
            "step rule": str(header.step_rule),
        }
        beside = sorted(name for name in tensors if name != "theta")
        rows |= {"beside theta": ", ".join(beside)} if beside else {}
    rows |= {"base": f"{header.base} (fingerprint)", "draws": f"{header.draws} (checksum of P)"}
    rows |= {"recipe": f"{header.recipe} (hash)", "dtype": about.dtype, "bytes": f"{about.bytes:,}"}
    rows["format"] = f"{about.format}" if about.format > 1 else "1 (without a checksum of the file)"
    _two_columns(str(tune), rows)


@app.command()
def tasks() -> None:
    """List the forms a task's name takes, and the models'."""
    from d90.models import MODELS
    from d90.tasks import TASKS

    _two_columns("tasks", TASKS)
    _two_columns("models", MODELS)


@app.command()
def methods() -> None:
    """List the methods, projections and subspace options."""
    from d90.layout import HEADS, LAYERS, SCALES
    from d90.methods import METHODS
    from d90.projections import PROJECTIONS
    from d90.subspace import STRUCTURES

    def usage(kind: Any) -> str:
        keys = ",".join(f"{key}={default}" for key, (_, default) in kind.options.items())
        return f"{kind.name}:{keys}" if keys else kind.name

    _two_columns("methods", {usage(kind): kind.summary for kind in METHODS.values()})
    projections = ", ".join(f"{kind.name}[:{'|'.join(kind.entry_kinds)}]" for kind in PROJECTIONS.values())
    _two_columns(
        "behind @, as in full@d=1000,structure=said",
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


@app.command()
def report(
    store: StoreOpt = Path("runs/d90.sqlite"),
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML page; beside the store by default.")] = None,
) -> None:
    """Write the page of everything measured in a store."""
    from d90 import report as pages
    from d90.sweep.store import Store

    if not store.is_file():
        raise InputError(f"no store at '{store}'; run 'd90 measure' first, or name one with --store")
    typer.echo(f"page: {pages.write_report(Store(store), out or store.with_suffix('.html'))}")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"d90 {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; an error is one line on standard error."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except D90Error as error:
        _fail(str(error), 2)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except _UsageError as error:
        _fail(f"{error.format_message()} Run 'd90 --help', or 'd90 COMMAND --help'.", 2)
    except RunFailed as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; finished trials are stored, and the same command goes on from them", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        _fail(f"{error.strerror}: {error.filename or 'while writing'}; trials stored before are safe", 1)


def _fail(message: str, status: int) -> None:
    print(f"d90: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _progress() -> Progress:
    from d90.console import progress_for

    return progress_for(sys.stdout.isatty())


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = next((part for part in parts if not part.isdecimal()), None)
    if wrong is not None:
        raise InputError(f"got '{wrong}' among --dims, expected whole numbers joined by commas, as in 100,1000")
    return [int(part) for part in parts]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _two_columns(title: str, rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    typer.echo(f"{title}:")
    for name, meaning in rows.items():
        typer.echo(f"  {name:<{width}}  {meaning}")


def _show(result: Measurement) -> None:
    from rich.table import Table

    from d90.console import console

    table = Table(title=f"{result.model} on {result.task}: {result.metric} against d")
    for name in ("d", "seed", "score", "", "seconds"):
        table.add_column(name, justify="right" if name else "left")
    for point in sorted(result.curve, key=lambda p: (p.d, p.seed)):
        sign = ">= " if point.at_least else ""
        word = "diverged" if point.status == "diverged" else "pass" if point.score >= result.threshold else "fail"
        table.add_row(str(point.d), str(point.seed), f"{sign}{point.score:.4f}", word, f"{point.seconds:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
