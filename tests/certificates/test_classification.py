"""Certificates: the message is the model, every bit is counted, nothing is trained twice, and a false one is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90 import Certificate, certify
from d90.analysis import bounds, coding
from d90.certificates.classification import Candidate, check
from d90.certificates.quantised import QuantisedSpace
from d90.errors import InputError
from d90.models.loading import load
from d90.tasks import Split, Task
from tests.reference.blobs import blobs

SMALL: dict[str, Any] = {"dims": (10, 20), "levels": (3, 5), "epochs": 3, "quantise_epochs": 1, "precision": "fp32"}


def made(store: Path, **options: Any) -> Certificate:
    return certify("mlp:16-32-3", blobs(), "full@structure=did", store=store, **(SMALL | options))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Path]:
    store = tmp_path_factory.mktemp("c") / "s.sqlite"
    return made(store), store


def test_the_bound_is_of_the_decoded_model_and_pays_for_every_bit(certificate: tuple[Certificate, Path]) -> None:
    found, _ = certificate
    task = blobs()
    assert found.n == len(task.train)
    assert len(found.candidates) == 4
    for one in found.candidates:
        quantised = coding.decode(bytes.fromhex(one.payload), one.d)
        assert len(quantised.symbols) == one.d
        assert len(quantised.values) <= one.levels
        assert one.bits == coding.encode(quantised).bits == sum(one.parts.values())
        model = load("mlp:16-32-3", 3).module
        space = d90.Subspace(model, one.d)
        with torch.no_grad():
            space.theta.copy_(quantised.vector())
            wrong = (model(task.train.inputs).argmax(dim=1) != task.train.labels).sum().item()
        assert wrong == one.errors
        assert one.bound == pytest.approx(bounds.binomial_upper(one.errors, found.n, 0.05, one.bits))
    assert found.best == min(found.candidates, key=lambda one: one.bound)
    assert found.test_error <= found.bound
    assert found.error < found.bound < 1
    assert found.kl_bound >= found.bound
    assert found.tighter["no bits at all"] < found.bound
    assert found.tighter["no training error"] <= found.bound
    assert found.tighter["twice the examples"] < found.bound


def test_shared_codebook_costs_five_bits_and_the_decoded_model_is_what_is_counted(tmp_path: Path) -> None:
    """Its own: 48 bits for three levels."""
    found = made(tmp_path / "s.sqlite", codebook="shared", dims=(20,), levels=(3,))
    own = made(tmp_path / "own.sqlite", dims=(20,), levels=(3,))
    assert (found.parts["codebook"], own.parts["codebook"]) == (5, 48)
    quantised = coding.decode(bytes.fromhex(found.best.payload), 20)
    assert quantised.step in coding.STEPS
    assert torch.equal(quantised.values, quantised.step * torch.tensor([-1.0, 0.0, 1.0]))
    model, task = load("mlp:16-32-3", 3).module, blobs()
    space = d90.Subspace(model, 20)
    with torch.no_grad():
        space.theta.copy_(quantised.vector())
        wrong = (model(task.train.inputs).argmax(dim=1) != task.train.labels).sum().item()
    assert wrong == found.errors
    found.save(tmp_path / "c.json")
    assert check(tmp_path / "c.json", task=blobs()) == found


def test_asked_again_nothing_is_trained(certificate: tuple[Certificate, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found, store = certificate
    monkeypatch.setattr(sys.modules["d90.certificates.coding"], "fit", lambda *a, **k: pytest.fail("trained again"))
    assert made(store) == found


def test_a_finished_run_and_its_file_are_certified_as_they_are(tmp_path: Path) -> None:
    run = d90.train("mlp:16-32-3", blobs(), "full@d=20", epochs=3, lr=0.05, precision="fp32")
    run.save(tmp_path / "t.d90")
    options: dict[str, Any] = {"levels": (3, 9), "quantise_epochs": 0, "store": tmp_path / "s.sqlite"}
    of_run = certify(run, **options)
    of_file = certify(str(tmp_path / "t.d90"), blobs(), **options)
    assert of_run.candidates == of_file.candidates
    assert {one.d for one in of_run.candidates} == {20}
    theta = run.trained.theta.detach()  # type: ignore[attr-defined]
    expected = coding.kmeans(theta, 9)
    fine = next(one for one in of_run.candidates if one.levels == 9)
    assert torch.equal(coding.decode(bytes.fromhex(fine.payload)).vector(), expected.vector())
    with pytest.raises(InputError, match="trained on other examples"):
        certify(str(tmp_path / "t.d90"), blobs(seed=1), **options)
    with pytest.raises(InputError, match="its own recipe is taken"):
        certify(run, epochs=4, **options)
    whole = d90.train("mlp:16-32-3", blobs(), "full", epochs=1)
    with pytest.raises(InputError, match=r"expected a subspace.*Train with --d"):
        certify(whole, **options)


def test_what_was_tried_is_paid_for(certificate: tuple[Certificate, Path], tmp_path: Path) -> None:
    found, _ = certificate
    dearer = made(tmp_path / "s.sqlite", tried=8, dims=(10,), levels=(3,))
    same = next(one for one in found.candidates if (one.d, one.levels) == (10, 3))
    assert dearer.best.bits == same.bits + 3
    assert dearer.best.payload == same.payload
    assert dearer.bound > same.bound


def test_a_prior_counts_the_rest_alone(tmp_path: Path) -> None:
    found = made(tmp_path / "s.sqlite", prior=0.5, prior_epochs=5, dims=(10,), levels=(3,))
    n = len(blobs().train)
    assert (found.prior, found.n) == (n // 2, n - n // 2)
    none, changed = found.candidates
    assert (none.d, none.bits, none.payload) == (0, 1.0, "")
    assert changed.parts["change or none"] == 1
    found.save(tmp_path / "c.json")
    assert check(tmp_path / "c.json", task=blobs()) == found


def test_a_certificate_is_checked_from_its_file(certificate: tuple[Certificate, Path], tmp_path: Path) -> None:
    found, _ = certificate
    path = tmp_path / "c.json"
    found.save(path)
    assert check(path, task=blobs()) == found
    body = json.loads(path.read_text())

    def refused(change: dict[str, Any], message: str, task: Task | None = None) -> None:
        path.write_text(json.dumps(body | change))
        with pytest.raises(InputError, match=message):
            check(path, task=task or blobs())

    refused({"errors": found.errors - 1}, "counted again")
    refused({"bound": found.bound - 0.01}, "counted again")
    payload = bytearray.fromhex(found.best.payload)
    payload[3] ^= 1
    refused({"best": asdict(found.best) | {"payload": payload.hex()}}, "checksum|damaged|message")
    refused({"definitions": body["definitions"] | {"start": "0" * 16}}, "another one here")
    task = blobs()
    refused({}, "certifies another set of examples", replace(task, train=task.train.take(len(task.train) - 1)))
    for text in ("[]", "{", json.dumps({"best": {}})):
        path.write_text(text)
        with pytest.raises(InputError, match="is not a certificate"):
            check(path)
    with pytest.raises(InputError, match="no such file"):
        check(tmp_path / "none.json")


def test_copies_among_the_examples_are_said() -> None:
    task = blobs()
    double = Split(torch.cat([task.train.inputs[:50]] * 2), torch.cat([task.train.labels[:50]] * 2))
    found = certify(
        "mlp:16-32-3", replace(task, train=double), "full@d=1", store=":memory:", dims=(5,), levels=(2,), epochs=1
    )
    assert any("50 of 100 examples repeat" in line for line in found.assumptions)
    assert "says nothing" in str(replace(found, bound=0.9, majority=0.66))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "full"}, "expected a subspace after '@'"),
        ({"method": "full@head=outside"}, "use head=inside"),
        ({"dims": ()}, "expected positive whole numbers"),
        ({"levels": (0,)}, "expected positive whole numbers"),
        ({"prior": 1.0}, "0 <= prior < 1"),
        ({"prior": 1e-9}, "at least one on each side"),
        ({"delta": 0.0}, r"delta=0.0, expected a number inside \(0, 1\)"),
        ({"tried": 0}, "expected at least 1"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        certify("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", **options)


def test_few_values_learn_with_their_numbers() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    space = d90.Subspace(model, 12)
    with torch.no_grad():
        space.theta.copy_(torch.linspace(-1, 1, 12))
    few = QuantisedSpace(space, 3)
    assert len(space.theta.unique()) == 3
    symbols = (few.latent[:, None] - few.values.to(torch.bfloat16).float()).abs().argmin(dim=1)
    optimizer = few.attach(torch.optim.SGD(few.parameters(), lr=0.1))
    before = [p.detach().clone() for p in few.parameters()]
    model(torch.ones(4, 6)).square().sum().backward()
    gradient = space.theta.grad
    assert gradient is not None
    gradient = gradient.clone()
    optimizer.step()
    torch.testing.assert_close(few.latent.detach(), before[0] - 0.1 * gradient)
    sums = torch.stack([gradient[symbols == i].sum() for i in range(3)])
    torch.testing.assert_close(few.values.detach(), before[1] - 0.1 * sums)
    coded = few.quantised()
    assert torch.equal(coded.vector(), space.theta.detach())
    assert torch.equal(coding.decode(coding.encode(coded).payload).vector(), space.theta.detach())


def test_alternatives_in_the_store_must_be_paid_for(tmp_path: Path) -> None:
    few: dict[str, Any] = {"dims": (10,), "levels": (3,)}
    store = tmp_path / "s.sqlite"
    assert made(store, **few).definitions.tried == 1
    assert made(store, **few).definitions.tried == 1, "the same again is no alternative"
    assert made(store, lr=0.03, **few).definitions.tried == 1, "the message is paid in full whatever the rate"
    assert any(one.name == "rates in the store" and one.value == "2" for one in made(store, **few).choices)
    with pytest.raises(InputError, match=r"shows 2 alternatives.*Give tried=2 \(--tried\)"):
        made(store, seed=1, **few)
    paid = made(store, seed=1, tried=2, **few)
    assert paid.parts["tried"] == 1
    with pytest.raises(InputError, match="tried=3"):
        made(store, prior=0.5, **few)
    with pytest.raises(InputError, match=r"shows 3 alternatives.*an unpaid choice voids the bound"):
        made(store, prior=0.5, prior_epochs=1, tried=1, **few)
    assert made(store, prior=0.5, prior_epochs=1, tried=3, **few).parts["tried"] == pytest.approx(1.585, abs=1e-3)


def test_a_measurements_trials_are_alternatives(tmp_path: Path) -> None:
    from d90.methods import parse
    from d90.options import TrainingOptions
    from d90.training.recipe import make_recipe
    from d90.trials.options import RunOptions
    from d90.trials.request import TrialRequest
    from d90.trials.runner import TrialRunner
    from d90.trials.store import Store

    store = Store(tmp_path / "s.sqlite")
    for method in ("full@d=10,structure=said,layer=module", "full@d=30"):
        recipe = make_recipe("mlp:16-32-3", blobs(), parse(method), TrainingOptions(epochs=1, precision="fp32"))
        TrialRunner("mlp:16-32-3", blobs(), recipe, RunOptions(store=store)).run([TrialRequest(parse(method), recipe)])
    with pytest.raises(InputError, match="shows 2 alternatives"):  # did at any d is this one
        made(tmp_path / "s.sqlite", dims=(10,), levels=(3,))
    other = blobs(seed=1)
    assert certify("mlp:16-32-3", other, store=store, **(SMALL | {"dims": (10,), "levels": (3,)})).parts["tried"] == 0


def test_a_tune_chosen_on_the_split_that_would_be_shown_is_refused(tmp_path: Path) -> None:
    task = replace(blobs(), test=None)
    options: dict[str, Any] = {"levels": (3,), "quantise_epochs": 0, "store": tmp_path / "s.sqlite"}
    chosen = d90.train("mlp:16-32-3", task, "full@d=20", epochs=1, evaluations=3, precision="fp32")
    with pytest.raises(InputError, match=r"best of 3 evaluations on the validation split.*--evaluations 1"):
        certify(chosen, **options)
    chosen.release()
    last = d90.train("mlp:16-32-3", task, "full@d=20", epochs=1, evaluations=1, precision="fp32")
    assert certify(last, **options).split == "validation"


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    run = d90.train("mlp:16-32-3", blobs(), "full@d=20", epochs=1, precision="fp32")
    with torch.no_grad():
        run.trained.theta[3] = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="not finite"):
        certify(run, store=tmp_path / "s.sqlite")
    run.release()
    with pytest.raises(InputError, match=r"not finite.*lower lr"):
        made(tmp_path / "t.sqlite", lr=1e38, dims=(10,), levels=(3,))


def test_an_output_that_is_not_finite_counts_as_wrong() -> None:
    from d90.certificates.classification import count_errors
    from d90.training.loop import Data
    from d90.training.recipe import Recipe

    model = load("mlp:16-32-3", 3)
    with torch.no_grad():
        model.module[-1].bias[0] = float("nan")  # type: ignore[index,union-attr]
    data = Data(model, blobs())
    assert count_errors(data, "train", Recipe("m", "t", precision="fp32")) == (300, 300)


@pytest.mark.parametrize(("wrong", "says"), [(0, False), (300, True)])
def test_no_error_and_nothing_but_errors(wrong: int, says: bool) -> None:
    """0 errors give a bound above 0; n errors give 1, which says nothing, and says so."""

    def made_of(bits: float, errors: int, n: int) -> Candidate:
        return Candidate(d=5, levels=2, bits=bits, errors=errors, bound=0.0, payload="00").bounded(n, 0.05)

    one = made_of(40.0, wrong, 300)
    assert one.bound == (1.0 if says else pytest.approx(1 - (0.05 * 2**-40) ** (1 / 300)))
    tiny = made_of(400.0, 0, 10)
    assert tiny.bound > 0.99, "ten examples say nothing of 400 bits"
