"""The checker of certificates: alone, of the same mind as the program, and deaf to altered ones."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from typer.testing import CliRunner

from d90 import certify
from d90.analysis import bounds, coding
from d90.certificates import verify as checker
from d90.certificates import verify_gaussian as gaussian_checker
from d90.certificates.certificate import BaseCertificate
from d90.certificates.classification import Certificate, check
from d90.certificates.drawn import GaussianCertificate
from d90.certificates.language import LanguageCertificate, certify_language, check_language
from d90.errors import InputError
from tests.certificates.planted import altered, planted_model, random_task
from tests.reference.tiny_causal import tiny_causal, tiny_documents

FILE = Path(checker.__file__)
RESULTS = Path(__file__).parents[2] / "docs" / "results"
FAST: dict[str, Any] = {
    "dims": (12, 30),
    "levels": (3, 5),
    "epochs": 4,
    "quantise_epochs": 1,
    "lr": 0.1,
    "precision": "fp32",
}


def test_the_verifier_is_one_short_file_that_needs_numpy_alone() -> None:
    text = FILE.read_text()
    assert len(text.splitlines()) < 300
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    imported |= {
        str(node.module).split(".")[0] for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)
    }
    assert imported - sys.stdlib_module_names == {"numpy"}


@pytest.mark.parametrize("levels", [1, 2, 3, 9, 40])
@pytest.mark.parametrize("model", ["adaptive", "static"])
def test_its_decoder_reads_what_the_encoder_wrote(levels: int, model: Any) -> None:
    generator = torch.Generator().manual_seed(levels)
    for d in (1, 2, 17, 300):
        vector = torch.randn(d, generator=generator) ** 3
        for quantised in (
            coding.kmeans(vector, levels),
            coding.kmeans(vector, levels, "fp16"),
            coding.uniform(vector, 0.7),
            coding.shared(vector, levels),
        ):
            written = coding.encode(quantised, model)
            symbols, count, lengths = checker.decode(written.payload)
            assert symbols == quantised.symbols.tolist()
            assert count == len(quantised.values)
            assert lengths == [written.header, written.codebook, written.symbols]
            for changed in (written.payload[:-1], written.payload + b"\0", b"", written.payload[::-1]):
                with pytest.raises(checker.Refused, match="payload"):
                    checker.decode(changed)


@pytest.mark.parametrize(
    ("errors", "n", "bits"), [(0, 50, 0.0), (3, 60, 1.0), (475, 3_460, 1.0), (2_232, 60_000, 2_101.0), (60, 60, 9.0)]
)
def test_its_bounds_are_the_programs(errors: int, n: int, bits: float) -> None:
    found = checker.binomial_upper(errors, n, checker.price(0.05, bits))
    assert found == pytest.approx(bounds.binomial_upper(errors, n, 0.05, bits), rel=1e-9)
    assert checker.kl_upper(errors / n, checker.price(0.05, bits) / n) == pytest.approx(
        bounds.occam_kl(errors / n, n, 0.05, bits), rel=1e-9
    )


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of a classifier, and the predictions behind it."""
    folder = tmp_path_factory.mktemp("errors")
    certify(planted_model("plain"), random_task(), store=folder / "s.sqlite", **FAST).save(folder / "c.json")
    check(folder / "c.json", planted_model("plain"), random_task(), folder / "p.npy")
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of a language model that evaluated a part, and each document's bits per token."""
    folder = tmp_path_factory.mktemp("documents")
    tiny_causal(folder / "base")
    tiny_documents(folder / "text")
    given = {**FAST, "dims": (8,), "levels": (3,), "evaluated": 60, "store": folder / "s.sqlite"}
    certify_language(str(folder / "base"), f"text:{folder / 'text'}", "lora:r=2@structure=did", **given).save(
        folder / "c.json"
    )
    check_language(folder / "c.json", out=folder / "p.npy")
    return folder


