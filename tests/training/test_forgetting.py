"""Forgetting: nats a token lost on the base's own text and on text to be kept, and runs that may lose no more than so much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.models.loading import load
from d90.training.forgetting import OWN_TEXT, forgetting, losses, own_text, retained
from d90.training.loading import open_tune
from d90.training.result import TrialResult
from d90.trials.store import Store
from tests.reference.blobs import Notes, blobs
from tests.reference.command import run as command
from tests.reference.tiny_causal import tiny_causal, tiny_documents


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "d90" / "texts"


def _disturbed(model: Any, size: float) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter += size * torch.randn_like(parameter)


def test_the_base_forgets_nothing_and_a_changed_model_its_divergence(tmp_path: Path) -> None:
    model = load(str(tiny_causal(tmp_path / "model")), 0, "language")
    own = own_text(model)
    assert forgetting(model, own.base, own.texts) == (0.0, 0.0)
    rows = torch.tensor([list(row) for row in own.texts.kind.ids])  # type: ignore[attr-defined]
    assert rows.shape == (64, 9)
    before = model.module(input_ids=rows).logits.log_softmax(-1)
    _disturbed(model, 0.3)
    mean, error = forgetting(model, own.base, own.texts)
    after = model.module(input_ids=rows).logits.log_softmax(-1)
    divergence = (before.exp() * (before - after)).sum(-1)[:, :-1].mean().item()
    assert divergence > 0.01
    assert abs(mean - divergence) < 4 * error
    lost = (losses(model, own.texts) - own.base).double()
    assert error == pytest.approx(lost.std().item() / 8)


def test_the_base_writes_as_it_speaks(tmp_path: Path) -> None:
    """The shares of the first token are the model's own."""
    model = load(str(tiny_causal(tmp_path / "model")), 0, "language")
    _disturbed(model, 0.5)
    rows = torch.tensor([list(row) for row in own_text(model).texts.kind.ids])  # type: ignore[attr-defined]
    shares = model.module(input_ids=rows[:1, :1]).logits[0, -1].softmax(-1)
    counts = torch.bincount(rows[:, 1], minlength=7) / 64
    assert (counts - shares).abs().max() < 0.2


def test_own_text_is_written_once_for_each_base_and_made_again_where_it_is_damaged(tmp_path: Path, cache: Path) -> None:
    model = load(str(tiny_causal(tmp_path / "model")), 0, "language")
    first = own_text(model)
    (file,) = cache.iterdir()
    held = json.loads(file.read_text())
    for damage in ("{", json.dumps({"tokens": held["tokens"][1:]}), json.dumps({"tokens": [[99] * 9] * 64})):
        file.write_text(damage)
        assert own_text(model).digest == first.digest
        assert json.loads(file.read_text()) == held
    held["tokens"][0][1] = (held["tokens"][0][1] + 1) % 7
    file.write_text(json.dumps(held))
    assert own_text(model).digest != first.digest
    assert own_text(model, tmp_path / "other").digest == first.digest
    _disturbed(model, 0.1)
    other = d90.Model("other", model.module, model.tokenizer, max_length=16, vocabulary=7)
    own_text(other)
    assert len(list(cache.iterdir())) == 2


def _train(tmp_path: Path, **options: Any) -> Any:
    tiny_causal(tmp_path / "model")
    data = tiny_documents(tmp_path / "data", 40)
    return d90.train(
        str(tmp_path / "model"), f"text:{data}", "full", lr=1e-2, epochs=2, batch_size=8, evaluations=2, **options
    )


def test_the_wait_for_the_bases_own_text_is_reported(tmp_path: Path, cache: Path) -> None:
    notes = Notes()
    _train(tmp_path, forgetting=True, progress=notes)
    said = [note for note in notes.notes if "text it writes itself" in note]
    assert len(said) == 1
    _train(tmp_path, progress=notes)
    assert [note for note in notes.notes if "text it writes itself" in note] == said


def test_a_run_says_what_its_kept_weights_forget(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(["c c c c", "c c a"] * 10))
    run = _train(tmp_path, keep=f"text:{other}")
    own, kept = run.outcome.forgetting
    assert (own.on, own.count, kept.on, kept.count) == (OWN_TEXT, 64, f"text:{other}", 2)
    assert own.mean > 0.05
    assert own.error > 0
    assert TrialResult.from_dict(json.loads(json.dumps(run.outcome.to_dict()))) == run.outcome
    base = load(str(tmp_path / "model"), 0, "language")
    (again,) = retained(base)
    assert again.digest == own.digest
    found = forgetting(run.model, again.base, again.texts)
    assert found == pytest.approx((own.mean, own.error))


