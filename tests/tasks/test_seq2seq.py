"""A text for a text: columns, the decoder's inputs, losses as the model's own, answers, methods over both stacks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.integrations.merge import merge
from d90.methods import parse
from d90.models.loading import load as load_model
from d90.tasks import Split
from d90.tasks import load as load_task
from d90.tasks.kinds import Seq2Seq
from d90.tasks.kinds.language import ABSENT
from d90.training.batches import Batches, outputs_of
from d90.training.evaluation import predict
from d90.training.loading import open_tune
from tests.reference.command import run as cli
from tests.reference.families import save_family
from tests.reference.rows import write_split
from tests.reference.tiny_causal import tiny_causal

RULE = {"a": "b", "b": "c", "c": "a"}  # what is written for each word
OPTIONS: dict[str, Any] = {"epochs": 8, "batch_size": 8, "evaluations": 2, "lr": 5e-3, "precision": "fp32"}
FAMILIES = ("t5", "bart", "mbart", "marian")


def pairs(count: int, seed: int = 0, longest: int = 4) -> list[dict[str, str]]:
    draw = random.Random(seed)
    words = [draw.choices("abc", k=draw.randint(1, longest)) for _ in range(count)]
    return [{"source": " ".join(row), "target": " ".join(RULE[word] for word in row)} for row in words]


def words(count: int) -> list[dict[str, str]]:
    """One word each: learnt in seconds."""
    return [{"source": word, "target": RULE[word]} for word in ("abc" * count)[:count]]


def base(folder: Path, family: str) -> str:
    return str(save_family(family, folder / family, "AutoModelForSeq2SeqLM"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5, a task, and a tune of all weights."""
    path = tmp_path_factory.mktemp("seq2seq")
    write_split(path / "data", words(90))
    write_split(path / "data", words(30), "validation.jsonl")
    run = d90.train(base(path, "t5"), str(path / "data"), "full", **{**OPTIONS, "lr": 1e-2})
    run.save(path / "task.d90")
    run.release()
    return path


# --- columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("source", "target"), ("src", "tgt"), ("document", "summary"), ("en", "de")])
def test_usual_columns_and_translations_are_one_task(tmp_path: Path, names: tuple[str, str]) -> None:
    rows = [dict(zip(names, row.values(), strict=True)) for row in pairs(20)]
    given = [{"translation": row} for row in rows] if names[0] == "en" else rows
    task = load_task(write_split(tmp_path, given))
    assert (task.kind.name, task.metric, task.texts) == ("seq2seq", "loss", 1)
    assert task.fingerprint == load_task(write_split(tmp_path / "same", pairs(20))).fingerprint
    turned = load_task(str(tmp_path), kind="seq2seq", text=names[1], label=names[0])
    assert turned.train.inputs[0] == task.train.inputs[0][::-1]


@pytest.mark.parametrize("options", [{"text": "mr", "label": "ref"}, {"prompt": "mr", "completion": "ref"}])
def test_other_columns_are_named(tmp_path: Path, options: dict[str, str]) -> None:
    where = write_split(tmp_path, [{"id": i, "mr": f"name[{i}]", "ref": f"It is {i}."} for i in range(20)])
    task = load_task(where, kind="seq2seq", **options)
    assert ("name[3]", "It is 3.") in [*task.train.inputs, *task.validation.inputs]
    with pytest.raises(InputError, match=r"no columns source and target; it has id, mr, ref. Name both with --text"):
        load_task(where, kind="seq2seq")


def test_prompts_and_completions_are_sources_and_targets_where_the_kind_is_named(tmp_path: Path) -> None:
    where = write_split(tmp_path, [{"prompt": f"ask {i}", "completion": f"say {i}"} for i in range(20)])
    assert load_task(where).kind.name == "instruction"
    assert load_task(where, kind="seq2seq").train.inputs[0][0].startswith("ask")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"source": "a", "target": " "}, "line 3: 'target' is empty, expected a text"),
        ({"source": "", "target": "a"}, "line 3: 'source' is empty, expected a text"),
        ({"source": "a"}, "line 3: no text in column 'target'"),
        ({"source": ["a"], "target": "a"}, "line 3: column 'source' holds a list"),
        ({"source": "a", "target": "\ud83d"}, "line 3: half a surrogate pair"),
    ],
)
def test_a_row_without_both_texts_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_task(write_split(tmp_path, [*pairs(2), row]))