@pytest.mark.parametrize("kind", ["errors", "documents"])
def test_the_verifier_runs_alone_and_counts_predictions(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(kind)
    (tmp_path / "verify.py").write_text(FILE.read_text())
    command = [sys.executable, "-I", "verify.py", str(folder / "c.json"), str(folder / "p.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "bits counted from the message" in done.stdout
    assert "counted again from" in done.stdout
    rows = numpy.load(folder / "p.npy")
    if kind == "errors":
        wrong = int((rows[:, 0] == rows[:, 1]).argmax())
        rows[wrong, 0] = 1 - rows[wrong, 0]
    else:
        rows[0] += 1.0
    numpy.save(tmp_path / "other.npy", rows)
    refused = subprocess.run(
        [*command[:-1], str(tmp_path / "other.npy")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("refused: 'errors' says" if kind == "errors" else "refused: 'mean' says")


def _flipped(payload: str) -> str:
    return payload[:6] + f"{int(payload[6], 16) ^ 1:x}" + payload[7:]


ALTERED: list[tuple[str, str, Any, str]] = [
    ("errors", "errors", lambda found: found - 1, "'errors' says"),
    ("errors", "best.errors", lambda found: found - 1, "'errors' says"),
    ("errors", "bound", lambda found: found - 0.01, "'bound' says"),
    ("errors", "candidates.0.bound", lambda found: found + 0.01, r"'candidates\[0\].bound' says|'best' says"),
    ("errors", "candidates.0.parts.header", lambda found: found - 1, r"'candidates\[0\].parts.header' says|'best' says"),
    ("errors", "candidates.1.bits", lambda found: found - 8, r"'candidates\[1\].bits' says|'best' says"),
    ("errors", "candidates.1.payload", _flipped, "CRC-32|'best' says"),
    ("errors", "candidates.1.payload", lambda found: found[:-2], "CRC-32|'best' says"),
    ("errors", "candidates.1.payload", "zz", "not written in hex|'best' says"),
    ("errors", "candidates.1.payload", "", "expected a message|'best' says"),
    ("errors", "candidates", lambda found: [min(found, key=lambda one: one["bound"])], "'candidates' says"),
    ("errors", "n", lambda found: 2 * found, "bound' says"),
    ("errors", "delta", 0.2, "bound' says"),
    ("errors", "delta", 0.0, "'delta' says"),
    ("errors", "definitions.tried", 2, "parts.tried' says"),
    ("errors", "definitions.prior", 0.5, "'candidates' says|change or none"),
    ("errors", "method", lambda found: found.replace("d=", "d=1"), "'method' says"),
    ("errors", "certified", "d = 1 numbers in 2 bits", "'certified' says"),
    ("errors", "best", None, "not a certificate"),
    ("errors", "n", "many", "'delta' says|not a certificate"),
    ("documents", "mean", lambda found: found - 0.1, "'mean' says"),
    ("documents", "definitions.among", 8, "'definitions.among' says"),
    ("documents", "evaluated", 200, "bound' says"),
    ("documents", "vocabulary", 6, "bound' says"),
    ("documents", "alpha", 0.5, "'alpha' says"),
    ("documents", "candidates.0.losses", {}, "not a certificate|'best' says"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "line", "value", "message"),
    ALTERED,
    ids=[f"{kind} {line} {i}" for i, (kind, line, *_) in enumerate(ALTERED)],
)
def test_an_altered_line_is_refused_and_named(
    kind: str, line: str, value: Any, message: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    body = json.loads((request.getfixturevalue(kind) / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(altered(body, line, value)))
    with pytest.raises(checker.Refused, match=message):
        checker.verify(str(tmp_path / "c.json"))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "{}", '{"majority": 1}', '{"majority": NaN}', '{"majority": 1, "vocabulary": 2}', "\xff"]
)
def test_what_is_no_certificate_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(checker.Refused, match="not a certificate"):
        checker.verify(str(tmp_path / "c.json"))


def test_a_truncated_certificate_is_refused(errors: Path, tmp_path: Path) -> None:
    text = (errors / "c.json").read_text()
    for cut in range(0, len(text) - 2, 97):
        (tmp_path / "c.json").write_text(text[:cut])
        with pytest.raises(checker.Refused):
            checker.verify(str(tmp_path / "c.json"))


def test_verify_command_runs_the_model_again(documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from d90.cli.main import app

    monkeypatch.chdir(tmp_path)
    asked = ["verify", str(documents / "c.json"), "--data", f"text:{documents / 'text'}", "--out", "p.npy"]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0
    assert "bits per token measured again on 60 documents" in done.output
    again = CliRunner().invoke(
        app, ["verify", str(documents / "c.json"), "--predictions", "p.npy"], catch_exceptions=False
    )
    assert "counted again from 60 documents" in again.output
    other = (documents / "text" / "train.txt").read_text().replace("c", "b")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text(other)
    (tmp_path / "text" / "validation.txt").write_text(other)
    with pytest.raises(InputError, match="certifies another set of documents"):
        CliRunner().invoke(app, [*asked[:3], f"text:{tmp_path / 'text'}"], catch_exceptions=False)
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="is refused: not a certificate"):
        CliRunner().invoke(app, ["verify", "c.json"], catch_exceptions=False)
    with pytest.raises(InputError, match=r"no such file: 'none\.json'"):
        CliRunner().invoke(app, ["verify", "none.json"], catch_exceptions=False)
    with pytest.raises(InputError, match="without --data"):
        CliRunner().invoke(app, ["verify", "c.json", "--out", "p.npy"], catch_exceptions=False)


def _checker_of(path: Path) -> ModuleType:
    return gaussian_checker if "posterior" in json.loads(path.read_text(encoding="utf-8")) else checker


STORED = sorted(RESULTS.glob("certify_*.json"))


def test_there_are_stored_certificates() -> None:
    assert {"certify_mnist", "certify_sst2_prior", "certify_stories"} <= {path.stem for path in STORED}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_certificate_verifies_and_stands_in_the_table(path: Path) -> None:
    body = json.loads(path.read_text(encoding="utf-8"))
    lines = _checker_of(path).verify(str(path))
    assert lines[0].startswith(f"{body['bits']:g} bits ")
    assert lines[1] == f"bound {body['bound']:.6f} computed again from n = {body['n']:,}"
    shown = f"{body['bound']:.2%}" if "majority" in body else f"{body['bound']:.3f}"
    row = next(
        line for line in (RESULTS / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| [{path.stem}]({path.name}) |")
    )  # fmt: skip
    assert shown in row
    assert (f"d = {body['best']['d']:,} numbers" if body["best"]["payload"] else "no change") in row


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_certificate_with_a_lower_bound_is_refused(path: Path, tmp_path: Path) -> None:
    body = json.loads(path.read_text(encoding="utf-8"))
    best = {**body["best"], "bound": 0.9 * body["best"]["bound"]}
    among = [best if one == body["best"] else one for one in body["candidates"]]
    (tmp_path / "c.json").write_text(json.dumps({**body, "bound": best["bound"], "best": best, "candidates": among}))
    of_its_kind = _checker_of(path)
    with pytest.raises(of_its_kind.Refused, match=r"'candidates\[\d+\]\.bound' says"):
        of_its_kind.verify(str(tmp_path / "c.json"))


RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("certify*.json")), ids=lambda path: path.stem)
def test_certificates_of_earlier_versions_are_read_and_say_the_same(path: Path) -> None:
    body = json.loads(path.read_text())
    kind: type[BaseCertificate[Any]] = LanguageCertificate if "vocabulary" in body else Certificate
    kind = GaussianCertificate if "posterior" in body else kind
    found = json.loads(json.dumps(kind.from_dict(body).to_dict()))
    for name, value in body.items():
        assert found[name] == (value | {"copies": "refuse"} if name == "definitions" else value), name