def test_a_look_that_forgot_too_much_counts_as_the_untrained_model(tmp_path: Path) -> None:
    free = _train(tmp_path, forget_at_most=100.0)
    lost = [look.forgets for look in free.outcome.curve]
    assert lost[0] is None
    assert lost[1] is not None
    assert lost[2] is not None
    assert free.outcome.improved
    none = _train(tmp_path, forget_at_most=0.0)
    assert none.score == none.outcome.zero_score
    assert not none.outcome.improved
    assert none.outcome.forgetting[0].mean == 0.0
    between = _train(tmp_path, forget_at_most=(lost[1] + lost[2]) / 2)
    assert between.outcome.best.step == free.outcome.curve[1].step
    assert between.outcome.forgetting[0].mean == pytest.approx(lost[1], abs=1e-6)


def test_a_store_keeps_what_was_forgotten_and_the_text_beside_it(tmp_path: Path) -> None:
    tiny_causal(tmp_path / "model")
    data = tiny_documents(tmp_path / "data", 40)
    store = Store(tmp_path / "t.sqlite")
    options: dict[str, Any] = {"epochs": 1, "batch_size": 8, "evaluations": 1, "costs": False, "store": store}
    found = d90.compare(
        str(tmp_path / "model"), f"text:{data}", ["full", "bitfit"][:1], lr=1e-2, forgetting=True, **options
    )
    (row,) = store.trials()
    (kept,) = row.result.forgetting
    assert kept.on == OWN_TEXT
    assert len(list((tmp_path / "t.sqlite.texts").iterdir())) == 1
    (entry,) = found.entries
    assert entry.forgetting[0].mean == kept.mean
    assert entry.forgetting[0].error == kept.error
    plain = d90.compare(str(tmp_path / "model"), f"text:{data}", ["full"], lr=1e-2, **options)
    assert plain.entries[0].forgetting == ()
    assert [row.result.forgetting for row in store.trials()] == [(kept,), ()]
    assert plain.entries[0].mean == entry.mean


def test_what_cannot_be_forgotten_is_said(tmp_path: Path) -> None:
    task = blobs()
    with pytest.raises(InputError, match="no causal language model"):
        d90.train("mlp:16-8-3", task, "full", epochs=0.1, forgetting=True)
    (tmp_path / "c.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n' * 10)
    with pytest.raises(InputError, match=r"got --keep .*, a classification, expected text of a language model"):
        _train(tmp_path, keep=str(tmp_path / "c.jsonl"))
    with pytest.raises(InputError, match="got forget_at_most=-1"):
        _train(tmp_path, forget_at_most=-1)


def test_evaluate_tells_what_a_tune_forgets(tmp_path: Path) -> None:
    run = _train(tmp_path, forgetting=True)
    run.save(tmp_path / "x.d90")
    own = run.outcome.forgetting[0]
    tuned = open_tune(tmp_path / "x.d90", forgetting=True)
    assert tuned.forgotten()[0] == own


def test_the_page_of_a_comparison_has_a_column_and_a_figure_of_what_was_forgotten(tmp_path: Path) -> None:
    from d90.report.compare import comparison_page

    tiny_causal(tmp_path / "model")
    data = tiny_documents(tmp_path / "data", 40)
    options: dict[str, Any] = {"lr": 1e-2, "epochs": 1, "batch_size": 8, "evaluations": 1, "costs": False}
    options["store"] = Store(tmp_path / "t.sqlite")
    found = d90.compare(str(tmp_path / "model"), f"text:{data}", ["full", "bitfit"][:1], forgetting=True, **options)
    page = comparison_page([found])
    own = found.entries[0].forgetting[0]
    assert f"<td>{own.mean:.3f} &plusmn; {own.error:.3f}</td>" in page
    assert "forgets, nats of the base&#39;s own text" in page
    assert page.count("<figure>") == 2
    assert f"full: {-found.entries[0].mean:.4f}, forgets {own.mean:.3f} nats" in page
    plain = comparison_page([d90.compare(str(tmp_path / "model"), f"text:{data}", ["full"], **options)])
    assert "forgets" not in plain
    assert plain.count("<figure>") == 1


def test_the_commands_tell_what_is_forgotten(tmp_path: Path) -> None:
    tiny_causal(tmp_path / "model")
    tiny_documents(tmp_path / "data", 40)
    given = ("model", "text:data", "--lr", "1e-2", "--epochs", "1", "--batch-size", "8", "--evaluations", "1")
    done = command("train", *given, "--forgetting", "--out", "x.d90", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nats a token of the base's own text (standard error 0." in done.stdout
    done = command("evaluate", "x.d90", "--keep", "text:data", cwd=tmp_path)
    assert done.stdout.count("forgets ") == 2, done.stderr
    done = command("compare", *given, "--methods", "full", "--no-costs", "--forget-at-most", "0", cwd=tmp_path)
    assert "0.000 ± 0.000" in done.stdout, done.stderr
    done = command("evaluate", "x.d90", "--keep", "text:nowhere", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