def test_a_model_of_the_other_direction_is_refused_with_what_fits(tmp_path: Path) -> None:
    where = write_split(tmp_path / "data", pairs(20))
    with pytest.raises(
        InputError, match=r"is no encoder-decoder.*for a causal language model name the columns with --prompt"
    ):
        d90.train(str(tiny_causal(tmp_path / "llama")), where)
    (tmp_path / "d.txt").write_text("a b\n\nb c\n\nc a\n")
    for family in ("t5", "bart"):
        with pytest.raises(InputError, match=r"is an encoder-decoder, and a task of kind language.*add --kind seq2seq"):
            d90.train(base(tmp_path, family), f"text:{tmp_path}/d.txt")


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_examples_loss_is_the_models_own_alone_and_among_others(tmp_path: Path, family: str) -> None:
    kind = Seq2Seq()
    model = load_model(base(tmp_path, family), 0, kind)
    module: Any = model.module.eval()
    rows = [("a b", "b"), ("c", "a b c a"), ("a b c a b", "c c")]
    batches = Batches(model, Split(rows, torch.zeros(3).long()), kind)
    with torch.no_grad():
        whole = outputs_of(module, batches.inputs(torch.arange(3)), kind)
        losses = kind.losses(whole, batches.labels)
        for i, (source, target) in enumerate(rows):
            tokenizer: Any = model.tokenizer
            given = tokenizer(source, return_tensors="pt", return_token_type_ids=False)
            labels = tokenizer(text_target=target, return_tensors="pt")["input_ids"]
            assert (whole[i] != ABSENT).sum() == labels.shape[1]
            assert losses[i].item() == pytest.approx(module(**given, labels=labels).loss.item(), abs=1e-5)
            alone = outputs_of(module, batches.inputs(torch.tensor([i])), kind)
            torch.testing.assert_close(whole[i, : alone.shape[1]], alone[0], rtol=0, atol=1e-5)


def test_texts_longer_than_the_model_are_cut_and_counted(tmp_path: Path) -> None:
    kind = Seq2Seq()
    model = load_model(base(tmp_path, "bart"), 0, kind, max_length=6)
    data = load_task(
        write_split(tmp_path / "data", [{"source": "a " * 9, "target": "b"}, {"source": "a", "target": "b " * 9}])
    )
    batches = Batches(model, data.train, kind)
    assert batches.truncated + Batches(model, data.validation, kind).truncated == 2
    batch = batches.inputs(torch.tensor([0]))
    assert isinstance(batch, dict)
    assert max(batch["input_ids"].shape[1], batch["target"].shape[1]) == 6


# --- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_bleu_and_chrf_are_sacrebleus_over_sources_with_all_their_targets(metric: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    kind = Seq2Seq()
    rows = [
        ("a", "the cat sat on the mat"),
        ("b", "it is a small dog"),
        ("a", "a cat was sitting on a mat"),
        ("c", "no"),
    ]
    split = Split(rows, torch.zeros(4).long())
    asked = kind.questions(None, split, True, "m")
    answers = ["the cat sat on a mat", "it is a dog", "the cat sat on a mat", "yes"]
    counts = torch.as_tensor(kind.grade(metric, asked, answers))
    theirs = {"bleu": sacrebleu.corpus_bleu, "chrf": sacrebleu.corpus_chrf}[metric]
    streams = [[rows[0][1], rows[1][1], "no"], [rows[2][1], None, None]]
    once = [answers[0], answers[1], answers[3]]
    assert kind.measure(metric, counts, split.labels) == pytest.approx(theirs(once, streams).score / 100)
    part = theirs(once[:2], [stream[:2] for stream in streams]).score / 100
    assert kind.measure(metric, counts[:3], split.labels[:3]) == pytest.approx(part), "of sources, they add up"
    right = torch.as_tensor(kind.grade(metric, asked, [target for _, target in rows]))
    assert kind.measure(metric, right[:3], split.labels[:3]) == pytest.approx(1.0)
    guess = torch.as_tensor(kind.grade(metric, asked, ["the cat sat on the mat"] * 4))
    assert kind.constant(metric, split, split) == pytest.approx(kind.measure(metric, guess, split.labels))


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_rouge_is_the_packages_against_the_reference_that_fits_best() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rougeL"])
    kind = Seq2Seq()
    split = Split([("a", "the cat sat on the mat"), ("b", "no"), ("a", "one cat")], torch.zeros(3).long())
    asked = kind.questions(None, split, True, "m")
    found = kind.grade("rouge1", asked, ["the cat sat", "no", "cat"])
    assert found == pytest.approx([2 / 3, 1.0, 2 / 3]), "cat: half of one cat, a sixth of the other"
    own = scorer.score("the cat sat on the mat", "mat the sat")["rougeL"].fmeasure
    assert kind.grade("rougeL", asked, ["mat the sat", "", ""])[0] == pytest.approx(own) == pytest.approx(4 / 9)
    assert kind.grade("rouge2", asked, ["the cat", "", ""]) == pytest.approx([1 / 3, 0.0, 0.0])
    assert kind.measure("rouge1", torch.tensor(found), split.labels) == pytest.approx(7 / 9)
    guess = kind.grade("rouge1", asked, ["the cat sat on the mat"] * 3)
    assert kind.constant("rouge1", split, split) == pytest.approx(sum(guess) / 3)


def test_training_goes_by_a_metric_of_answers_and_evaluate_takes_another(folder: Path) -> None:
    tuned = open_tune(folder / "task.d90")
    assert tuned.evaluate(metric="exact").score == 1.0
    assert tuned.evaluate(metric="chrf").score == pytest.approx(1.0)
    assert load_task(str(folder / "data"), metric="exact").chance() == pytest.approx(1 / 3)
    with pytest.raises(InputError, match=r"unknown metric of seq2seq.*'accuracy'"):
        tuned.evaluate(metric="accuracy")
    run = d90.train(
        str(folder / "t5"), str(folder / "data"), "full", columns={"metric": "exact"}, **{**OPTIONS, "epochs": 1}
    )
    assert 0 <= run.score <= 1
    run.release()


