"""Certificates of Gaussians: the divergence is paid, the draws are told, and a checker of its own refuses what is altered."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from typer.testing import CliRunner

import d90
from d90 import GaussianCertificate, certify, certify_gaussian, certify_language
from d90.analysis import bounds
from d90.analysis.posterior import TEMPERATURES, WIDTHS, Gaussian, best_temperature, catoni_upper, sampled_upper
from d90.certificates import verify_gaussian as checker
from d90.certificates.gaussian import batch_size, check_gaussian
from d90.certificates.posterior import GaussianSpace, draw
from d90.errors import InputError
from d90.projections.philox import gaussians
from tests.certificates.planted import altered, planted_model, random_task
from tests.reference.tiny_causal import tiny_causal, tiny_documents

FILE = Path(checker.__file__)
FAST: dict[str, Any] = {
    "dims": (8, 12), "epochs": 4, "quantise_epochs": 1, "lr": 0.1, "precision": "fp32", "passes": 2,
}  # fmt: skip


def _gaussian(d: int = 20) -> Gaussian:
    generator = torch.Generator().manual_seed(d)
    return Gaussian(0.1 * torch.randn(d, generator=generator), 0.02 + 0.1 * torch.rand(d, generator=generator))


# --- what a Gaussian is worth ------------------------------------------------------------------------------------------


def test_the_divergence_is_that_of_torch_and_the_mean_of_the_draws_log_ratios() -> None:
    q, width = _gaussian(), WIDTHS[3]
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(q.mean.double(), q.sigma.double()), normal(0.0, width)).sum()
    assert q.divergence(width) == pytest.approx(float(expected), rel=1e-9)
    ratios = torch.tensor([q.log_ratio(draw(q, i), width) for i in range(400)])
    assert abs(float(ratios.mean()) - q.divergence(width)) < 4 * float(ratios.std()) / 20
    theta = draw(q, 7)
    of = normal(q.mean.double(), q.sigma.double()).log_prob(theta.double()) - normal(0.0, width).log_prob(
        theta.double()
    )
    assert q.log_ratio(theta, width) == pytest.approx(float(of.sum()), rel=1e-6)
    assert q.divergence(WIDTHS[q.width()]) == min(q.divergence(one) for one in WIDTHS)


def test_a_gaussian_is_read_back_bit_for_bit_and_a_damaged_one_is_refused() -> None:
    q = _gaussian()
    again = Gaussian.from_hex(q.to_hex(), 20)
    assert torch.equal(again.mean, q.mean)
    assert torch.equal(again.sigma, q.sigma)
    for text, d, message in (
        (q.to_hex()[:-2], 20, "truncated"), (q.to_hex(), 19, "truncated"), ("zz", 1, "hex"), ("00" * 8, 1, "above 0"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            Gaussian.from_hex(text, d)


@pytest.mark.parametrize(("error", "n", "bits"), [(0.0, 100, 9.0), (0.013, 30_000, 20.0), (0.13, 3_460, 12.0)])
def test_catonis_bound_is_at_best_the_inverse_of_kl_and_tighter_than_maurers(error: float, n: int, bits: float) -> None:
    """inf over C is kl^-1 (Germain et al. 2009); 16 temperatures come close, and 4 bits are less than ln(2 sqrt n)."""
    best = min(catoni_upper(error, n, 0.001 * 1.01**i, 0.05, bits) for i in range(900))
    assert best == pytest.approx(bounds.occam_kl(error, n, 0.05, bits), rel=1e-3)
    chosen = catoni_upper(error, n, TEMPERATURES[best_temperature(error, n, 0.05, bits + 4)], 0.05, bits + 4)
    assert chosen >= bounds.occam_kl(error, n, 0.05, bits)
    if n > 1_000:
        assert chosen < bounds.pac_bayes_kl(error, n, bits * math.log(2), 0.05)


def test_the_draws_bound_is_the_checkers_and_holds_for_shares_of_unequal_means() -> None:
    generator = numpy.random.default_rng(0)
    means = generator.uniform(0, 0.3, 200)
    missed = 0
    for _ in range(200):
        wrong = generator.binomial(8, means)
        histogram = numpy.bincount(wrong, minlength=9).tolist()
        bound = sampled_upper(histogram, 0.1)
        missed += bound < means.mean()
    assert missed <= 20  # 10 % of 200 at most in expectation; far fewer in truth
    assert bound == pytest.approx(checker.sampled_upper(histogram, -math.log(0.1)), rel=1e-12)
    assert sampled_upper([100, 0], 0.05) == pytest.approx(checker.sampled_upper([100, 0], -math.log(0.05)), rel=1e-12)
    assert 0.02 < sampled_upper([100, 0], 0.05) < 0.06  # 1 - .05^(1/100) = .030 were no stake chosen
    for bad in ([5], [0, 0], [-1, 2]):
        with pytest.raises(InputError, match="histogram"):
            sampled_upper(bad, 0.05)


def test_the_checker_draws_the_same_bits() -> None:
    for d in (1, 3, 4, 129):
        expected = gaussians(0, "posterior", torch.tensor([0]), d)[0].numpy()
        assert numpy.array_equal(checker.first_draw(d), expected)


def test_training_moves_mean_and_sigma_down_their_gradients() -> None:
    """L = (theta - 1)^2 / 2 by its gradient: the mean goes to 1, sigma to where noise and divergence balance."""
    model = torch.nn.Linear(4, 2)
    space = d90.Subspace(model, 6)
    trained = GaussianSpace(space, n=50, temperature=0.5, lr=0.1)
    optimizer = trained.attach(torch.optim.Adam(list(trained.parameters()), lr=0.1))
    for _ in range(120):
        optimizer.zero_grad()
        space.theta.grad = space.theta.detach() - 1
        optimizer.step()
    found = trained.gaussian()
    assert found.mean.mean() == pytest.approx(1.0, abs=0.2)
    weight = 4 / (0.5 * 50)
    square = float((found.mean.square() + found.sigma.square()).mean())
    # noise costs sigma^2 / 2, divergence weight (sigma^2 / (2 width^2) - ln sigma)
    assert float(found.sigma.square().mean()) == pytest.approx(weight / (1 + weight / square), rel=0.5)


# --- the certificate ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gaussian", "draw", "gaussian, prior", "draw, prior"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of random labels, and the predictions behind it."""
    folder = tmp_path_factory.mktemp("gaussian")
    posterior, _, prior = request.param.partition(", ")
    given: dict[str, Any] = {**FAST, "posterior": posterior, "store": folder / "s.sqlite"}
    given |= {"prior": 0.5, "prior_epochs": 1} if prior else {}
    found = certify_gaussian(planted_model("plain"), random_task(), **given)
    found.save(folder / "c.json")
    assert check_gaussian(folder / "c.json", planted_model("plain"), random_task(), folder / "p.npy") == found
    return folder


