"""The training loop on a small image task made here: no download, no pretrained model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import d90
from d90.errors import InputError
from d90.methods import parse
from d90.models.loading import Model, load
from d90.options import TrainingOptions
from d90.tasks import Split
from d90.tasks.kinds import Classification, Images
from d90.training.batches import Batches
from d90.training.device import best_device
from d90.training.loading import open_tune
from d90.training.loop import Data, evaluate, predict
from d90.training.progress import Progress
from d90.training.recipe import Recipe, bf16_is_fast, default_lr, make_recipe
from d90.training.schedule import rate
from tests.reference.blobs import FAST, Notes, blobs
from tests.reference.tokenizer import save_tokenizer


@pytest.mark.parametrize(
    "method", ["full", "full@d=20", "full@d=20,structure=said", "bitfit", "bitfit@d=10,projection=dense"]
)
def test_training_learns_and_gives_the_model_back(method: str) -> None:
    model = load("mlp:16-32-3", 3)
    before = {name: p.clone() for name, p in model.module.state_dict().items()}
    flags = [p.requires_grad for p in model.module.parameters()]
    run = d90.train(model, blobs(), method, **FAST)
    assert run.score > run.outcome.zero_score + 0.2
    assert run.outcome.status == "finished"
    run.release()
    assert all(torch.equal(before[name], p) for name, p in model.module.state_dict().items())
    assert flags == [p.requires_grad for p in model.module.parameters()]
    assert all(p.grad is None for p in model.module.parameters())


def test_equal_seeds_give_equal_runs_and_leave_torch_alone() -> None:
    state = torch.get_rng_state()
    first = d90.train("mlp:16-32-3", blobs(), "full@d=20", **FAST).outcome
    torch.rand(5)
    state_between = torch.get_rng_state()
    second = d90.train("mlp:16-32-3", blobs(), "full@d=20", **FAST).outcome
    other = d90.train("mlp:16-32-3", blobs(), "full@d=20", **FAST, seed=1).outcome
    assert torch.equal(torch.get_rng_state(), state_between)
    assert not torch.equal(state, state_between)
    assert first.curve == second.curve
    assert first.curve != other.curve


def test_the_score_is_the_best_evaluation_and_its_weights_are_kept() -> None:
    model = load("mlp:16-32-3", 3)
    task = blobs(noise=2.0)
    run = d90.train(model, task, "full", epochs=8, evaluations=12, lr=0.05)
    scores = [look.score for look in run.outcome.curve[1:]]
    assert run.score == max(scores)
    batches = Batches(model, task.validation)
    assert task.score(predict(model, batches, "fp32")) == pytest.approx(run.score)


def test_a_nan_stops_the_run_with_a_record() -> None:
    task = blobs()
    task.train.inputs[150] = float("nan")
    run = d90.train("mlp:16-32-3", task, "full", **FAST)
    assert run.outcome.status == "diverged"
    assert 0 < run.outcome.steps < 29


def test_stopping_at_a_threshold_is_a_lower_bound(tmp_path: Path) -> None:
    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", baseline=1.0, **FAST)
    passed = [point for point in found.curve if point.at_least]
    assert passed
    assert all(point.score >= found.threshold for point in passed)


def test_regression_and_its_metric() -> None:
    run = d90.train("mlp:16-32-1", blobs(kind="regression"), "full", **FAST)
    assert run.score > 0.8
    assert run.task.metric == "pearson"


@pytest.mark.parametrize("method", ["full", "full@d=20", "bitfit"])
def test_where_training_never_beats_the_start_the_start_is_kept_and_said(method: str) -> None:
    trained = d90.train("mlp:16-32-3", blobs(noise=2.0), "full", **FAST)
    trained.merge()
    before = {name: p.detach().clone() for name, p in trained.model.module.named_parameters()}
    told = Notes()
    run = d90.train(trained.model, blobs(noise=2.0), method, progress=told, epochs=0.1, evaluations=1, lr=30.0)
    assert max(look.score for look in run.outcome.curve[1:]) < run.outcome.zero_score
    assert run.score == run.outcome.zero_score == trained.score
    assert not run.outcome.improved
    assert run.outcome.best.step == 0
    assert evaluate(Data(run.model, run.task), "validation", "fp32")[0] == run.score, (
        "the score is that of the weights kept"
    )
    for name, parameter in run.model.module.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert [note for note in told.notes if "training never beat the untrained model" in note]


def test_a_run_that_ends_early_follows_the_whole_schedule() -> None:
    whole = d90.train("mlp:16-32-3", blobs(), "full", **FAST).outcome
    read = d90.train("mlp:16-32-3", blobs(), "full", until=1 / 3, **FAST).outcome
    assert (read.status, read.steps) == ("read", 10)
    assert read.curve == whole.curve[:2], "its rate at each step is the whole run's, not that of a shorter schedule"
    between = d90.train("mlp:16-32-3", blobs(), "full", until=0.5, **FAST).outcome
    assert [look.step for look in between.curve] == [0, 10, 15], "a run ends with a look"
    with pytest.raises(InputError, match="until"):
        d90.train("mlp:16-32-3", blobs(), "full", until=0.0, **FAST)


def test_an_ordinary_recipe_is_stored_as_before_there_were_readings() -> None:
    recipe = Recipe("m", "t")
    assert "until" not in recipe.to_dict()
    assert recipe.key("data", "base") == "6c4ad189d43bb451f3e5bca361888a62", "trials stored before are found"
    assert replace(recipe, until=0.125).key("data", "base") != recipe.key("data", "base")
    assert Recipe(**replace(recipe, until=0.125).to_dict()).until == 0.125


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": -1.0}, "positive number"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "int4"}, "fp32"),
        ({"colour": 1}, "unknown option 'colour'"),
        ({"seed": -1}, "seed"),
        ({"warmup": 1.5}, "warmup"),
    ],
)
def test_impossible_recipes_are_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        d90.train("mlp:16-32-3", blobs(), "full", **options)


def test_a_failed_start_gives_the_flags_back() -> None:
    model = load("mlp:16-32-3", 3)
    with pytest.raises(InputError, match="above D"):
        d90.train(model, blobs(), "bitfit", d=10_000)
    assert all(p.requires_grad for p in model.module.parameters())


def test_warm_up_and_decay() -> None:
    rates = [rate(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1
    assert rates.index(1) == 9
    assert rates[-1] < 0.02
    assert rate(100, 100, 0.1) == 0


def test_a_recipe_key_depends_on_recipe_data_and_base() -> None:
    recipe = Recipe("m", "t")
    keys = {recipe.key("data", "base"), recipe.key("data", "other"), recipe.key("x", "base")}
    keys |= {Recipe("m", "t", lr=1.0).key("data", "base"), Recipe("m", "t", seed=1).key("data", "base")}
    assert len(keys) == 5
    assert recipe.key("data", "base") == Recipe("m", "t").key("data", "base")


def test_a_recipe_names_the_step_rule_only_where_it_says_something() -> None:
    """So that keys of trials at scale tensor stay what they were."""
    recipes = {
        method: make_recipe("fc", "x", parse(method))
        for method in ("full", "full@d=5", "full@d=5,scale=global", "lora@d=5,scale=relative")
    }
    assert [recipe.step_rule for recipe in recipes.values()] == [1, 1, 2, 2]
    other = recipes["full@d=5,scale=global"]
    for rule in (1, 2):
        assert make_recipe("fc", "x", parse("full"), TrainingOptions(step_rule=rule)) == recipes["full"]
    assert make_recipe("fc", "x", parse("full@d=5,scale=global"), TrainingOptions(step_rule=2)) == other
    old = make_recipe("fc", "x", parse("full@d=5,scale=global"), TrainingOptions(step_rule=1))
    assert old.step_rule == 1
    assert old.key() != other.key()
    with pytest.raises(InputError, match="step_rule"):
        make_recipe("fc", "x", parse("full"), TrainingOptions(step_rule=3))


def test_a_pretrained_model_takes_smaller_rates_than_one_from_scratch() -> None:
    for method in ("full", "full@d=10"):
        spec = d90.methods.parse(method)
        assert default_lr(spec, Classification()) < default_lr(spec, Images())
    assert isinstance(bf16_is_fast(best_device()), bool)


@pytest.mark.parametrize("method", ["full", "full@d=20,structure=said", "full@d=20,head=outside"])
def test_a_saved_run_opens_again_and_scores_the_same(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = blobs()
    model = load("mlp:16-32-3", 3)  # loaded, it stays on the processor: a GPU's weights differ in the last bits
    run = d90.train(model, task, method, **FAST)
    run.save(tmp_path / "x.d90")
    weights = {name: p.detach().clone() for name, p in run.model.module.named_parameters()}
    tuned = open_tune(tmp_path / "x.d90")
    tuned.model.module.eval()
    tuned.model.module(torch.zeros(1, 1, 4, 4))
    for name, parameter in tuned.model.module.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    assert tuned.evaluate(task).score == run.score
    assert tuned.evaluate(task, "test").count == 100
    with pytest.raises(InputError, match="takes images"):
        tuned.predict([("text",)])


def test_a_recipe_of_another_tune_is_refused(tmp_path: Path) -> None:
    run = d90.train("mlp:16-32-3", blobs(), "full@d=20", **FAST)
    run.save(tmp_path / "x.d90")
    beside = tmp_path / "x.json"
    record = json.loads(beside.read_text())
    beside.write_text(json.dumps({**record, "recipe_hash": "0" * 16}))
    with pytest.raises(InputError, match="it was edited"):
        open_tune(tmp_path / "x.d90")
    beside.unlink()
    with pytest.raises(InputError, match="not beside it"):
        open_tune(tmp_path / "x.d90")


class _Events(Progress):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.scores: list[float] = []
        self.total = 0

    def trial_started(self, label: str, steps: int) -> None:
        self.total = steps

    def trial_step(self, step: int, loss: float) -> None:
        self.steps.append(step)

    def trial_scored(self, step: int, score: float, loss: float) -> None:
        self.scores.append(score)


def test_progress_is_reported() -> None:
    events = _Events()
    run = d90.train("mlp:16-32-3", blobs(), "full", **FAST, progress=events)
    assert events.total == run.outcome.steps == events.steps[-1] == 30
    assert events.scores == [look.score for look in run.outcome.curve[1:]]


def test_train_tells_how_many_texts_were_cut(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=7, max_position_embeddings=16, pad_token_id=0, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    save_tokenizer(tmp_path / "bert", marks=True)
    rows = [{"text": "a b c " * (4 if i % 5 == 0 else 1), "label": i % 2} for i in range(50)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()
    d90.train(str(tmp_path / "bert"), str(tmp_path / "t.jsonl"), max_length=8, progress=notes, **FAST)
    assert [note for note in notes.notes if "longer than" in note] == [
        "10 texts are longer than 8 tokens and were truncated"
    ]


class _Words:
    """A tokenizer in miniature: a number for each word."""

    pad_token_id = 0

    def __call__(self, *columns: list[str], truncation: bool, max_length: int | None = None, **options: bool) -> dict:
        rows = [" ".join(texts).split() for texts in zip(*columns, strict=True)]
        return {"input_ids": [[1 + len(word) for word in row][: max_length if truncation else None] for row in rows]}


def test_batches_pad_to_their_longest_and_cover_every_example_once() -> None:
    texts = [(" ".join(["w"] * (1 + i % 7)),) for i in range(100)]
    model = Model("m", torch.nn.Linear(1, 1), _Words(), (), 5)
    batches = Batches(model, Split(texts, torch.arange(100)))
    assert batches.truncated == sum(1 + i % 7 > 5 for i in range(100))
    seen = torch.cat(batches.shuffled(8, seed=3, epoch=0))
    assert sorted(seen.tolist()) == list(range(100))
    assert not torch.equal(seen, torch.cat(batches.shuffled(8, seed=3, epoch=1)))
    assert torch.equal(seen, torch.cat(batches.shuffled(8, seed=3, epoch=0)))
    for chosen in batches.shuffled(8, seed=3, epoch=0):
        batch = batches.inputs(chosen)
        lengths = batches.lengths[chosen]
        assert batch["input_ids"].shape == (len(chosen), lengths.max())
        assert torch.equal(batch["attention_mask"].sum(1), lengths)
        assert bool((batch["input_ids"][batch["attention_mask"] == 0] == 0).all())
        assert bool((batch["input_ids"][batch["attention_mask"] == 1] > 0).all())
