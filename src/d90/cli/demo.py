"""`d90 demo`: a first answer, of a small network on digits that d90 draws itself, and what to do with it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.options import SeedOpt, command_line, echo, make_progress
from d90.files import write_bytes

if TYPE_CHECKING:
    from d90.results.measure import Measurement

MODEL, TASK = "mlp:256-64-64-10", "digits"
BUDGET, EPOCHS = 12.0, 10.0  # chosen by measurement: docs/decisions.md
DIGIT = 7  # of the picture that is shown to the tune


def demo(
    folder: Annotated[Path, typer.Option(help="A folder for the store, the page and the tune.")] = Path("demo"),
    seed: SeedOpt = 0,
    budget: Annotated[
        float, typer.Option(help="As of d90 measure: full fine-tunings' time; more goes on from there.")
    ] = BUDGET,
) -> None:
    """Measure d90 of a small network that learns to read digits: a first answer in a minute or two, without a download."""
    from d90.options import TrainingOptions
    from d90.report.measure import write_report
    from d90.studies.measure import measure
    from d90.trials.options import RunOptions
    from d90.trials.store import Store

    training = TrainingOptions(epochs=EPOCHS, batch_size=50, lr=0.05, evaluations=4, seed=seed)
    echo(f"How many numbers does a network need to read digits? {MODEL} on the task '{TASK}', which is drawn here.")
    store = Store(folder / "d90.sqlite")
    run = RunOptions(store=store, progress=make_progress(), command=command_line())
    result = measure(MODEL, TASK, training=training, run=run, baseline_lr=0.003, start=1000, budget=budget)
    page = write_report(store, folder / "d90.html")
    for line in (*answer_lines(result), *_use(result, folder), *([result.more] if result.more else [])):
        echo(line)
    echo(f"page: {page}")
    echo("on your own data: d90 measure minilm path/to/data, with a column text and a column label")


def answer_lines(result: Measurement) -> list[str]:
    """The answer in a sentence, and what it means."""
    from d90.report.words import headline

    lines = ["", headline(result)]
    if result.d90 is not None:
        lines.append(
            f"That is: of all the directions in which its {result.D:,} weights can move, {result.d90:,} drawn at random are enough for "
            f"{result.fraction:.0%} of what training all of them reaches, in the mean over draws."
        )
    return lines


def _use(result: Measurement, folder: Path) -> list[str]:
    """The tune's file, and what it says of a picture."""
    from d90.tasks import load
    from d90.training.loading import open_tune

    if not result.tune:
        return []
    picture = folder / f"{DIGIT}.png"
    test = load(TASK).test
    assert test is not None
    write_bytes(picture, base64.b64decode(str(test.inputs[DIGIT][0])))
    tuned = open_tune(result.tune)
    (described,) = tuned.describe([(str(picture),)])
    label, share = list(described.values())[:2]
    space = tuned.record.spec.space
    assert space is not None
    size = Path(result.tune).stat().st_size
    return [
        f"the tune: {result.tune}, {space.d:,} numbers in {size:,} bytes, by which d90 rebuilds all {result.D:,} weights",
        f"a prediction: {picture}, a {DIGIT} in a font that it has not seen, is read as {label} ({share:.0%})",
        f"the same again: d90 predict {result.tune} {picture}",
    ]