# --- tunes ----------------------------------------------------------------------------------------------------------


def test_a_planted_rule_is_learnt_and_the_reopened_tune_writes_it(folder: Path) -> None:
    tuned = open_tune(folder / "task.d90")
    record = json.loads((folder / "task.json").read_text())
    assert -tuned.evaluate().score == pytest.approx(-record["outcome"]["score"], rel=1e-5)
    assert tuned.evaluate().loss < 0.3
    assert [row["answer"] for row in tuned.describe([("a",), ("b",), ("c",)])] == ["b", "c", "a"]


def test_predict_writes_jsonl_csv_and_lines(folder: Path) -> None:
    done = cli("predict", "task.d90", "a", "b", "--format", "jsonl", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"source": "a", "answer": "b"},
        {"source": "b", "answer": "c"},
    ]
    assert cli("predict", "task.d90", "a", "--format", "csv", cwd=folder).stdout.split() == ["source,answer", "a,b"]
    assert cli("predict", "task.d90", "a", cwd=folder).stdout.split() == ["b", "a"]
    assert cli("generate", "task.d90", "b", "--max-new-tokens", "2", cwd=folder).stdout.split() == ["c"]


@pytest.mark.filterwarnings("ignore:.*")
def test_a_merged_folder_generates_the_same_texts(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    out = merge(folder / "task.d90", tmp_path / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForSeq2SeqLM.from_pretrained(out)
    texts = ["a", "b", "c"]
    given = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    found = tokenizer.batch_decode(model.generate(**given), skip_special_tokens=True)
    assert found == [row["answer"] for row in open_tune(folder / "task.d90").describe([(text,) for text in texts])]


def test_a_position_table_that_no_folder_holds_does_not_move(tmp_path: Path) -> None:
    """Marian's sinusoids: moved, they were lost in the merged folder, whose outputs differed by 1e-3."""
    run = d90.train(
        base(tmp_path, "marian"), write_split(tmp_path / "data", pairs(24)), "full@d=50", **{**OPTIONS, "epochs": 1}
    )
    run.save(tmp_path / "t.d90")
    kind, split = run.task.kind, run.task.validation
    before = predict(run.model, Batches(run.model, split, kind), "fp32")
    run.release()
    plain = load_model(str(merge(tmp_path / "t.d90", tmp_path / "out")), 0, kind)
    torch.testing.assert_close(predict(plain, Batches(plain, split, kind), "fp32"), before, rtol=0, atol=2e-5)
    still = [name for name, p in plain.module.named_parameters() if not p.requires_grad]
    assert still == ["model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"]


METHODS = (
    "full@d=40", "full@d=40,structure=said", "lora:r=2", "bitfit", "pafi:fraction=0.05", "hiwi:on=weight,r=4", "adapter:r=4",
    "preembed:prefix=2", "prelayer:prefix=2", "top:n=1", "lora:r=2@d=40", "bitfit@d=40", "pafi:fraction=0.05@d=40",
    "hiwi:on=weight,r=4@d=40",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_an_encoder_decoder_and_opens_again(tmp_path: Path, method: str) -> None:
    data = load_task(write_split(tmp_path / "data", pairs(60)))
    run = d90.train(base(tmp_path, "bart"), data, method, **{**OPTIONS, "epochs": 2, "lr": 0.02})
    assert run.outcome.curve[-1].loss < run.outcome.curve[0].loss
    run.save(tmp_path / "t.d90")
    score = run.score
    run.release()
    assert open_tune(tmp_path / "t.d90").evaluate(data).score == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_adapts_encoder_decoder_and_cross_attention(tmp_path: Path, family: str) -> None:
    model = load_model(base(tmp_path, family), 0, Seq2Seq())
    applied = parse("lora:r=2").method.apply(model.module)
    names = [name for name, p in model.module.named_parameters() if p.requires_grad and "lora_A" in name]
    cross = [name for name in names if "EncDecAttention" in name or "encoder_attn" in name]
    own = [name for name in names if "decoder." in name and name not in cross]
    assert (len(names), len(cross), len(own)) == (12, 4, 4), (
        "q and v in 2 blocks of the encoder, twice in 2 of the decoder"
    )
    applied.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_blocks_of_both_stacks_and_shared_embeddings_count_once(tmp_path: Path, family: str) -> None:
    model = load_model(base(tmp_path, family), 0, Seq2Seq())
    total = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
    space = d90.Subspace(model.module, d=8, structure="said")
    assert space.layer_definition.count(" and ") == 1
    blocks = 4
    assert blocks + 1 <= space.m <= blocks + 3, "two blocks of each stack, what stands before, between and behind"
    assert total == space.D
    shared: Any = model.module.get_input_embeddings()
    assert sum(p is shared.weight for p in model.module.parameters()) == 1
    space.release()
