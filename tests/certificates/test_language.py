"""Causal language models: documents, each token's nats, and the bound on bits per token."""

from __future__ import annotations

import gzip
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.analysis import bounds, coding
from d90.certificates.language import (
    ALPHAS,
    LanguageCertificate,
    certify_language,
    check_language,
    smoothed_bits,
    subsample,
)
from d90.errors import InputError
from d90.methods import apply, parse
from d90.models.loading import load as load_model
from d90.report.measure import page
from d90.results.measure import Measurement
from d90.results.result import stored_results
from d90.tasks import ABSENT, Split, Task, load
from d90.training.batches import Batches
from d90.training.loop import predict
from d90.trials.store import Store
from tests.reference.tiny import tiny_model, tiny_task
from tests.reference.tiny_causal import tiny_causal, tiny_documents

ROOT = Path(__file__).parents[2]
METHOD = "lora:r=2@structure=did"
FAST: dict[str, Any] = {
    "dims": (8,), "levels": (3,), "epochs": 4, "quantise_epochs": 1, "lr": 0.05, "precision": "fp32", "evaluations": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("language")
    tiny_causal(made / "base")
    tiny_documents(made / "text")
    return made


@pytest.fixture(scope="module")
def certificate(folder: Path) -> LanguageCertificate:
    return certified(folder)


def certified(folder: Path, **options: Any) -> LanguageCertificate:
    given = {"store": folder / "s.sqlite", **FAST, **options}
    return certify_language(str(folder / "base"), f"text:{folder / 'text'}", METHOD, **given)


# --- documents ---------------------------------------------------------------------------------------------------------


def test_documents_and_lines(folder: Path) -> None:
    blocks, lines = load(f"text:{folder / 'text'}"), load(f"lines:{folder / 'text'}")
    assert (len(blocks.train), len(lines.train)) == (200, 400)
    assert blocks.train.inputs[1] == ("a b a\nb c",)
    assert lines.train.inputs[2] == ("a b a",)
    assert (blocks.kind.name, blocks.metric, blocks.labels) == ("language", "loss", ())
    assert blocks.fingerprint != lines.fingerprint


def test_a_file_is_split_and_may_be_gzipped(tmp_path: Path) -> None:
    text = "\n\n \n".join(f"text {i}" for i in range(20))
    (tmp_path / "x.txt").write_text(text)
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(text.encode()))
    plain, packed = load(f"text:{tmp_path / 'x.txt'}"), load(f"text:{tmp_path / 'x.txt.gz'}")
    assert plain.fingerprint == packed.fingerprint
    assert (len(plain.train), len(plain.validation)) == (18, 2)
    assert any("drawn with the stream 'split'" in note for note in plain.notes)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"one\ntwo\n", {}, r"has 1 documents, separated by blank lines.*try lines:"),
        (b"", {}, "at least two"),
        (b"a\n\n\xff\n", {}, "line 3: broken UTF-8"),
        (b"a\n\nb\n", {"metric": "accuracy"}, "got metric 'accuracy' for documents"),
        (b"a\n\nb\n", {"text": "x"}, "has its own"),
    ],
)
def test_unsound_text(tmp_path: Path, content: bytes, options: dict[str, str], message: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(f"text:{tmp_path / 'x.txt'}", **options)  # type: ignore[arg-type]


def test_no_text_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load("text:nowhere")
    with pytest.raises(InputError, match="no training file"):
        load(f"lines:{tmp_path}")


# --- the model ---------------------------------------------------------------------------------------------------------


def test_outputs_are_each_tokens_nats(folder: Path) -> None:
    """Against the logits of one document at a time: padding and batching change nothing, and the first token is predicted too."""
    task = load(f"text:{folder / 'text'}", validation_limit=20)
    model = load_model(str(folder / "base"), 0, "language")
    assert model.vocabulary == 7
    batches = Batches(model, task.validation)
    nats = predict(model, batches, "fp32", size=8)
    assert nats.shape == (20, int(batches.lengths.max()) - 1)
    means = []
    for i, (text,) in enumerate(task.validation.inputs):
        ids = torch.tensor([[3, *model.tokenizer(text)["input_ids"]]])  # type: ignore[misc]
        with torch.no_grad():
            logits = model.module(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
        expected = -logits[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        torch.testing.assert_close(nats[i, : len(expected)], expected)
        assert (nats[i, len(expected) :] == ABSENT).all()
        means.append(expected.mean())
    assert task.loss(nats, task.validation.labels).item() == pytest.approx(torch.stack(means).mean().item(), rel=1e-5)
    assert task.score(nats) == -task.loss(nats, task.validation.labels).item()
    broken = nats.clone()
    broken[3, 1] = float("nan")
    assert math.isnan(task.loss(broken, task.validation.labels).item()), "a value that is not finite must be seen"


def test_texts_are_cut_at_the_models_length(folder: Path) -> None:
    task = load(f"text:{folder / 'text'}")
    model = load_model(str(folder / "base"), 0, "language", max_length=5)
    batches = Batches(model, task.train)
    assert int(batches.lengths.max()) == 5
    assert batches.truncated == sum(len(text.split()) > 4 for (text,) in task.train.inputs)


def test_a_language_model_trains_in_the_one_loop(folder: Path) -> None:
    text = f"text:{folder / 'text'}"
    run = d90.train(str(folder / "base"), text, "lora:r=2@d=16", epochs=6, lr=0.05, precision="fp32")
    assert run.outcome.zero_score < run.score < 0
    run.save(folder / "t.d90")
    run.release()
    from d90.training.loading import open_tune

    tuned = open_tune(folder / "t.d90")
    assert tuned.evaluate().score == pytest.approx(run.score, abs=1e-6)
    with pytest.raises(InputError, match="is of a language model"):
        tuned.predict([("a b",)])


def test_d90_of_a_language_models_loss(folder: Path) -> None:
    """The gain rule, from the untrained model or the uniform guess among the vocabulary, whichever is better."""
    text, store = f"text:{folder / 'text'}", folder / "m.sqlite"
    options: dict[str, Any] = {"epochs": 3, "lr": 0.05, "baseline_lr": 0.05, "precision": "fp32", "evaluations": 2}
    found = d90.measure(
        str(folder / "base"), text, "lora:r=2", baseline="lora:r=2", store=store, start=16, budget=4, **options
    )
    assert (found.rule, found.metric, found.majority) == ("gain", "loss", pytest.approx(-math.log(7)))
    assert found.chance == max(found.zero, found.majority) < found.threshold < found.baseline < 0
    assert all(point.score < 0 for point in found.curve)
    text_of_page = page(stored_results(Store(store), Measurement, "measure"))
    assert "constant guess" in text_of_page
    assert "majority class" not in text_of_page
    compared = d90.compare(
        str(folder / "base"), text, ["lora:r=2", "lora:r=2@d=16"], costs=False, store=store, epochs=1, evaluations=1
    )
    assert compared.chance == found.majority
    with pytest.raises(InputError, match="without vocabulary=V"):
        load(text).chance()
    with pytest.raises(InputError, match="expected one of accuracy"):
        d90.measure(str(folder / "base"), text, within=1, store=store)


def test_what_is_no_causal_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks .*expected a causal language model with its output matrix"):
        load_model(str(tiny_model(tmp_path / "bert")), 0, "language")
    import transformers as t

    torch.manual_seed(0)
    config = t.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, pad_token_id=0
    )
    t.BertLMHeadModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="sees the tokens that follow"):
        load_model(str(tmp_path / "bert"), 0, "language")
    with pytest.raises(InputError, match="takes images"):
        load_model("fc", 0, "language")


# --- the bound ---------------------------------------------------------------------------------------------------------


def test_smoothing() -> None:
    p = torch.tensor([[0.5, 0.25, 0.0], [1.0, 1e-9, 0.3]], dtype=torch.float64)
    nats = -p.log()
    nats[1, 2] = ABSENT
    found = smoothed_bits(nats, 0.1, 10)
    by_hand = [[-math.log2(0.9 * x + 0.01) for x in row] for row in ((0.5, 0.25, 0.0), (1.0, 1e-9))]
    assert found.tolist() == pytest.approx([sum(row) / len(row) for row in by_hand], rel=1e-12)
    nats[0, 0] = float("nan")
    worst = smoothed_bits(nats, 0.1, 10)[0].item()
    assert worst == pytest.approx((math.log2(10 / 0.1) + sum(by_hand[0][1:])) / 3), "not finite costs the most"


def test_the_bound_is_of_the_decoded_model_and_pays_for_every_bit(
    folder: Path, certificate: LanguageCertificate
) -> None:
    found = certificate
    task = load(f"text:{folder / 'text'}")
    assert (found.n, found.evaluated, found.vocabulary, found.form) == (200, 200, 7, "bernstein")
    none, tuned = found.candidates
    assert (none.d, none.payload, none.bits) == (0, "", 1 + math.log2(len(ALPHAS)))
    quantised = coding.decode(bytes.fromhex(tuned.payload), 8)
    assert tuned.bits == sum(tuned.parts.values()) == coding.encode(quantised).bits + 1 + math.log2(len(ALPHAS))
    model = load_model(str(folder / "base"), 0, "language")
    applied_method = apply(parse(found.method).at(8), model.module)
    with torch.no_grad():
        applied_method.trained.theta.copy_(quantised.vector())  # type: ignore[union-attr]
        applied_method.trained.flush()  # type: ignore[union-attr]
    each = smoothed_bits(predict(model, Batches(model, task.train), "fp32"), tuned.alpha, 7)
    assert tuned.mean == pytest.approx(each.mean().item(), abs=1e-6)
    low, high = bounds.smoothed_range(tuned.alpha, 7)
    expected = bounds.empirical_bernstein(tuned.mean, each.var().item(), low, high, 200, 0.05, tuned.bits)
    assert tuned.bound == pytest.approx(expected, abs=1e-5)
    assert all(one.bound >= found.bound for one in found.candidates)
    assert found.test <= found.bound
    assert found.uniform == math.log2(7)
    assert found.tighter["no bits at all"] < found.bound
    assert found.tighter["twice the documents"] < found.bound
    assert any("is one example" in line for line in found.assumptions)
    assert "bits per token of a new document" in str(found)
    assert "says nothing" in str(replace(found, bound=9.0))


def test_a_part_of_the_documents_is_evaluated(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    found = certified(folder, evaluated=50, store=store)
    assert (found.n, found.evaluated, found.form) == (200, 50, "kl")
    among = found.definitions.among
    assert among == 2 * len(ALPHAS)
    mean, _ = found.best.losses[str(found.alpha)]
    expected = bounds.bits_per_token(mean, found.alpha, 7, 200, 0.05, found.bits, 50, "kl", among=among)
    assert found.bound == expected
    assert found.bound > bounds.bits_per_token(mean, found.alpha, 7, 200, 0.05, found.bits, 50, "kl")
    assert found.tighter["every document evaluated"] < found.bound
    assert any(one.name == "documents evaluated" and one.bits == math.log2(among) for one in found.choices)
    assert certified(folder, evaluated=50, store=store) == found, "the same again evaluates nothing more"
    found.save(tmp_path / "part.json")
    assert check_language(tmp_path / "part.json") == found
    documents = load(f"text:{folder / 'text'}")
    part, groups = subsample(documents, 50)
    assert (len(part), groups) == (50, None)
    assert part.inputs == subsample(documents, 50)[0].inputs
    assert part.inputs != documents.train.inputs[:50]


def test_the_betting_bound_is_certified_where_it_was_fixed_beforehand(folder: Path, tmp_path: Path) -> None:
    from d90.certificates import verify as checker

    store = tmp_path / "s.sqlite"
    usual = certified(folder, store=store)
    with pytest.raises(InputError, match="shows 2 alternatives"):
        certified(folder, store=store, form="betting")
    found = certified(folder, store=store, form="betting", tried=2)
    assert (found.form, usual.form) == ("betting", "bernstein")
    assert found.bound < usual.bound
    assert found.bound < found.best.bound, (
        "the message was chosen by empirical Bernstein's bound, the figure is by betting"
    )
    found.save(tmp_path / "c.json")
    assert check_language(tmp_path / "c.json", out=tmp_path / "p.npy") == found
    assert "needs predictions" in checker.verify(str(tmp_path / "c.json"))[1]
    lines = checker.verify(str(tmp_path / "c.json"), str(tmp_path / "p.npy"))
    assert "computed again" in lines[1]
    body = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(body | {"bound": found.bound - 0.01}))
    with pytest.raises(checker.Refused, match="'bound' says"):
        checker.verify(str(tmp_path / "c.json"), str(tmp_path / "p.npy"))
    with pytest.raises(InputError, match="evaluated again"):
        check_language(tmp_path / "c.json")
    with pytest.raises(InputError, match="form='betting' and 50 of 200"):
        certified(folder, store=tmp_path / "t.sqlite", form="betting", evaluated=50)
    with pytest.raises(InputError, match="form"):
        certified(folder, store=tmp_path / "t.sqlite", form="exact")


def test_every_model_evaluated_on_the_part_is_paid_for(folder: Path, tmp_path: Path) -> None:
    """A rate, a number of documents, an alternative: what the store shows is chosen among in the first step."""
    store, part = tmp_path / "s.sqlite", {"evaluated": 50}
    first = certified(folder, store=store, **part)
    slower = certified(folder, store=store, lr=0.02, **part)
    assert slower.definitions.among == 3 * len(ALPHAS), "no change, and a tune of either rate"
    assert first.definitions.among == 2 * len(ALPHAS)
    with pytest.raises(InputError, match="shows 2 alternatives"):
        certified(folder, store=store, evaluated=60)
    other = certified(folder, store=store, evaluated=60, tried=2)
    assert other.parts["tried"] == 1
    assert other.definitions.among == 2 * 4 * len(ALPHAS)
    other.save(tmp_path / "c.json")
    body = json.loads((tmp_path / "c.json").read_text())
    body["definitions"]["among"] = 8
    (tmp_path / "c.json").write_text(json.dumps(body))
    with pytest.raises(InputError, match="says that 8 models were evaluated, expected at least the 32"):
        check_language(tmp_path / "c.json")


def test_asked_again_nothing_is_trained(
    folder: Path, certificate: LanguageCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["d90.certificates.coding"], "fit", lambda *a, **k: pytest.fail("trained again"))
    assert certified(folder).candidates == certificate.candidates


def test_a_prior_counts_the_rest_alone(folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(3**9, generator=generator)[:210].tolist()
    documents = [" ".join("abc"[i // 3**place % 3] for place in range(9)) for i in drawn]
    for name, part in (("train", documents[:200]), ("validation", documents[200:])):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(part))
    options = {"prior": 0.5, "prior_epochs": 2, **FAST, "store": tmp_path / "prior.sqlite"}
    found = certify_language(str(folder / "base"), f"text:{tmp_path}", METHOD, **options)
    assert (found.prior, found.n) == (100, 100)
    assert found.candidates[0].parts == {"no change": 1, "tried": 0, "alpha": 3}
    found.save(tmp_path / "prior.json")
    assert check_language(tmp_path / "prior.json") == found
    with pytest.raises(InputError, match="stand in the prior's part as well"):
        certified(folder, prior=0.5, prior_epochs=2, store=tmp_path / "again.sqlite")


def test_a_certificate_is_checked_from_its_file(folder: Path, certificate: LanguageCertificate, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    certificate.save(path)
    assert check_language(path) == certificate
    body = json.loads(path.read_text())

    def refused(change: dict[str, Any], message: str) -> None:
        path.write_text(json.dumps(body | change))
        with pytest.raises(InputError, match=message):
            check_language(path)

    refused({"mean": certificate.mean - 0.01}, "evaluated again")
    refused({"bound": certificate.bound - 0.01}, "evaluated again")
    refused({"definitions": body["definitions"] | {"start": "0" * 16}}, "another one here")
    refused({"definitions": body["definitions"] | {"task": "0" * 16}}, "another set of documents")
    tuned = next(one for one in certificate.candidates if one.payload)
    payload = bytearray.fromhex(tuned.payload)
    payload[3] ^= 1
    refused({"best": asdict(tuned) | {"payload": payload.hex()}}, "checksum|damaged|message|sound")
    for text in ("[]", "{", "{}"):
        path.write_text(text)
        with pytest.raises(InputError, match="is not a certificate"):
            check_language(path)
    with pytest.raises(InputError, match="no such file"):
        check_language(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluated": 1}, r"expected 2 \.\.\. 200"),
        ({"evaluated": 201}, r"expected 2 \.\.\. 200"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"prior": 1.0}, "0 <= prior < 1"),
        ({"train_limit": 1}, "got 1 documents to evaluate"),
    ],
)
def test_mistakes(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        certified(folder, **options)


def test_the_two_kinds_of_certificate_do_not_mix(folder: Path, tmp_path: Path) -> None:
    data = tiny_task(tmp_path / "labels")
    with pytest.raises(InputError, match="has labels"):
        certify_language(str(folder / "base"), str(data), METHOD)
    with pytest.raises(InputError, match="certify_language"):
        d90.certify(str(folder / "base"), f"text:{folder / 'text'}", METHOD, store=tmp_path / "s.sqlite")


def test_too_few_documents_say_nothing(folder: Path) -> None:
    found = certified(folder, train_limit=8, store=folder / "few.sqlite")
    assert found.bound > found.uniform
    assert "says nothing" in str(found)


def test_certify_command_writes_a_certificate_that_decodes_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from d90.cli.main import app

    monkeypatch.chdir(tmp_path)
    task = f"text:{folder / 'text'}"
    asked = ["certify", str(folder / "base"), task, "-m", "lora:r=2@d=8", "--epochs", "1", "--evaluated", "60"]
    done = CliRunner().invoke(app, [*asked, "--out", "c.json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "uniform guess 2.807" in done.output
    assert {one["d"] for one in json.loads(Path("c.json").read_text())["candidates"]} == {0, 8}, "d is the method's own"
    again = CliRunner().invoke(app, ["certify", "--check", "c.json"], catch_exceptions=False)
    assert "decodes to the same bits per token" in again.output
    with pytest.raises(InputError, match="expected documents"):
        CliRunner().invoke(app, ["certify", "fc", "docstrings", "--evaluated", "60"], catch_exceptions=False)


def test_documents_must_have_tokens(folder: Path) -> None:
    model = load_model(str(folder / "base"), 0, "language")
    empty = Task(
        "text:x", "language", (), "loss", Split([("a",), ("\u200b",)], torch.zeros(2)), Split([("a",)], torch.zeros(1))
    )
    model.tokenizer.eos_token = None  # type: ignore[union-attr]
    with pytest.raises(InputError, match="neither a bos nor an eos token"):
        Batches(model, empty.train)


@pytest.mark.skipif(not (ROOT / "models" / "stories260k").is_dir(), reason="models/stories260k is not there")
def test_a_real_pretrained_model(tmp_path: Path) -> None:
    """Children's stories cost it far less than the uniform guess; words drawn at random do not."""
    (tmp_path / "train.txt").write_text(
        "Once upon a time, there was a little girl named Lily. She loved to play outside.\n\nqx zj vkw pfh yygq jxz wvq kz\n"
    )
    (tmp_path / "validation.txt").write_text("Tom and Sue went to the park.\n")
    task = load(f"text:{tmp_path}")
    model = load_model(str(ROOT / "models" / "stories260k"), 0, "language")
    assert model.vocabulary == 512
    story, noise = (smoothed_bits(predict(model, Batches(model, task.train), "fp32"), 0.01, 512)).tolist()
    assert story < 4 < 9 < noise
