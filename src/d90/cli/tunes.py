"""`d90 train | predict | evaluate | inspect`: one tune, made, used and looked at."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.expand import expanded
from d90.cli.options import (
    MethodOpt,
    MetricOpt,
    ModelArg,
    TaskArg,
    TextOpt,
    check_task,
    echo,
    make_notices,
    make_progress,
    two_columns,
)
from d90.errors import InputError
from d90.options import TaskOptions, TrainingOptions, fields_of
from d90.training.trackers import TrackerOptions
from d90.trials.options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from d90.training.result import Forgotten

CheckpointOpt = Annotated[float, typer.Option(help=fields_of(RunOptions)["checkpoint_minutes"].help)]


@expanded()
def train(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    method: MethodOpt = "full",
    d: Annotated[int | None, typer.Option("--d", "-d", help="Train in a subspace of this many numbers.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The tune to write; its recipe goes beside it.")] = Path(
        "runs/task.d90"
    ),
    data: TaskOptions = TaskOptions(),
    training: TrainingOptions = TrainingOptions(lr="default"),
    dtype: Annotated[str, typer.Option(help="What theta is stored in: fp32, bf16 or int8.")] = "fp32",
    trackers: TrackerOptions = TrackerOptions(),
    checkpoint_minutes: CheckpointOpt = RunOptions.checkpoint_minutes,
) -> None:
    """Fine-tune a model and write the tune."""
    from d90.tasks.metrics import to_display
    from d90.training.loop import train_to_file
    from d90.training.request import TrainingRequest

    with trackers.tracking(make_progress()) as progress:
        asked = TrainingRequest(model, task, method, d, training, data)
        result = train_to_file(asked, out, dtype=dtype, progress=progress, checkpoint_minutes=checkpoint_minutes)
    outcome = result.outcome
    metric = result.task.metric
    score, untrained = to_display(outcome.score, metric), to_display(outcome.zero_score, metric)
    echo(
        f"{result.task.metric_name} {score:.4f} (the best of {len(outcome.curve)} looks, at step {outcome.best.step} of {outcome.steps}; "
        f"untrained {untrained:.4f}){_perplexity(result.task.kind.generative, outcome.best.loss)}, {outcome.trained:,} numbers trained of "
        f"{outcome.D:,} weights, {outcome.seconds:.0f} s"
    )
    _echo_forgotten(outcome.forgetting)
    sizes = result.counts
    added = f"{sizes.added:,} weights ({sizes.adds})" if sizes.added else "nothing: it merges into the weights"
    echo(
        f"stored {sizes.stored:,} numbers, {sizes.head:,} of the moved weights are the head's; at inference it adds {added}"
    )
    echo(f"wrote {out} ({out.stat().st_size:,} bytes) and {out.with_suffix('.json').name}")


def _show_harness(tune: Path, harness: str, limit: int | None) -> None:
    from d90.integrations.harness import run_harness

    names = [name.strip() for name in harness.split(",") if name.strip()]
    if not names:
        raise InputError("got --harness without a task, expected names of lm-eval's or task files, joined by commas")
    if limit is not None and limit < 1:
        raise InputError(f"got --limit {limit}, expected at least 1")
    for one in run_harness(tune, names, limit):
        errors = ("" if error is None else f" ± {error:.4f}" for error in (one.base_error, one.tune_error))
        base, tuned = (f"{value:.4f}{error}" for value, error in zip((one.base, one.tune), errors, strict=True))
        echo(f"{one.task}, {one.metric}: base {base}, tune {tuned}")


def _echo_forgotten(found: Sequence[Forgotten]) -> None:
    for one in found:
        echo(
            f"forgets {one.mean:.4f} nats a token of {one.on} (standard error {one.error:.4f}, {one.count} texts, paired with the base)"
        )


def _perplexity(generative: bool, loss: float) -> str:
    """Of a language model."""
    return f", perplexity {math.exp(min(loss, 700.0)):.4g}" if generative else ""


def predict(
    tune: Annotated[Path, typer.Argument(help="A tune written by 'd90 train'.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; for pairs two at a time, for choices a question and its choices.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="A table as 'd90 train' reads it, or text with an example a line (pairs: a tab between).",
        ),
    ] = None,
    text: TextOpt = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this .jsonl, .csv or .txt file.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="lines, jsonl or csv; by --out's ending, else lines.")
    ] = None,
) -> None:
    """Predict with a finished tune: a line for each text, label and probability first; JSONL and CSV hold every class's."""
    from d90.cli.predictions import format_of, lines_of
    from d90.files import check_output, write_text
    from d90.tasks.columns import Columns
    from d90.tasks.readers import check_regular

    if bool(texts) == bool(file):
        raise InputError("expected either texts or --file, and one of them")
    form = format_of(form, out)
    check_output(out, tune, file)
    if file is not None:
        check_regular(file)

    from d90.tasks.examples import Examples, read_examples  # torch, once nothing that needs none is wrong
    from d90.training.loading import open_tune
    from d90.training.record import read_record

    record = read_record(tune)
    kind, width = record.kind, max(1, record.task.texts)
    shown = kind.shown
    if file is not None:
        given_columns = record.recipe.columns
        named = text or given_columns.get("text") or given_columns.get("prompt") or (shown if shown != "text" else None)
        found = read_examples(file, Columns(named), width, type(kind))
    else:
        given = texts or []
        if len(given) % width:
            raise InputError(
                f"got {len(given)} texts, expected them {'two' if width == 2 else width} at a time, as in training"
            )
        cut = [tuple(given[i : i + width]) for i in range(0, len(given), width)]
        found = Examples(cut, [""] * len(cut))
    described = open_tune(tune, make_notices()).describe(found.texts)
    lines = lines_of(form, found.texts, found.places, described, shown)
    if out is None:
        for line in lines:
            echo(line)
    else:
        write_text(out, "".join(f"{line}\n" for line in lines))
        echo(f"wrote {out}: {len(found.texts):,} predictions")


def evaluate(
    tune: Annotated[Path, typer.Argument(help="A tune written by 'd90 train'.")],
    task: Annotated[str | None, typer.Option(help="Another task with the same labels.", callback=check_task)] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    metric: MetricOpt = None,
    forgetting: Annotated[
        bool, typer.Option("--forgetting", help="Of a language model: what the tune forgets of text its base writes.")
    ] = False,
    keep: Annotated[str | None, typer.Option(help="What it forgets of this task's text, as text:PATH.")] = None,
    harness: Annotated[
        str | None,
        typer.Option(
            help="Tasks of lm-eval (d90[harness]) or task files, joined by commas: base and tune side by side instead."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="With --harness: examples of each task at most.")] = None,
) -> None:
    """Score a finished tune on a split of its task, or of another."""
    from d90.training.loading import open_tune

    if harness is not None:
        _show_harness(tune, harness, limit)
        return
    tuned = open_tune(tune, make_notices(), forgetting=forgetting, keep=keep)
    echo(str(tuned.evaluate(task, split, metric)))
    _echo_forgotten(tuned.forgotten())


def inspect(
    tune: Annotated[Path, typer.Argument(help="A tune written by 'd90 train' or space.save().")],
) -> None:
    """Show what a tune's file is; reads the file alone, and checks all of it."""
    from d90.subspace import file as files

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
    lacks = {1: "without a checksum of the file; ", 2: ""}.get(about.format)
    rows["format"] = f"{about.format}" + (f" ({lacks}base: of its weights alone)" if lacks is not None else "")
    two_columns(str(tune), rows)