def test_it_holds_says_what_it_is_and_is_paid_for(folder: Path) -> None:
    body = json.loads((folder / "c.json").read_text())
    found = GaussianCertificate.from_dict(body)
    assert json.loads(json.dumps(found.to_dict())) == body
    assert found.bound >= 0.5  # of coins
    for one in found.candidates:
        if one.payload:
            q, width = Gaussian.from_hex(one.payload, one.d), WIDTHS[one.width]
            worth = q.divergence(width) if found.posterior == "gaussian" else max(0.0, q.log_ratio(draw(q, 0), width))
            assert one.parts["divergence"] == pytest.approx(worth / math.log(2), rel=1e-6, abs=1e-6)
            assert one.bits == pytest.approx(sum(one.parts.values()))
            assert {"width", "temperature", "d"} <= one.parts.keys()
            words = "a randomised predictor: each prediction" if found.posterior == "gaussian" else "drawn once"
            assert words in one.certified
        else:
            assert one.certified.startswith("no change")
    named = {choice.name: choice for choice in found.choices}
    assert ("the Gaussian" if found.posterior == "gaussian" else "the draw") in named
    assert named["rate, epochs, clip, batches"].why.startswith("free" if found.posterior == "gaussian" else "one of")


def test_its_errors_are_those_of_the_draws_by_hand(folder: Path) -> None:
    """Written from the definition: a model of its own for each draw, its examples in the order of the batches."""
    body = json.loads((folder / "c.json").read_text())
    if body["definitions"]["prior"]:
        pytest.skip("a prior is trained by the program itself")
    best, task, model = body["best"], random_task(), planted_model("plain").module
    q = Gaussian.from_hex(best["payload"], best["d"])
    space = d90.Subspace(model, best["d"], seed=0)
    order = list(range(120)) * (2 if body["posterior"] == "gaussian" else 1)
    size, wrong = best["batch"] or 120, 0
    for number, start in enumerate(range(0, len(order), size)):
        chosen = torch.tensor(order[start : start + size])
        with torch.no_grad():
            space.theta.copy_(draw(q, number))
            wrong += int((model(task.train.inputs[chosen]).argmax(dim=1) != task.train.labels[chosen]).sum())
    assert wrong == best["errors"]


