"""`d90 certify`: a guarantee on the true error, or a language model's bits per token, from the training examples alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d90.cli.expand import expanded
from d90.cli.options import StoreOpt, check_method, check_task, command_line, echo, make_progress
from d90.errors import InputError
from d90.files import check_output
from d90.options import CertificateOptions, TaskOptions, TrainingOptions

if TYPE_CHECKING:
    from d90.certificates.classification import Certificate
    from d90.certificates.drawn import GaussianCertificate
    from d90.certificates.language import LanguageCertificate


@expanded(
    without=("metric", "positive", "validation_limit", "evaluations", "forgetting", "keep", "forget_at_most", "weights")
)
def certify(
    model: Annotated[str, typer.Argument(help="As for train; or a tune that 'd90 train' wrote (.d90).")] = "minilm",
    task: Annotated[
        str | None, typer.Argument(help="As for train; not needed beside a tune.", callback=check_task)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            callback=check_method,
            help="What moves, with a subspace; full@structure=did, for documents lora:r=4,targets=qv@structure=did.",
        ),
    ] = None,
    options: CertificateOptions = CertificateOptions(),
    out: Annotated[Path, typer.Option("--out", "-o", help="The certificate to write.")] = Path("runs/certificate.json"),
    check: Annotated[Path | None, typer.Option(help="Check this certificate against its data instead.")] = None,
    data: TaskOptions = TaskOptions(),
    training: TrainingOptions = TrainingOptions(lr="default", evaluations=1),
    store: StoreOpt = Path("runs/d90.sqlite"),
) -> None:
    """Bound the true error: description length of a tune, its training error, and what a hold-out would have given.

    For a causal language model and documents (text:PATH, lines:PATH), or conversations, the bound is on bits per token; of conversations
    the answers' tokens count, and what stands before them is given. With --posterior gaussian what is certified is a randomised predictor.
    """
    if check is not None:
        _check(check)
        return
    check_output(out, store)
    tune = model.endswith(".d90")
    documents = not tune and task is not None and _of_documents(task, data)
    study: Callable[..., Certificate | LanguageCertificate | GaussianCertificate]
    if options.posterior != "message":
        from d90.certificates.gaussian import certify_gaussian as study

        if tune:
            raise InputError(
                f"got a tune and --posterior {options.posterior}, expected a model: the Gaussian is trained"
            )
    elif documents:
        from d90.certificates.language import certify_language as study
    else:
        from d90.certificates.classification import certify as study
    result = study(
        model,
        task if task or tune else "docstrings",
        **({"method": method} if method else {}),
        options=options,
        training=training,
        data=data,
        store=store,
        progress=make_progress(),
        command=command_line(),
    )
    result.save(out)
    _show(result)
    echo(f"certificate: {out}")


def _of_documents(task: str, data: TaskOptions) -> bool:
    """Whether a task is of documents or conversations, so that bits per token are bounded and not an error."""
    from d90.tasks import load

    return task.startswith(("text:", "lines:")) or load(task, data=data).kind.generative


def _check(path: Path) -> None:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        documents, drawn = "vocabulary" in body, "posterior" in body
    except (OSError, ValueError, TypeError):
        documents = drawn = False  # the check itself says what is wrong
    if drawn:
        from d90.certificates.gaussian import check_gaussian

        _show(check_gaussian(path))
    elif documents:
        from d90.certificates.language import check_language

        _show(check_language(path))
    else:
        from d90.certificates.classification import check

        _show(check(path))
    found = "bits per token" if documents else "errors"
    echo(f"'{path}' holds: its {'draws give' if drawn else 'message decodes to'} the same {found} and the same bound")


def _show(result: Certificate | LanguageCertificate | GaussianCertificate) -> None:
    from d90.certificates.drawn import DrawnTune, GaussianCertificate
    from d90.certificates.language import LanguageCertificate
    from d90.training.console import make_table, print_table

    form, what, unit = ".2%", "training error", "examples"
    if isinstance(result, LanguageCertificate):
        form, what, unit = ".3f", "bits per token", "documents"
        measured = [one.mean for one in result.candidates]
        usual = f"uniform guess {result.uniform:.3f}"
    else:
        measured = [one.error if isinstance(one, DrawnTune) else one.errors / result.n for one in result.candidates]
        usual = f"majority class {result.majority:.2%}"
    table = make_table(f"{result.model} on {result.task}: {result.n:,} {unit} count")
    for name in ("d", "levels", what, "bits", f"bound, {1 - result.delta:.0%}"):
        table.add_column(name, justify="right")
    for one, mean in zip(result.candidates, measured, strict=True):
        mark = " *" if one == result.best else ""
        numbers = (str(number) if one.payload and number else "-" for number in (one.d, one.levels))
        table.add_row(*numbers, f"{mean:{form}}", f"{one.bits:.0f}", f"{one.bound:{form}}{mark}")
    print_table(table)
    echo(f"\ncertified: {result.certified}")
    echo(str(result))
    if isinstance(result, GaussianCertificate) and result.posterior == "gaussian" and result.best.payload:
        draws = -(-result.best.predictions // result.best.batch)
        echo(f"training error of the predictor: at most {result.error_bound:.2%}, from {draws:,} draws")
    echo("bits: " + ", ".join(f"{name} {bits:g}" for name, bits in result.parts.items() if bits))
    better = "the certificate" if result.bound < result.holdout else "the hold-out"
    echo(f"{better} is the smaller bound; {usual}")
    echo("the bound with " + ", ".join(f"{name} {value:{form}}" for name, value in result.tighter.items()))
    echo("it rests on: " + "; ".join(result.assumptions))
    for choice in result.choices:
        echo(f"choice: {choice}")
