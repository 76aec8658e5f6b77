"""Questions with choices: columns of data sets, models with a head for choices, causal models by likelihood, tunes and merged folders."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.integrations.merge import auto_class_of, merge
from d90.models.loading import load as load_model
from d90.tasks import Split
from d90.tasks import load as load_task
from d90.tasks.kinds import Choices
from d90.training.batches import Batches, outputs_of
from d90.training.evaluation import predict
from d90.training.loading import open_tune
from tests.reference.command import run as cli
from tests.reference.rows import write_rows
from tests.reference.tiny import tiny_model
from tests.reference.tiny_causal import tiny_causal

OPTIONS: dict[str, Any] = {"epochs": 10, "batch_size": 8, "evaluations": 2, "lr": 0.02, "precision": "fp32"}


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The right choice is the question again."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        choices = draw.sample(["a", "b", "c"], 3)
        question = draw.choice("abc")
        found.append({"question": question, "choices": choices, "answer": choices.index(question)})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds of model, a task, and a tune of the causal one."""
    path = tmp_path_factory.mktemp("choices")
    tiny_model(path / "bert")
    tiny_causal(path / "llama")
    write_rows(path / "data" / "train.jsonl", rows(48))
    write_rows(path / "data" / "validation.jsonl", rows(18, seed=1))
    run = d90.train(str(path / "llama"), str(path / "data"), "full", **OPTIONS)
    run.save(path / "task.d90")
    run.release()
    return path


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_columns_of_known_data_sets_are_one_task(tmp_path: Path) -> None:
    base = rows(20)
    letters = "ABC"
    forms = {
        "mmlu": base,
        "letters": [{**row, "answer": letters[row["answer"]]} for row in base],
        "arc": [
            {"question": row["question"], "answerKey": str(row["answer"] + 1),
             "choices": {"text": row["choices"], "label": ["1", "2", "3"]}} for row in base
        ],
        "texts": [{"question": row["question"], "options": row["choices"], "answer": row["question"]} for row in base],
        "hellaswag": [{"ctx": row["question"], "endings": row["choices"], "label": str(row["answer"])} for row in base],
        "swag": [
            {"startphrase": row["question"], **{f"ending{k}": one for k, one in enumerate(row["choices"])},
             "label": row["answer"]} for row in base
        ],
        "from one": [{**row, "answer": row["answer"] + 1} for row in base],
    }  # fmt: skip
    tasks = {name: load_task(write_rows(tmp_path / f"{name}.jsonl", found)) for name, found in forms.items()}
    assert tasks["mmlu"].kind == Choices()
    assert tasks["mmlu"].texts == 4
    assert tasks["mmlu"].train.inputs[0] == (base[0]["question"], *base[0]["choices"])
    assert {name: task.fingerprint for name, task in tasks.items()} == dict.fromkeys(forms, tasks["mmlu"].fingerprint)
    read = load_task(write_rows(tmp_path / "race.jsonl", [{"article": "c c", **row} for row in base]))
    assert read.train.inputs[0][0] == f"c c {base[0]['question']}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"choices": ["a", "b"]}, "line 3: 2 choices and line 1 has 3, expected as many everywhere"),
        ({"choices": ["a"]}, "line 3: column 'choices' holds 1 choice, expected two choices at least"),
        ({"choices": None}, "line 3: column 'choices' holds no list"),
        ({"choices": ["a", " ", "c"]}, "line 3: an empty text in 'choices'"),
        ({"question": ""}, "line 3: an empty text in 'question'"),
        ({"answer": 3}, r"line 3: the answer '3' in column 'answer' is none of the 3 choices; expected its number from 0, its letter"),
        ({"answer": "D"}, "line 3: the answer 'D' in column 'answer' is none of the 3 choices"),
        ({"answer": None}, "line 3: the answer 'None'"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_task(write_rows(tmp_path / "a.jsonl", [*rows(2), {**rows(1)[0], **change}]))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it has text, expected question, choices \(a list\) and answer"):
        load_task(write_rows(tmp_path / "a.jsonl", [{"text": "a"}] * 9), kind="multiple-choice")
    with pytest.raises(InputError, match=r"no column of answers \(answer\); name it with --label"):
        load_task(write_rows(tmp_path / "b.jsonl", [{"question": "a", "choices": ["a", "b"]}] * 9))
    write_rows(tmp_path / "c" / "train.jsonl", rows(9))
    write_rows(tmp_path / "c" / "validation.jsonl", [{"question": "a", "choices": ["a", "b"], "answer": 0}] * 9)
    with pytest.raises(InputError, match=r"validation.jsonl': 2 choices and the training data has 3"):
        load_task(str(tmp_path / "c"))


# --- numbers for choices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["bert", "llama"])
def test_padding_and_neighbours_change_no_choice(folder: Path, base: str) -> None:
    kind = Choices()
    model = load_model(str(folder / base), 0, kind)
    split = Split([("a b c a", "b", "a c"), ("c", "a", "b c a b"), ("a b", "c", "c")], torch.tensor([0, 1, 0]))
    batches = Batches(model, split, kind)
    model.module.eval()
    with torch.no_grad():
        whole = outputs_of(model.module, batches.inputs(torch.arange(3)), kind)
        assert whole.shape == (3, 2)
        for i in range(3):
            alone = outputs_of(model.module, batches.inputs(torch.tensor([i])), kind)
            torch.testing.assert_close(whole[i], alone[0], rtol=0, atol=1e-5)
    assert whole[2, 0].item() == pytest.approx(whole[2, 1].item(), abs=1e-5), "the same choice twice"


def test_a_causal_models_number_is_the_choices_log_likelihood(folder: Path) -> None:
    kind = Choices()
    model = load_model(str(folder / "llama"), 0, kind)
    module: Any = model.module.eval()
    batches = Batches(model, Split([("a b", "c a", "b")], torch.tensor([0])), kind)
    ids = [3, 4, 5, 6, 4]  # the mark of the beginning, a b, c a
    with torch.no_grad():
        found = outputs_of(module, batches.inputs(torch.tensor([0])), kind)
        shares = module(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    assert found[0, 0].item() == pytest.approx((shares[2, 6] + shares[3, 4]).item(), abs=1e-5)
    short = load_model(str(folder / "llama"), 0, kind, max_length=4)
    cut = Batches(short, Split([("a b c a", "c a", "b")], torch.tensor([0])), kind)
    assert cut.truncated == 1
    batch = cut.inputs(torch.tensor([0]))
    assert isinstance(batch, dict)
    assert batch["input_ids"].tolist() == [[3, 4, 6, 4], [3, 6, 4, 5]], (
        "the question loses its beginning, the choice nothing"
    )
    with pytest.raises(InputError, match=r"its choice 1 has 5 tokens, and .* takes 4"):
        Batches(short, Split([("a", "a b c a b", "b")], torch.tensor([0])), kind)


def test_an_encoder_decoder_is_refused(folder: Path, tmp_path: Path) -> None:
    from tests.reference.families import save_family

    save_family("t5", tmp_path / "t5", "AutoModelForSeq2SeqLM")
    with pytest.raises(InputError, match="cannot serve a task of kind multiple-choice"):
        load_model(str(tmp_path / "t5"), 0, Choices())


# --- tunes ----------------------------------------------------------------------------------------------------------


def test_a_planted_rule_is_learnt_and_predict_names_the_choice(folder: Path) -> None:
    tuned = open_tune(folder / "task.d90")
    assert tuned.evaluate().score == 1.0
    done = cli("predict", str(folder / "task.d90"), "b", "a", "c", "b", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["question"], row["answer"], row["choice"], row["choice_3"]) == ("b", "b", 3, "b")
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    write_rows(folder / "asked.jsonl", rows(3, seed=5))
    table = cli("predict", str(folder / "task.d90"), "--file", str(folder / "asked.jsonl"), "--format", "csv").stdout
    assert table.splitlines()[0] == "line,question,choice_1,choice_2,choice_3,answer,probability,choice,p(1),p(2),p(3)"
    wrong = cli("predict", str(folder / "task.d90"), "b", "a", "c")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "expected them 4 at a time" in wrong.stderr


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(
    ("base", "method"), [("bert", "lora:r=2,targets=all"), ("bert", "full@d=60"), ("llama", "full@d=60")]
)
def test_a_tune_opens_again_and_its_merged_folder_gives_the_same(
    folder: Path, tmp_path: Path, base: str, method: str
) -> None:
    import transformers

    run = d90.train(str(folder / base), str(folder / "data"), method, **OPTIONS)
    assert run.outcome.curve[-1].loss < run.outcome.curve[0].loss
    run.save(tmp_path / "t.d90")
    score = run.score
    run.release()
    tuned = open_tune(tmp_path / "t.d90")
    assert tuned.evaluate().score == pytest.approx(score)
    out = merge(tmp_path / "t.d90", tmp_path / "model")
    name = {"bert": "AutoModelForMultipleChoice", "llama": "AutoModelForCausalLM"}[base]
    assert auto_class_of(out, tuned.kind) == name
    model: Any = getattr(transformers, name).from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ours = tuned.outputs([("a b", "c", "b", "a c")])[0]
    if base == "bert":
        given = tokenizer(["a b"] * 3, ["c", "b", "a c"], padding=True, return_tensors="pt")
        theirs = model(**{key: value[None] for key, value in given.items()}).logits[0]
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    plain = load_model(str(out), 0, tuned.kind)
    again = predict(plain, Batches(plain, tuned.kind.examples([("a b", "c", "b", "a c")]), tuned.kind), "fp32")[0]
    torch.testing.assert_close(again, ours, rtol=0, atol=1e-5)
