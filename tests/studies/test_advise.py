"""Advice on real trials: the answer, the tune, what is stored, what is refused, and a killed run that goes on."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.methods import apply, parse
from d90.methods.spec import short_text
from d90.options import AdviseOptions, TrainingOptions
from d90.report.advise import advice_page, write_advice
from d90.results.advise import Recommendation
from d90.search.advice_problem import Candidate, Request, Run
from d90.studies.advice_bench import TrialBench
from d90.studies.advice_candidates import family_of, find_candidates, usual_methods
from d90.studies.advice_words import settle, snippets, unknown
from d90.training.loop import open_task
from d90.training.progress import Progress
from d90.training.recipe import make_recipe
from d90.trials.options import RunOptions
from d90.trials.runner import TrialRunner
from d90.trials.store import Store
from tests.reference.blobs import Notes, blobs
from tests.reference.tiny_causal import tiny_causal, tiny_documents

MODEL = "mlp:16-32-3"
METHODS = "full@d=4 full@d=16 full@d=64 full@d=256 bitfit"
QUICK: dict[str, Any] = {
    "like": "full", "within": 5, "methods": METHODS, "budget": 20, "epochs": 3, "batch_size": 32, "evaluations": 2, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def advised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recommendation, Path]:
    folder = tmp_path_factory.mktemp("advised")
    found = d90.advise(MODEL, blobs(noise=1.0), store=folder / "s.sqlite", out=folder / "advised.d90", **QUICK)
    return found, folder


def test_the_answer_is_the_smallest_shown_and_its_tune_is_there(advised: tuple[Recommendation, Path]) -> None:
    found, folder = advised
    assert found.status == "shown"
    assert found.chosen is not None
    assert found.reference is not None
    assert found.chosen.shown
    assert all(not one.shown or one.stored >= found.chosen.stored for one in found.tried)
    assert found.chosen.stored < found.reference.stored == 643
    assert found.margin == pytest.approx(0.05)
    assert found.chosen.gap is not None
    assert found.chosen.gap + 1.64 * found.chosen.error <= found.margin
    tune = d90.open_tune(folder / "advised.d90")
    assert tune.evaluate(blobs(noise=1.0), "validation").score == pytest.approx(found.chosen.scores[0])
    assert abs((folder / "advised.d90").stat().st_size - found.chosen.bytes) <= 16
    assert not (folder / "s.sqlite.trials").exists(), "nothing of the readings and of other tunes is left"
    assert found.line.startswith(f"d90 train {MODEL} blobs --method {found.chosen.method} --lr {found.chosen.lr:g}")
    assert found.spent <= 20
    assert found.spent < 0.6 * found.grid


def test_advice_asked_again_trains_nothing_and_says_the_same(
    advised: tuple[Recommendation, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, folder = advised
    rows = len(Store(folder / "s.sqlite").trials())
    for module in ("d90.trials.job", "d90.training.loop"):
        monkeypatch.setattr(sys.modules[module], "fit", lambda *a, **k: pytest.fail("a stored trial was trained again"))
    again = d90.advise(MODEL, blobs(noise=1.0), store=folder / "s.sqlite", out=folder / "advised.d90", **QUICK)
    assert again == found
    assert len(Store(folder / "s.sqlite").trials()) == rows


def test_a_killed_search_goes_on_and_ends_where_an_unbroken_one_does(
    advised: tuple[Recommendation, Path], tmp_path: Path
) -> None:
    found, _ = advised

    class Kill(Progress):
        left = 7

        def trial_ended(self, label: str, message: str) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    given: dict[str, Any] = {**QUICK, "store": tmp_path / "s.sqlite", "out": tmp_path / "advised.d90"}
    with pytest.raises(KeyboardInterrupt):
        d90.advise(MODEL, blobs(noise=1.0), progress=Kill(), **given)
    assert not (tmp_path / "advised.d90").exists()
    assert 4 < len(Store(tmp_path / "s.sqlite").trials()) < 10
    again = d90.advise(MODEL, blobs(noise=1.0), **given)
    alike = {"seconds": 0.0, "tune": "", "line": "", "adapter": ""}
    assert replace(again, **alike) == replace(found, **alike)
    mine, theirs = (
        d90.open_tune(Path(one.tune)).evaluate(blobs(noise=1.0), "validation").loss for one in (again, found)
    )
    assert mine == theirs


def test_the_result_is_read_back_and_drawn(advised: tuple[Recommendation, Path]) -> None:
    found, folder = advised
    assert Recommendation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    page = write_advice(Store(folder / "s.sqlite"), folder / "p.html").read_text(encoding="utf-8")
    assert str(found) in page
    assert page.count("<title>") > len(found.tried), "every dot tells its method"
    assert advice_page([found]) == advice_page([found])


def test_a_score_to_reach_needs_no_reference(tmp_path: Path) -> None:
    given = {**QUICK, "within": None, "min_score": 0.6, "methods": "full@d=8 full@d=128"}
    found = d90.advise(MODEL, blobs(noise=1.0), store=tmp_path / "s.sqlite", out=tmp_path / "a.d90", **given)
    assert found.reference is None
    assert found.chosen is not None
    assert found.chosen.score >= 0.6
    assert "reaches 0.6000" in str(found)
    given["min_score"] = 0.999
    found = d90.advise(MODEL, blobs(noise=1.0), store=tmp_path / "s.sqlite", out=tmp_path / "b.d90", **given)
    assert (found.status, found.chosen, found.tune) == ("none", None, "")
    assert "no candidate reaches accuracy 0.9990" in str(found)
    assert not (tmp_path / "b.d90").exists()


BAD = [
    ({"budget": 0.5, "methods": "bitfit"}, None),  # half of twelve runs: enough to begin with
    ({"budget": 0.02}, "0.72 fine-tunings; expected at least one"),
    ({"budget": "0.0001m"}, "expected at least one"),
    ({"budget": "soon"}, "expected a share of the grid such as 0.25"),
    ({"within": -1}, "expected a positive number such as 1"),
    ({"within": "200%"}, "a share such as 2%"),
    ({"min_score": 0.9}, "expected one of them"),
    ({"max_bytes": 100}, "expected room for a candidate: the nearest are full@d=4"),
    ({"max_bytes": 230, "within": 1}, "nothing takes at most 230 bytes and is within 0.01: the nearest are full@d=4"),
    ({"like": "lora:r=8"}, "the reference, --like lora:r=8: looked for the blocks of a transformer"),
    ({"like": "nonsense"}, "nonsense"),
    (
        {"methods": "lora:r=2 lora:r=4"},
        "no candidate fits this model; left out: lora:r=2,targets=qv (and lora:r=4,targets=qv)",
    ),
    ({"validation_limit": 30}, "got 30 validation examples, expected at least 50"),
    ({"out": "a.json"}, "expected another ending"),
]


@pytest.mark.parametrize(("given", "said"), BAD, ids=[str(given) for given, _ in BAD])
def test_bad_input_is_one_line(tmp_path: Path, given: dict[str, Any], said: str | None) -> None:
    asked = {**QUICK, "store": tmp_path / "s.sqlite", "out": tmp_path / "a.d90", **given}
    if said is None:
        assert d90.advise(MODEL, blobs(noise=1.0), **asked).spent <= 6
        return
    with pytest.raises(InputError) as caught:
        d90.advise(MODEL, blobs(noise=1.0), **asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reference_that_learns_nothing_is_said_with_its_curve(tmp_path: Path) -> None:
    """Training labels of another task: the untrained model stays the best."""
    task = blobs(noise=0.3)
    wrong = replace(task, train=replace(task.train, labels=(task.train.labels + 1) % 3))
    with pytest.raises(InputError, match="the reference full does not beat the constant guess's") as caught:
        d90.advise(MODEL, wrong, store=tmp_path / "s.sqlite", out=tmp_path / "a.d90", seeds=1, **QUICK)
    assert "accuracy 0.2" in str(caught.value)
    assert "at step 30 at learning rate" in str(caught.value)
    assert {row.recipe.method for row in Store(tmp_path / "s.sqlite").trials()} == {"full"}, "nothing else was trained"


def test_families_are_ordered_by_stored_numbers_and_the_references_own_is_first(tmp_path: Path) -> None:
    model = tiny_causal(tmp_path / "m")
    task = f"text:{tiny_documents(tmp_path / 't', 60)}"
    recipe = make_recipe(str(model), task, parse("full"), d90.TrainingOptions(), d90.TaskOptions())
    opened = open_task(task, recipe)
    runner = TrialRunner(str(model), opened, recipe, RunOptions(store=tmp_path / "s.sqlite"))
    found = find_candidates(runner.data(0), recipe, [], "lora:r=8", None)
    assert found.families[0].name == "lora,targets=all", "of a language model, all is the default"
    assert found.reference.method == "lora:r=8,targets=all"
    for family in found.families:
        stored = [one.stored for one in family.candidates]
        assert stored == sorted(stored)
    assert found.families[0].exponent == 0.5
    assert {one.name for one in found.families} >= {
        "lora,targets=qv",
        "full in a subspace",
        "peft:type=IA3,targets=all",
        "top",
    }
    assert any(note.startswith("left out: lora:r=32,targets=all (and lora:r=64,targets=all)") for note in found.notes)
    assert any(note.startswith("left out: bitfit: ") for note in found.notes)
    outside = find_candidates(runner.data(0), recipe, ["lora:r=1", "lora:r=2"], "full", None)
    assert [one.name for one in outside.families] == ["lora,targets=all"], "a reference of its own is no candidate"
    assert outside.reference.family == "full"


@pytest.mark.parametrize("text", usual_methods())
def test_short_texts_name_the_same_method(text: str) -> None:
    spec = parse(text)
    assert str(parse(short_text(spec))) == str(spec)
    assert len(short_text(spec)) <= len(str(spec))
    assert family_of(spec)[1] > 0


class Fixed:
    """A runner whose trials' predictions are given."""

    def __init__(self, task: d90.Task, kept: dict[float, torch.Tensor]) -> None:
        self.task, self._kept = task, kept

    def predictions(self, recipe: Any) -> Any:
        return self._kept[recipe.lr].numpy()

    def kept(self, recipe: Any) -> Path:
        return Path("nowhere")


