"""`d90 verify`: a certificate checked line by line, by a checker that knows nothing of the program that wrote it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from d90.cli.options import echo
from d90.errors import InputError
from d90.files import check_output

__all__ = ["verify"]


def verify(
    certificate: Annotated[Path, typer.Argument(help="A certificate that 'd90 certify' wrote (.json).")],
    data: Annotated[
        str | None,
        typer.Option(help="The task's data: put the decoded message on the model and measure again. As for train."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the model lies now; by default under its name in the certificate.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="A .npy file: (n, 2) of answers and labels, or each document's bits per token; counted again."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="With --data: write what was measured, for --predictions.")
    ] = None,
) -> None:
    """Decode a certificate's message, count its bits and compute its bound again; with --data or --predictions what was measured too.

    The first part is one file that needs numpy alone: python verify.py certificate.json [predictions.npy]; verify_gaussian.py for a
    Gaussian.
    """
    from d90.certificates import verify as message
    from d90.certificates import verify_gaussian as gaussian

    if out is not None and data is None and model is None:
        raise InputError("got --out without --data, expected the data to measure on; give --data")
    check_output(out, certificate, predictions)
    checker: ModuleType = gaussian if _holds_a_gaussian(certificate) else message
    try:
        lines = checker.verify(str(certificate), None if predictions is None else str(predictions))
    except (message.Refused, gaussian.Refused) as error:
        raise InputError(f"'{certificate}' is refused: {error}") from None
    except FileNotFoundError as error:
        raise InputError(f"no such file: '{error.filename}'") from None
    except OSError as error:
        raise InputError(f"'{error.filename}' cannot be read: {error.strerror}") from None
    again = data is not None or model is not None
    if "needs predictions" in lines[1] and not again:
        raise InputError(f"'{certificate}': its {lines[1]}; give --data, or --predictions")
    for line in lines:
        if not ("needs predictions" in line and again):
            echo(line)
    if again:
        echo(_measured_again(certificate, model, data, out))
    echo(f"'{certificate}' holds")


def _holds_a_gaussian(certificate: Path) -> bool:
    import json

    try:
        return "posterior" in json.loads(certificate.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False  # the checker says what is wrong


def _measured_again(certificate: Path, model: str | None, data: str | None, out: Path | None) -> str:
    """The second path: the model runs again."""
    import json

    if _holds_a_gaussian(certificate):
        from d90.certificates.gaussian import check_gaussian

        drawn = check_gaussian(certificate, model, data, out)
        return f"{drawn.best.errors:,} errors counted again on {drawn.best.predictions:,} predictions with the Gaussian's draws"
    if "vocabulary" in json.loads(certificate.read_text(encoding="utf-8")):
        from d90.certificates.language import check_language

        found = check_language(certificate, model, data, out)
        return (
            f"{found.mean:.4f} bits per token measured again on {found.evaluated:,} documents with the decoded message"
        )
    from d90.certificates.classification import check

    errors = check(certificate, model, data, out)
    return f"{errors.errors:,} errors counted again on {errors.n:,} examples with the decoded message"
