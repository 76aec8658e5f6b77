"""What makes examples dependent is found and counted, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d90.certificates.assumptions import WARNING, assumptions, base_hints, drop_copies, refuse_copies
from d90.errors import InputError
from d90.models.loading import Model
from d90.tasks import Split, Task
from d90.tasks.overlap import Overlap, common, normalised, overlap


def texts(*examples: str | tuple[str, str]) -> Split:
    inputs = [(example,) if isinstance(example, str) else example for example in examples]
    return Split(inputs, torch.arange(len(inputs)) % 2)


def model(name: str = "base", fresh: tuple[str, ...] = ("head",)) -> Model:
    return Model(name, torch.nn.Linear(2, 2), object(), fresh, None)


def task(train: Split, name: str = "data/x", test: Split | None = None) -> Task:
    return Task(name, "classification", ("a", "b"), "accuracy", train, texts("one two", "three four"), test)


def test_normalised() -> None:
    assert normalised("  The ﬁlm's\tGREAT -- really_great!") == "the film s great really great"
    assert normalised("Straße  Éa") == normalised("STRASSE éa")


def test_copies_near_copies_and_phrases_of_single_texts() -> None:
    split = texts(
        "A fine film", "A fine film", "a fine  film !", "it is a fine film indeed", "fine", "hide new secretions",
        "to hide new secretions from us", "nothing like it",
    )  # fmt: skip
    # "a fine film" (once, whatever its forms) and "hide new secretions" stand in others; "fine" is too short to tell
    assert overlap(split) == Overlap(8, copies=1, near=1, inside=2)
    found = overlap(split).lines
    assert [line.split()[0] for line in found] == ["1", "1", "2"]
    assert "phrases of another" in found[-1]
    assert overlap(texts("one two three", "four five six")).lines == []
    assert overlap(texts("the art", "the article is long")).inside == 0, "whole words alone"


def test_pairs_in_either_order_and_the_texts_they_share() -> None:
    split = texts(("a", "b"), ("b", "a"), ("A!", "b"), ("a", "c"), ("a", "d"), ("e", "f"), ("e", "f"))
    # ab (three forms), ac and ad share a; ef stands alone, twice
    assert overlap(split) == Overlap(7, copies=1, near=1, swapped=1, shared=3, most=3)
    assert any("up to 3 the same one" in line for line in overlap(split).lines)
    assert overlap(texts(("a", "b"), ("c", "d"))).lines == []
    assert overlap(texts(("a", "a"), ("b", "c"))).shared == 0, "a pair of equal texts shares none with another"


def test_images() -> None:
    images = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    images[4] = images[1]
    split = Split(images, torch.arange(6) % 2)
    assert overlap(split) == Overlap(6, copies=1)
    assert common(split, split) == 6
    others = Split(torch.cat([images[:2].double(), images[2:] + 0.01]), torch.arange(6) % 2)
    assert common(split, others) == 3, "two by their bytes, whatever their type, and the copy of one of them"
    signed = Split(torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]]), torch.arange(3) % 2)
    assert overlap(signed) == Overlap(3, copies=1), "a zero has one sign"
    whole = Split(torch.tensor([[1, 2], [1, 2], [2, 1]]), torch.arange(3) % 2)
    assert overlap(whole) == Overlap(3, copies=1)


def test_common_examples() -> None:
    assert common(texts(("b", "A"), ("x", "y")), texts(("a", "b"), ("c", "d"))) == 1


def test_copies_in_the_priors_part_are_refused_and_dropped_on_request() -> None:
    net = replace(model(), tokenizer=None)
    counted, first = task(texts("one", "two", "three four")), task(texts("TWO!", "seven"))
    with pytest.raises(InputError, match=r"1 of the 3 examples that count stand in the prior's part.*copies='drop'"):
        refuse_copies(net, first, counted)
    refuse_copies(net, task(texts("seven", "...")), task(texts("one", ":)")))
    whole = task(texts("one", "two", "ONE", "three", "two "))
    kept, dropped = drop_copies(net, whole)
    assert (dropped, kept.train.inputs) == (2, [("one",), ("two",), ("three",)])
    assert kept.train.labels.tolist() == [0, 1, 1]
    assert drop_copies(net, kept) == (kept, 0)


def test_what_is_found_is_warned_of() -> None:
    found = assumptions(task(texts("one two", "one two", "x")), model())
    warned = [line for line in found if line.startswith(WARNING)]
    assert any("1 of 3 examples repeat another" in line for line in warned)
    assert any("1 validation examples stand among the training examples" in line for line in warned)
    held = task(texts("one", "two"), test=texts("ONE", "five"))
    assert any("1 test examples stand" in line for line in assumptions(held, model()))
    clean = assumptions(task(texts("p", "q")), model())
    assert not any(line.startswith(WARNING) for line in clean)
    assert "no example repeats another" in clean
    assert any("(not checked)" in line for line in clean)


def test_a_base_that_may_have_seen_the_examples(tmp_path: Path) -> None:
    sst2 = task(texts("p", "q"), name="glue/sst2")
    assert base_hints(model("bert-base-uncased"), sst2) == []
    assert any("speaks of sst2" in hint for hint in base_hints(model("someone/bert-base-uncased-SST-2"), sst2))
    assert base_hints(model("someone/converted"), replace(sst2, name="glue/rte")) == [], "a name inside a word is none"
    assert any("head for 2 classes" in hint for hint in base_hints(model(fresh=()), sst2))
    assert any("voids the bound" in line for line in assumptions(sst2, model(fresh=())))
    image_net = replace(model(fresh=("0.weight",)), tokenizer=None)
    assert base_hints(image_net, sst2) == []
    (tmp_path / "README.md").write_text("datasets:\n- glue\n- sst2\n")
    assert any("card" in hint for hint in base_hints(model(str(tmp_path)), sst2))


@pytest.mark.parametrize(("source", "seen"), [("data", True), ("other", False)])
def test_a_base_pretrained_here_on_the_same_text(tmp_path: Path, source: str, seen: bool) -> None:
    (tmp_path / "run" / "step-4").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "run" / "step-4" / "pretraining.json").write_text('{"step": 4}')
    recipe = {"recipe": {"text": str(tmp_path / "data" / "train.txt")}}
    (tmp_path / "run" / "pretraining.json").write_text(json.dumps(recipe))
    documents = Task(f"text:{tmp_path / source}", "language", (), "loss", texts("p", "q"), texts("r"))
    found = base_hints(replace(model(str(tmp_path / "run" / "step-4")), vocabulary=9), documents)
    assert bool(found) == seen
    assert not seen or "was pretrained on 'train.txt'" in found[0]
