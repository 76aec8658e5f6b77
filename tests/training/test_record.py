"""The pair of a tune and its record: one of the two pairs opens whatever happens between two steps, and no edit is believed."""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d90 import Subspace
from d90.errors import D90Error, InputError, RunFailed
from d90.subspace import file as tune_file
from d90.subspace.fingerprint import base_of
from d90.training.recipe import Recipe, recipe_key
from d90.training.record import copy_pair, read_record, save_pair, sealed
from d90.training.result import Evaluation, TrialResult
from tests.reference.attack import MUTATIONS, attacks
from tests.reference.models import zoo

TASK = {
    "kind": "classification",
    "labels": ["no", "yes"],
    "metric": "accuracy",
    "texts": 1,
    "fingerprint": "f" * 16,
    "notes": [],
}


@functools.cache
def base() -> dict[str, str]:
    return base_of(zoo()).to_dict()


def body(seed: int) -> dict[str, Any]:
    recipe = Recipe("folder", "data.jsonl", "full@d=12", seed=seed, max_length=64)
    outcome = TrialResult(
        0.9, "finished", 0.5, (Evaluation(0, 0.5, 0.7), Evaluation(9, 0.9, 0.1)), 9, 1.0, 0.2, 12, 99, 0, "none", 0, 1e-3, "fp32"
    )  # fmt: skip
    return {
        "d90": "0",
        "recipe": recipe.to_dict(),
        "outcome": outcome.to_dict(),
        "task": TASK,
        "base": dict(base()),
    }


@functools.cache
def space(seed: int) -> Subspace:
    return Subspace(zoo(), 12, seed=seed)


def save(path: Path, seed: int) -> None:
    save_pair(path, sealed(body(seed)), space(seed).save)


def opened(path: Path) -> int:
    """The seed of the pair that opens: of its record and of its tune."""
    record = read_record(path)
    header, tensors = tune_file.read(path)
    assert header.seed == record.recipe.seed
    assert tensors["theta"].shape == (12,)
    return header.seed


STEPS = ("os.replace", "os.fsync", "os.chmod", "tempfile.mkstemp", "pathlib.Path.write_bytes", "pathlib.Path.mkdir")


def killed_at(path: Path, step: int, seed: int = 2) -> int:
    """Save in a process that dies at the step-th of the calls that touch the disk: before it or, at half steps, behind it."""
    child = os.fork()
    if child == 0:
        import importlib

        count = [0]

        def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                count[0] += 1
                if count[0] == step:
                    os._exit(9)
                return real(*args, **kwargs)

            return call

        try:
            for name in STEPS:
                holder, _, attribute = name.rpartition(".")
                owner: Any = importlib.import_module(holder) if "." not in holder else Path
                setattr(owner, attribute, wrapped(getattr(owner, attribute)))
            save(path, seed)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_killed_at_every_step_of_a_save_the_old_pair_or_the_new_one_opens(tmp_path: Path) -> None:
    path, step, seen = tmp_path / "task.d90", 1, []
    while True:
        save(path, 1)
        code = killed_at(path, step)
        seen.append(opened(path))
        if code == 0:
            break
        assert code == 9
        step += 1
    assert step > 10
    assert seen == sorted(seen), "the new pair opens from some step on"
    assert set(seen) == {1, 2}
    assert json.loads((tmp_path / "task.json").read_text()).keys() == sealed(body(2)).keys(), (
        "nothing is left of the old one"
    )


def test_killed_twice_between_the_two_files(tmp_path: Path) -> None:
    """The record written last names a tune that never came; what lies there is kept beside it once more."""
    path = tmp_path / "task.d90"
    save(path, 1)
    for seed in (2, 3):
        for step in (2, 5, 8):
            killed_at(path, step, seed)
            assert opened(path) in (1, 2, 3)


def test_a_full_disk_at_every_size_keeps_the_old_pair(tmp_path: Path) -> None:
    path = tmp_path / "task.d90"
    save(path, 1)
    whole = (tmp_path / "task.json").stat().st_size
    failed = 0
    for limit in (0, 1, 300, whole - 1, whole + 1, 2 * whole + 200, 1 << 20):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                save(path, 2)
            except RunFailed as error:
                os._exit(7 if "could not be written: File too large" in str(error) else 8)
            except BaseException:
                os._exit(8)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 7)
        failed += code == 7
        assert opened(path) == (1 if code else 2)
        assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))
    assert failed >= 4


