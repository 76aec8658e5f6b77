"""Tasks by name: the embedded one, idx images, local datasets; the contract of `Task`."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch

from d90 import tasks
from d90.errors import InputError
from d90.tasks import Split, Task
from d90.tasks.docstrings import library_modules, part_of

# --- the contract --------------------------------------------------------------------------------------------------------


def _task(metric: str = "accuracy", kind: str = "classification", classes: int = 2) -> Task:
    names = tuple("abc"[:classes]) if kind == "classification" else ()
    labels = torch.tensor([0, 1, 0])
    split = Split([("x",), ("y",), ("z",)], labels if names else labels.float())
    return Task("t", kind, names, metric, split, split)


@pytest.mark.parametrize(
    ("metric", "kind", "classes", "words"),
    [
        ("accurasy", "classification", 2, "Did you mean 'accuracy'"),
        ("accuracy", "regression", 0, "expected pearson or spearman or loss"),
        ("pearson", "classification", 2, "expected accuracy or f1 or matthews"),
        ("f1", "classification", 3, "for 3 classes, expected 2"),
    ],
)
def test_a_metric_that_does_not_fit(metric: str, kind: str, classes: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        _task(metric, kind, classes)


def test_chance_is_the_majority_and_limits_nest() -> None:
    task = _task()
    assert task.chance() == pytest.approx(2 / 3)
    assert task.limit(2).train.inputs == task.train.inputs[:2]
    assert task.limit(2).fingerprint != task.fingerprint == task.limit(3).fingerprint
    assert task.score(torch.tensor([[1.0, 0], [0, 1], [0, 1]])) == pytest.approx(2 / 3)


def test_a_loss_is_a_metric_of_which_more_is_better() -> None:
    task = _task("loss")
    good, bad = torch.tensor([[9.0, 0], [0, 9], [9, 0]]), torch.tensor([[0.0, 9], [0, 9], [9, 0]])
    assert task.score(good) > task.score(bad)
    assert task.score(bad) == pytest.approx(-task.loss(bad, task.validation.labels).item())
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert task.chance() == pytest.approx(-entropy), "the frequencies of the classes"
    values = _task("loss", "regression")
    assert values.chance() == pytest.approx(-2 / 9), "the mean of the labels"


def test_a_test_split_is_made_from_training_examples_alone() -> None:
    texts = [(f"t{i}",) for i in range(50)]
    whole = Split(texts, torch.arange(50) % 2)
    task = Task("t", "classification", ("a", "b"), "accuracy", whole, whole.take(5))
    made = task.with_test()
    assert made.test is not None
    assert len(made.test) == 5
    assert sorted([*made.train.inputs, *made.test.inputs]) == sorted(texts)
    assert made.validation.inputs == task.validation.inputs
    assert "test: 5 of the training examples" in made.notes[-1]
    assert made.with_test() is made
    assert made.fingerprint == task.with_test().fingerprint != task.fingerprint
    images = Split(torch.randn(50, 1, 2, 2), torch.arange(50) % 2)
    pictures = Task("i", "classification", ("a", "b"), "accuracy", images, images).with_test()
    assert torch.equal(pictures.test.labels, made.test.labels), "the same bits"
    with pytest.raises(InputError, match="expected at least 4"):
        _task().with_test()


# --- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("docstring", "unknown task 'docstring'.*docstrings"),
        ("nowhere.jsonl", "no such file or folder"),
        ("./nowhere", "no such file or folder"),
        ("glue/mprc", "unknown GLUE task 'mprc'.*Did you mean 'mrpc'"),
        ("no-such/dataset", "unknown task 'no-such/dataset'.*Check the name and the network"),
    ],
)
def test_unknown_names(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("D90_DATASETS", raising=False)
    with pytest.raises(InputError, match=words) as caught:
        tasks.load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"text": "a"}, {"label": "label"}, {"kind": "regression"}])
@pytest.mark.parametrize("name", ["docstrings", "idx:x", "glue/mrpc"])
def test_options_that_would_be_ignored_are_refused(name: str, options: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"got {next(iter(options))} for task '{name}'"):
        tasks.load(name, **options)


@pytest.mark.parametrize("limits", [{"limit": 0}, {"validation_limit": -1}])
def test_impossible_limits(limits: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected at least 1"):
        tasks.load("docstrings", **limits)


# --- docstrings ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules() -> dict[str, list[tuple[str, str]]]:
    return dict(library_modules())


@pytest.fixture(scope="module")
def docstrings(modules: dict[str, list[tuple[str, str]]]) -> Task:
    with pytest.MonkeyPatch.context() as patch:  # the library is parsed once
        patch.setattr("d90.tasks.docstrings.library_modules", lambda: iter(modules.items()))
        return tasks.load("docstrings")


def test_docstrings_are_balanced_at_every_prefix(docstrings: Task) -> None:
    assert sum(map(len, docstrings.splits.values())) > 3000
    for split in docstrings.splits.values():
        assert len(split) > 200
        assert 0.44 < split.labels.float().mean().item() < 0.56
    assert 0.4 < docstrings.limit(300).train.labels.float().mean().item() < 0.6


def test_docstrings_share_no_module(docstrings: Task, modules: dict[str, list[tuple[str, str]]]) -> None:
    for part, split in docstrings.splits.items():
        inside = [functions for name, functions in modules.items() if part_of(name) == part]
        assert len(split) == sum(map(len, inside))
        own = {pair for functions in inside for pair in functions}
        texts = {text for _, text in own}
        assert sorted(signature for signature, _ in split.inputs) == sorted(s for fs in inside for s, _ in fs)
        assert all(text in texts for _, text in split.inputs)
        assert all(pair in own for pair, label in zip(split.inputs, split.labels.tolist(), strict=True) if label)


def test_docstrings_are_the_same_twice_and_of_the_library_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a small library: 24 modules, and folders that do not count."""
    for folder in ("", "test", "site-packages/x", "idlelib", "lib2to3"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for m in range(24):
            functions = [
                f'def f{k}(a, b={k}):\n    """The {k}th function of module {m}{folder}.\n\n    More."""\n'
                for k in range(9)
            ]
            (tmp_path / folder / f"m{m}.py").write_text("raise SystemExit\n" + "".join(functions))  # never imported
    (tmp_path / "broken.py").write_text("def (")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    first, second = tasks.load("docstrings"), tasks.load("docstrings")
    assert first.fingerprint == second.fingerprint
    assert sum(map(len, first.splits.values())) == 24 * 9
    homes = {part: {text.split()[-1] for _, text in split.inputs} for part, split in first.splits.items()}
    assert sum(map(len, homes.values())) == len(set().union(*homes.values())) == 24
    assert tasks.load("docstrings", limit=20).train.inputs == first.train.inputs[:20]
    assert tasks.load("docstrings", metric="f1").metric == "f1"
    for path in tmp_path.glob("m*.py"):
        path.unlink()
    with pytest.raises(InputError, match="without the sources of its standard library"):
        tasks.load("docstrings")


def test_docstrings_do_not_give_themselves_away(docstrings: Task) -> None:
    starts = sum(text.startswith(signature.split("(")[0] + "(") for signature, text in docstrings.train.inputs)
    assert starts < 0.03 * len(docstrings.train)


# --- images --------------------------------------------------------------------------------------------------------------


def _idx(path: Path, *shape: int, values: bytes | None = None, magic: bytes | None = None) -> None:
    count = 1
    for n in shape:
        count *= n
    body = bytes(i * 7 % 251 for i in range(count)) if values is None else values
    raw = (magic or bytes((0, 0, 8, len(shape)))) + b"".join(n.to_bytes(4, "big") for n in shape) + body
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    _idx(tmp_path / "train-images-idx3-ubyte.gz", 6, 3, 2)
    _idx(tmp_path / "train-labels-idx1-ubyte", 6, values=bytes((0, 1, 2, 0, 1, 2)))
    _idx(tmp_path / "t10k-images-idx3-ubyte", 4, 3, 2)
    _idx(tmp_path / "t10k-labels-idx1-ubyte.gz", 4, values=bytes((2, 1, 0, 0)))
    return tmp_path


def test_images_are_normalised_by_the_training_set(images: Path) -> None:
    task = tasks.load(f"idx:{images}")
    assert isinstance(task.train.inputs, torch.Tensor)
    assert isinstance(task.validation.inputs, torch.Tensor)
    assert task.train.inputs.shape == (6, 1, 3, 2)
    assert task.train.inputs.mean().item() == pytest.approx(0, abs=1e-6)
    assert task.train.inputs.std().item() == pytest.approx(1)
    assert torch.equal(task.validation.inputs, task.train.inputs[:4])  # the same bytes, the same scale
    assert task.validation.labels.tolist() == [2, 1, 0, 0]
    assert (task.test, task.labels, task.texts) == (None, ("0", "1", "2"), 0)
    assert "mean" in task.notes[0]
    assert tasks.load(f"idx:{images}", metric="matthews").metric == "matthews"


def test_unsound_images(images: Path) -> None:
    file = images / "t10k-images-idx3-ubyte"
    good = file.read_bytes()
    cases = {
        b"": "got magic nothing, expected 00000803",
        good[:2]: "got magic 0000",
        b"\0\0\x0d\x03" + good[4:]: "got magic 00000d03",
        good[:10]: "expected 00000803",
        good[:-1]: "24 bytes, and it holds 23",
        good + b"x": "24 bytes, and it holds more",
        good[:4] + b"\xff" * 12 + good[16:]: "it holds 24",  # a header that claims 2^96 bytes
        good[:4] + b"\0" * 12: "0 bytes",
    }
    for raw, words in cases.items():
        file.write_bytes(raw)
        with pytest.raises(InputError, match=words):
            tasks.load(f"idx:{images}")
    file.unlink()
    with pytest.raises(InputError, match="has no t10k-images-idx3-ubyte or"):
        tasks.load(f"idx:{images}")


def test_a_cut_gz_image_file(images: Path) -> None:
    file = images / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged gzip file"):
        tasks.load(f"idx:{images}")
    file.write_bytes(b"not gzip")
    with pytest.raises(InputError, match="damaged gzip file"):
        tasks.load(f"idx:{images}")


def test_images_that_do_not_belong_together(images: Path) -> None:
    _idx(images / "t10k-labels-idx1-ubyte.gz", 4, values=bytes((2, 1, 3, 0)))
    with pytest.raises(InputError, match="label 3 is not among the training labels 0 to 2"):
        tasks.load(f"idx:{images}")
    _idx(images / "t10k-labels-idx1-ubyte.gz", 3)
    with pytest.raises(InputError, match="4 t10k images and 3 labels"):
        tasks.load(f"idx:{images}")
    _idx(images / "t10k-labels-idx1-ubyte.gz", 4, values=bytes(4))
    _idx(images / "t10k-images-idx3-ubyte", 4, 2, 2)
    with pytest.raises(InputError, match=r"\(3, 2\) and t10k images \(2, 2\)"):
        tasks.load(f"idx:{images}")
    _idx(images / "train-images-idx3-ubyte.gz", 6, 3, 2, values=bytes(36))
    with pytest.raises(InputError, match="every pixel"):
        tasks.load(f"idx:{images}")


# --- datasets ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of local copies, read by the real library, which keeps its cache here."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("D90_DATASETS", str(tmp_path / "mirror"))
    return tmp_path / "mirror"


def _write(path: Path, count: int, label: object = None, **columns: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {key: f"{value} {i}" for key, value in columns.items()} | {"label": i % 3 if label is None else label}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_glue_from_a_mirror(mirror: Path) -> None:
    pair = {"premise": "p", "hypothesis": "h"}
    _write(mirror / "glue/mnli/train.jsonl", 9, **pair)
    _write(mirror / "glue/mnli/validation_matched.jsonl", 6, **pair)
    _write(mirror / "glue/mnli/validation_mismatched.jsonl", 4, **pair)
    _write(mirror / "glue/mnli/test_matched.jsonl", 4, -1, **pair)
    task = tasks.load("glue/mnli", limit=5)
    assert {part: len(split) for part, split in task.splits.items()} == {"train": 5, "validation": 6}
    assert (task.labels, task.metric, task.test) == (("0", "1", "2"), "accuracy", None)
    assert task.train.inputs[0] == ("p 0", "h 0")
    assert "validation_matched" in task.notes[0]
    other = tasks.load("glue/mnli_mismatched")
    assert {part: len(split) for part, split in other.splits.items()} == {"train": 9, "validation": 4}
    assert "validation_mismatched" in other.notes[0]


def test_glue_metrics_and_a_mirror_that_lacks_a_split(mirror: Path) -> None:
    _write(mirror / "glue/cola/train.jsonl", 9, sentence="s")
    with pytest.raises(InputError, match=r"has splits train, expected validation \(as in validation.jsonl\)"):
        tasks.load("glue/cola")
    _write(mirror / "glue/cola/validation.jsonl", 6, sentence="s")
    assert tasks.load("glue/cola").metric == "matthews"
    for part in ("train", "validation"):
        _write(mirror / f"glue/stsb/{part}.jsonl", 5, sentence1="a", sentence2="b")
    task = tasks.load("glue/stsb", metric="spearman")
    assert (task.kind.name, task.metric, task.outputs) == ("regression", "spearman", 1)


def test_a_local_dataset_folder_and_hidden_labels(mirror: Path) -> None:
    folder = mirror / "owner/name"
    _write(folder / "train.jsonl", 12, text="t")
    _write(folder / "dev.jsonl", 6, text="t")
    _write(folder / "test.jsonl", 6, -1, text="t")
    for name in ("owner/name", f"hub:{folder}"):
        task = tasks.load(name)
        assert {part: len(split) for part, split in task.splits.items()} == {"train": 12, "validation": 6}
        assert task.notes[0] == "test: left out, no labels"
    with pytest.raises(InputError, match="no column 'body'; it has text, label"):
        tasks.load("owner/name", text="body")
    with pytest.raises(InputError, match="no label column 'y'; it has text, label"):
        tasks.load("owner/name", label="y")


def test_a_datasets_layout_and_the_bars_given_back(mirror: Path) -> None:
    import datasets

    bars = datasets.is_progress_bar_enabled()
    rows = {"text": list("abcdef"), "label": [0, 1] * 3}
    (mirror / "x/data").mkdir(parents=True)
    datasets.Dataset.from_dict(rows).to_parquet(mirror / "x/data/train-00000-of-00001.parquet")
    task = tasks.load(f"hub:{mirror / 'x'}")
    assert (len(task.train), len(task.validation)) == (5, 1)
    with pytest.raises(InputError, match=f"for a folder that the datasets library reads hub:{mirror / 'x'}"):
        tasks.load(str(mirror / "x"))
    (mirror / "empty").mkdir()
    with pytest.raises(InputError, match="is no dataset that can be read") as caught:
        tasks.load(f"hub:{mirror / 'empty'}")
    assert "\n" not in str(caught.value)
    assert datasets.is_progress_bar_enabled() == bars