def bench_of(task: d90.Task, kept: dict[float, torch.Tensor]) -> tuple[TrialBench, list[Run]]:
    recipe = make_recipe(MODEL, task, parse("full"), d90.TrainingOptions(), d90.TaskOptions())
    runner: Any = Fixed(task, kept)
    bench = TrialBench(runner, lambda spec: recipe, Progress())
    one = Candidate("full", "full", 1.0, 10)
    measured = [
        -float(task.kind.kept_losses(values, task.validation.labels).mean())  # type: ignore[union-attr]
        if task.metric == "loss"
        else task.kind.measure(task.metric, values, task.validation.labels)
        for values in kept.values()
    ]
    return bench, [Run(Request(one, lr, 0), score, 0.5, 1.0) for lr, score in zip(kept, measured, strict=True)]


def test_accuracies_are_paired_over_examples() -> None:
    """12 of 200 right for one alone, 4 for the other: the difference is 0.04, its error from those 16 and two more."""
    task = blobs()
    labels = task.validation.labels
    wrong = (labels + 1) % 3
    one, two = labels.clone(), labels.clone()
    one[:4], two[4:16] = wrong[:4], wrong[4:16]
    bench, (mine, theirs) = bench_of(task, {1.0: one, 2.0: two})
    gap, error = bench.gap([theirs], [mine], None)
    assert gap == pytest.approx(8 / 200)
    assert error == pytest.approx(((16 - 8**2 / 200 + 1) ** 0.5) / 200)
    assert bench.gap([mine], [mine], None) == (0.0, pytest.approx(1 / 200))
    gap, error = bench.gap([mine], [], 0.99)
    assert gap == pytest.approx(0.99 - 196 / 200)
    assert error == pytest.approx((4 * 196 / 200 + 1) ** 0.5 / 200)