def edited(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    record = copy.deepcopy(sealed(body(1)))
    change(record)
    return record


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "swapped labels": lambda r: r["task"]["labels"].reverse(),
    "another max_length": lambda r: r["recipe"].update(max_length=32),
    "another seed": lambda r: r["recipe"].update(seed=5),
    "another kind": lambda r: r["task"].update(kind="regression"),
    "another precision": lambda r: r["outcome"].update(precision="bf16"),
    "another model": lambda r: r["recipe"].update(model="other"),
    "another metric": lambda r: r["task"].update(metric="f1"),
    "another base": lambda r: r["base"].update(config="0" * 16),
    "another score": lambda r: r["outcome"].update(score=0.99),
    "another number of texts": lambda r: r["task"].update(texts=2),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_record_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "task.d90"
    save(path, 1)
    (tmp_path / "task.json").write_text(json.dumps(edited(EDITS[what])))
    with pytest.raises(
        InputError, match=r"task.json' is not the recipe of a tune: it was edited: its content has hash [0-9a-f]{16}"
    ):
        read_record(path)


@pytest.mark.parametrize("part", ["recipe", "outcome", "task", "base"])
def test_values_of_other_types_are_one_line(tmp_path: Path, part: str) -> None:
    """Every field, given every type that is not its own: a clear line or, where the type is allowed, "it was edited"."""
    path = tmp_path / "task.d90"
    save(path, 1)
    good = sealed(body(1))
    for field in good[part]:
        for value in (None, True, -1, 1e400, "x", [], [1], {}, {"a": 1}, 10**400):
            record = edited(lambda r, f=field, v=value: r[part].update({f: v}))  # type: ignore[misc]
            if record == good:
                continue
            (tmp_path / "task.json").write_text(json.dumps(record))
            with pytest.raises(InputError, match="is not the recipe of a tune: ") as caught:
                read_record(path)
            assert "\n" not in str(caught.value)


def mutants(text: str, count: int) -> list[bytes]:
    """A record with a value exchanged, a piece cut out or doubled, or bytes changed."""
    draw, raw, found = random.Random(0), text.encode(), []
    while len(found) < count:
        mutant = bytearray(raw)
        for _ in range(draw.randint(1, 3)):
            i, j = sorted(draw.randrange(len(mutant)) for _ in range(2))
            how = draw.randrange(4)
            if how == 0:
                mutant[i] ^= 1 << draw.randrange(8)
            elif how == 1:
                del mutant[i : min(j, i + 40)]
            elif how == 2:
                mutant[i:i] = mutant[i : min(j, i + 40)]
            else:
                mutant[i:i] = draw.choice([b"null", b"9", b"[", b'"', b"{}", b"\xff", b"1e999", b"NaN"])
        found.append(bytes(mutant))
    return found


@pytest.mark.parametrize("count", attacks(300, 2_000, MUTATIONS))
def test_mutated_records_are_refused_or_mean_the_same(tmp_path: Path, count: int) -> None:
    path = tmp_path / "task.d90"
    save(path, 1)
    good = read_record(path)
    text, taken = (tmp_path / "task.json").read_text(), 0
    lines = 0
    for mutant in mutants(text, count):
        (tmp_path / "task.json").write_bytes(mutant)
        try:
            found = read_record(path)
        except D90Error as error:
            lines += str(error).count("\n")
        else:
            taken += 1
            assert found == good, "only spaces, or a key that is not read, were changed"
    assert lines == 0
    assert taken < count / 10


def test_a_record_of_the_second_format_is_read_and_its_recipe_recomputed(tmp_path: Path) -> None:
    path = tmp_path / "task.d90"
    record = body(1)
    record["base"] = "0123456789abcdef"
    named = recipe_key(record["recipe"], TASK["fingerprint"], record["base"])[:16]  # type: ignore[arg-type]
    Subspace(zoo(), 12, seed=1).save(path, named)
    (tmp_path / "task.json").write_text(json.dumps({**record, "recipe_hash": named}))
    assert read_record(path).base == record["base"]
    record["recipe"]["max_length"] = 32
    (tmp_path / "task.json").write_text(json.dumps({**record, "recipe_hash": named}))
    with pytest.raises(InputError, match="it was edited"):
        read_record(path)


def test_a_tune_called_json_is_refused_and_a_failed_save_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"another ending, as \.d90"):
        save(tmp_path / "task.json", 1)
    broken = Subspace(zoo(), 12)
    broken.theta.data.fill_(torch.nan)
    with pytest.raises(InputError):
        save_pair(tmp_path / "t.d90", sealed(body(1)), lambda target, named: broken.save(target, named, "int8"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", STEPS[:2])
def test_a_copied_pair_is_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """measure and advise copied a tune's two files one after the other: a full disk between them left a pair that opens nowhere."""
    kept, out = tmp_path / "kept.d90", tmp_path / "out.d90"
    save(kept, 2)
    save(out, 1)

    def full(*given: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(step, full)
        with pytest.raises(RunFailed, match="No space left"):
            copy_pair(kept, out)
    assert opened(out) == 1
    copy_pair(kept, out)
    assert opened(out) == opened(kept) == 2
    with pytest.raises(InputError, match="and its record are no tune"):
        copy_pair(tmp_path / "none.d90", out)