def test_the_checker_runs_alone_and_counts_predictions(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(FILE.read_text())
    command = [sys.executable, "-I", "alone.py", str(folder / "c.json"), str(folder / "p.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "errors counted again from" in done.stdout
    rows = numpy.load(folder / "p.npy")
    rows[0, 0] = 1 - rows[0, 0]
    numpy.save(tmp_path / "other.npy", rows)
    with pytest.raises(checker.Refused, match="'errors' says"):
        checker.verify(str(folder / "c.json"), str(tmp_path / "other.npy"))


def test_the_checker_is_one_short_file_that_needs_numpy_alone() -> None:
    tree = ast.parse(FILE.read_text())
    assert len(FILE.read_text().splitlines()) < 300
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy"}


def _shrunk(payload: str) -> str:
    """Another Gaussian, nearer to P."""
    numbers = numpy.frombuffer(bytes.fromhex(payload), dtype="<f4").copy()
    numbers[: len(numbers) // 2] *= 0.5
    return numbers.tobytes().hex()


ALTERED: list[tuple[str, Any, str]] = [
    ("error", lambda found: found - 0.1, "'error' says"),
    ("error_bound", lambda found: found - 0.1, "'error_bound' says"),
    ("bound", lambda found: found - 0.1, "'bound' says"),
    ("best", None, "not a certificate"),
    ("posterior", "message", "'posterior' says"),
    ("certified", "d = 8 numbers in 20 bits", "'certified' says"),
    ("method", "full@d=1000", "'method' says"),
    ("definitions.tried", 2, "parts.tried' says"),
    ("definitions.dims", [8], "'candidates' says"),
    ("definitions.passes", 3, "predictions' says|error_bound' says|batch' says"),
    ("definitions.prior", 0.0, "'candidates' says|parts.change"),
    ("delta", 0.2, "bound' says"),
    ("delta", 0.0, "'delta' says"),
    ("n", lambda found: 2 * found, "predictions' says"),
    ("n", "many", "'delta' says"),
    ("candidates.-1.errors", lambda found: found - 1, "errors' says|error_bound' says|'best' says"),
    ("candidates.-1.bits", lambda found: found - 8, "bits' says|'best' says"),
    ("candidates.-1.parts.divergence", lambda found: found / 2, "divergence' says|'best' says"),
    ("candidates.-1.payload", _shrunk, "divergence' says|'best' says"),
    ("candidates.-1.payload", lambda found: found[:-8], "payload holds|'best' says"),
    ("candidates.-1.payload", "zz", "not written in hex|'best' says"),
    ("candidates.-1.width", 17, "width' says|'best' says"),
    ("candidates.-1.temperature", 99, "temperature' says|'best' says"),
    ("candidates.-1.bound", lambda found: found + 0.01, "bound' says|'best' says"),
    ("candidates.-1.histogram", lambda found: found[::-1] or [1], "histogram' says|errors' says|'best' says"),
    ("candidates", lambda found: found[-1:], "'candidates' says|'best' says"),
]


@pytest.mark.parametrize(("line", "value", "message"), ALTERED, ids=[f"{i} {one[0]}" for i, one in enumerate(ALTERED)])
def test_an_altered_line_is_refused_and_named(
    line: str, value: Any, message: str, folder: Path, tmp_path: Path
) -> None:
    body = json.loads((folder / "c.json").read_text())
    changed = altered(body, line, value)
    nothing = (line == "method" and not body["best"]["payload"]) or (
        line.endswith("passes") and body["posterior"] == "draw"
    )
    if changed == body or nothing:
        pytest.skip("nothing to alter in this kind")
    (tmp_path / "c.json").write_text(json.dumps(changed))
    with pytest.raises(checker.Refused, match=message):
        checker.verify(str(tmp_path / "c.json"))


def test_a_truncated_or_foreign_file_is_refused(folder: Path, tmp_path: Path) -> None:
    text = (folder / "c.json").read_text()
    for cut in (0, 1, 50, len(text) // 2, len(text) - 3):
        (tmp_path / "c.json").write_text(text[:cut])
        with pytest.raises(checker.Refused, match="not a certificate"):
            checker.verify(str(tmp_path / "c.json"))
    for other in ("[]", "{}", "3"):
        (tmp_path / "c.json").write_text(other)
        with pytest.raises(checker.Refused, match="not a certificate"):
            checker.verify(str(tmp_path / "c.json"))


def test_other_data_and_altered_draws_are_refused_by_the_program(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="certifies another set of examples"):
        check_gaussian(folder / "c.json", planted_model("plain"), random_task(n=100))
    body = json.loads((folder / "c.json").read_text())
    body["best"]["errors"] -= 1
    (tmp_path / "c.json").write_text(json.dumps(body))
    with pytest.raises(InputError, match="drawn again"):
        check_gaussian(tmp_path / "c.json", planted_model("plain"), random_task())


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"levels": (3,)}, "it has no levels"),
        ({"form": "betting"}, "it has no levels"),
        ({"passes": 0}, "passes=0"),
        ({"posterior": "laplace"}, "posterior"),
    ],
)
def test_options_that_a_gaussian_does_not_have_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        certify_gaussian(planted_model("plain"), random_task(), store=":memory:", **{**FAST, **given})


def test_documents_have_no_gaussian(tmp_path: Path) -> None:
    base = tiny_causal(tmp_path / "base")
    tiny_documents(tmp_path / "text")
    with pytest.raises(InputError, match="for documents, expected 'message'"):
        certify_language(str(base), f"text:{tmp_path / 'text'}", "lora:r=2@structure=did", posterior="draw")
    with pytest.raises(InputError, match="their bound is in bits per token"):
        certify_gaussian(str(base), f"text:{tmp_path / 'text'}", "lora:r=2@structure=did", store=":memory:")


def test_a_message_is_not_made_of_a_posterior() -> None:
    with pytest.raises(InputError, match=r"d90\.certify_gaussian"):
        certify(planted_model("plain"), random_task(), store=":memory:", posterior="gaussian")


@pytest.mark.parametrize("case", ["dropout at evaluation", "batch statistics", "observer"])
def test_a_model_that_no_gaussian_describes_is_refused_by_name(case: str) -> None:
    with pytest.raises(InputError, match=r"module '|changes while"):
        certify_gaussian(planted_model(case), random_task(), store=":memory:", posterior="draw", **FAST)


def test_random_labels_present_twice_are_refused() -> None:
    with pytest.raises(InputError, match="stand in the prior's part"):
        certify_gaussian(planted_model("plain"), random_task(twice=True), store=":memory:", prior=0.5, **FAST)


def test_another_rate_is_an_alternative_of_a_draw_and_free_for_a_gaussian(tmp_path: Path) -> None:
    """One draw's bound holds for the Gaussian that was trained; a Gaussian's holds for all of them at once."""
    given: dict[str, Any] = {**FAST, "dims": (8,), "epochs": 1, "quantise_epochs": 0}
    for posterior in ("gaussian", "draw"):
        store = tmp_path / f"{posterior}.sqlite"
        certify_gaussian(planted_model("plain"), random_task(), store=store, posterior=posterior, **given)
        again = {**given, "lr": 0.05}
        if posterior == "gaussian":
            certify_gaussian(planted_model("plain"), random_task(), store=store, posterior=posterior, **again)
        else:
            with pytest.raises(InputError, match="shows 2 alternatives"):
                certify_gaussian(planted_model("plain"), random_task(), store=store, posterior=posterior, **again)
    with pytest.raises(InputError, match="shows 2 alternatives"):  # a message beside a Gaussian
        certify(
            planted_model("plain"), random_task(), store=tmp_path / "gaussian.sqlite", dims=(8,), levels=(3,), epochs=1
        )
    given["dims"] = (9,)
    with pytest.raises(InputError, match="shows 2 alternatives"):  # another list of d
        certify_gaussian(planted_model("plain"), random_task(), store=tmp_path / "gaussian.sqlite", **given)


def test_asked_again_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {**FAST, "dims": (8, 8), "epochs": 1, "quantise_epochs": 0, "store": tmp_path / "s.sqlite"}
    found = certify_gaussian(planted_model("plain"), random_task(), **given)
    assert (len(found.candidates), found.parts["d"]) == (1, 0.0)
    monkeypatch.setattr(sys.modules["d90.certificates.gaussian"], "fit", lambda *a, **k: pytest.fail("trained again"))
    assert certify_gaussian(planted_model("plain"), random_task(), **given) == found


def test_draws_share_few_predictions_where_there_are_few() -> None:
    assert [batch_size(n, passes) for n, passes in ((60, 4), (1_500, 4), (30_000, 4))] == [1, 2, 32]


@pytest.mark.slow
def test_command_certifies_a_gaussian_and_checks_it(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from d90.cli.main import app

    monkeypatch.chdir(tmp_path)
    asked = [
        "certify",
        "mlp:16-8-3",
        f"idx:{digits}",
        "--dims",
        "10",
        "--epochs",
        "1",
        "--quantise-epochs",
        "0",
        "--posterior",
    ]
    for posterior, words in (
        ("gaussian", "a randomised predictor: each prediction draws d = 10"),
        ("draw", "drawn once"),
    ):
        given = [*asked, posterior, "--store", f"{posterior}.sqlite", "--out", f"{posterior}.json"]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert words in " ".join(done.output.split())
        for check in (["certify", "--check"], ["verify"]):
            again = CliRunner().invoke(app, [*check, f"{posterior}.json"], catch_exceptions=False)
            assert "holds" in again.output
        again = CliRunner().invoke(
            app, ["verify", f"{posterior}.json", "--data", f"idx:{digits}"], catch_exceptions=False
        )
        assert "with the Gaussian's draws" in " ".join(again.output.split())
    with pytest.raises(InputError, match="expected a model"):
        CliRunner().invoke(app, ["certify", "x.d90", "--posterior", "draw"], catch_exceptions=False)