@pytest.mark.parametrize("metric", ["pearson", "loss"])
def test_values_are_paired_whatever_the_metric(metric: str) -> None:
    """Of two regressions the second has twice the error; unpaired, the error of the difference would be larger."""
    task = replace(blobs(kind="regression"), metric=metric)
    generator = torch.Generator().manual_seed(1)
    labels = task.validation.labels
    shared = torch.randn(len(labels), generator=generator)
    kept = {
        1.0: labels + 0.1 * shared,
        2.0: labels + 0.2 * shared + 0.01 * torch.randn(len(labels), generator=generator),
    }
    bench, (mine, theirs) = bench_of(task, kept)
    gap, error = bench.gap([theirs], [mine], None)
    assert gap > 0
    assert 0 < error < gap
    if metric == "loss":
        difference = (kept[2.0] - labels).square() - (kept[1.0] - labels).square()
        assert gap == pytest.approx(float(difference.mean()), rel=1e-4)
        assert error == pytest.approx(float(difference.std(correction=0)) / len(labels) ** 0.5, rel=1e-4)


def test_losses_of_classes_are_kept_example_by_example() -> None:
    task = replace(blobs(), metric="loss")
    outputs = torch.randn(len(task.validation), 3, generator=torch.Generator().manual_seed(0))
    kept = task.evidence(outputs, task.validation.labels)
    assert torch.allclose(kept, torch.nn.functional.cross_entropy(outputs, task.validation.labels, reduction="none"))
    assert blobs().evidence(outputs, task.validation.labels).dtype == torch.int64


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_language_model_gets_an_adapter_and_snippets_that_peft_takes(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, task = tiny_causal(tmp_path / "m"), f"text:{tiny_documents(tmp_path / 't')}"
    notes = Notes()
    found = d90.advise(
        str(model), task, like="lora:r=8,targets=all", within="30%", budget=12, epochs=3, batch_size=16, evaluations=2, precision="fp32",
        methods=[f"lora:r={r},targets=all" for r in (1, 2, 4, 8)], store=tmp_path / "s.sqlite", out=tmp_path / "a.d90", progress=notes,
    )  # fmt: skip
    assert found.chosen is not None
    scope: dict[str, Any] = {}
    exec(found.snippets["peft"], scope)
    assert scope["config"].r == found.chosen.size
    assert set(scope["config"].target_modules) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert f"lora_r: {found.chosen.size:g}" in found.snippets["axolotl"]
    assert f"learning_rate={found.chosen.lr}" in found.snippets["trl"]
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), found.adapter)
    tuned = d90.open_tune(tmp_path / "a.d90").model.module
    ids = torch.tensor([[4, 5, 4, 5, 6]])
    assert torch.allclose(loaded(input_ids=ids).logits, tuned(input_ids=ids).logits, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_the_snippet_of_a_method_of_peft_trains_what_d90_trains(tmp_path: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model, spec = tiny_causal(tmp_path / "m"), parse("peft:type=IA3,targets=all")
    task = open_task(f"text:{tiny_documents(tmp_path / 't')}", make_recipe(str(model), "t", spec), str(model))
    module = AutoModelForCausalLM.from_pretrained(model)
    made = snippets(module, spec, 0.01, TrainingOptions(), task, make_recipe(str(model), "t", spec))
    scope: dict[str, Any] = {}
    exec(made["peft"], scope)
    assert made["peft"].startswith("from peft import IA3Config\n")
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(model), scope["config"])
    applied = apply(spec, module, 0)
    ours = sum(p.numel() for p in applied.model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in theirs.parameters() if p.requires_grad) == ours > 0
    applied.release()


def test_options_read_margins_and_budgets() -> None:
    assert AdviseOptions().margin == (None, 0.02)
    assert AdviseOptions(within="5%").margin == (None, 0.05)
    assert AdviseOptions(within=0.3).margin == (0.3, 0.02)
    assert AdviseOptions(budget="30m").spend == (30.0, "minutes")
    assert AdviseOptions(budget=12).spend == (12.0, "runs")
    assert AdviseOptions(budget=0.25).spend == (0.25, "grid")


def test_too_few_examples_are_reported_with_how_many_would_do(advised: tuple[Recommendation, Path]) -> None:
    """A margin of 2 standard errors is shown four times of five from 2.49: (2.49 / 2)^2 = 1.55 times the examples."""
    found, _ = advised
    assert found.reference is not None
    small = replace(found.tried[0], family=found.reference.family, gap=0.03, error=0.025, shown=False, worse=False)
    doubtful = replace(
        found, tried=(small,), chosen=found.reference, guess=small, definitions=found.definitions | {"validation": 1000}
    )
    assert unknown(doubtful)[-1] == (
        f"data too few to tell {small.method} from full: 1,600 validation examples would, there are 1,000"
    )
    assert "data too few" not in " ".join(unknown(replace(doubtful, tried=(replace(small, worse=True),))))
    assert settle(doubtful) == "some 9,700 validation examples, or 10 seeds (--seeds 10), would settle it"
