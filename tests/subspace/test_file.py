"""The tiny file: it rebuilds the same weights anywhere, and is refused where it does not belong or is damaged."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from d90 import Subspace
from d90.errors import InputError, RunFailed
from d90.projections import kernels
from d90.subspace import file as tune_file
from d90.subspace import layout, packing
from d90.subspace.fingerprint import Base, base_of, note_tokenizer
from tests.reference.attack import MUTATIONS, attacks
from tests.reference.command import run
from tests.reference.models import Normed, words, zoo
from tests.reference.states import hooks_of, same, values

RECIPE = "0123456789abcdef"


def tuned(d: int = 12, structure: str = "did", **options: object) -> Subspace:
    space = Subspace(zoo(), d, structure=structure, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        space.theta.normal_(0, 0.01, generator=torch.Generator().manual_seed(d))
    space.flush()
    return space


def saved(tmp_path: Path, **options: object) -> tuple[Path, Subspace]:
    space = tuned(**options)  # type: ignore[arg-type]
    space.save(tmp_path / "task.d90", RECIPE)
    return tmp_path / "task.d90", space


CHOICES = ("structure", "projection", "scale", "layer", "head", "seed")
OPTIONS = [
    ("did", "fastfood", "tensor", "block", "inside", 0),
    ("said", "fastfood:gaussian", "global", "module", "inside", 7),
    ("said", "onehot:one", "relative", "block", "outside", (1 << 64) - 1),
    ("did", "dense:gaussian", "relative", "tensor", "inside", 3),
    ("did", "sparse", "tensor", "block", "outside", 1 << 33),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tune_comes_back_bit_for_bit(tmp_path: Path, options: tuple[object, ...], dtype: torch.dtype) -> None:
    """Every combination that a file can name, in a model of each type."""
    space = Subspace(zoo().to(dtype), 12, **dict(zip(CHOICES, options, strict=True)))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in space.parameters():
            parameter.normal_(0, 0.01)
    outputs, weights = space.model(words()), values(space.model)
    space.save(tmp_path / "task.d90", RECIPE)
    model = zoo().to(dtype)
    loaded = Subspace.load(tmp_path / "task.d90", model)
    assert torch.equal(model(words()), outputs)
    assert same(values(model), weights)
    assert torch.equal(loaded.theta, space.theta)
    assert repr(loaded) == repr(space)
    assert loaded.header(RECIPE) == space.header(RECIPE) == tune_file.read(tmp_path / "task.d90")[0]
    loaded.save(tmp_path / "again.d90", RECIPE)
    assert (tmp_path / "again.d90").read_bytes() == (tmp_path / "task.d90").read_bytes()
    loaded.release()
    assert same(values(model), values(zoo().to(dtype)))


FRESH = """
import sys, torch
from d90 import Subspace
from tests.reference.models import words, zoo
model = zoo()
torch.manual_seed(int(sys.argv[2]))
torch.set_num_threads(2)
space = Subspace.load(sys.argv[1], model)
torch.save([model(words()).detach(), model.state_dict(), space.theta.detach()], sys.argv[1] + ".out")
"""


def test_a_fresh_process_has_the_same_outputs(tmp_path: Path) -> None:
    path, space = saved(tmp_path, d=30, structure="said")
    root = str(Path(__file__).parents[2])
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n" + FRESH, str(path), "99"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    outputs, state, theta = torch.load(str(path) + ".out")
    assert torch.equal(outputs, space.model(words()))
    assert same(dict(state), values(space.model))
    assert torch.equal(theta, space.theta)
    assert theta.abs().min() > 0


@pytest.mark.parametrize("projection", ["fastfood", "fastfood:gaussian", "onehot"])
def test_every_path_gives_the_same_predictions(tmp_path: Path, projection: str) -> None:
    """Compiled or torch: the same answers, outputs within rounding, and weights within 1e-6 of their norm."""
    path, space = saved(tmp_path, d=30, structure="said", projection=projection)
    outputs, weights = space.model(words(64)), space.model.state_dict()
    for kernel in ("torch", *kernels.available()):
        with kernels.forced(kernel):
            Subspace.load(path, model := zoo())
            found = model(words(64))
        assert torch.equal(found.argmax(-1), outputs.argmax(-1))
        torch.testing.assert_close(found, outputs, rtol=1e-5, atol=1e-5)
        for name, weight in model.state_dict().items():
            assert (weight - weights[name]).norm() <= 1e-6 * weights[name].norm()


@pytest.mark.parametrize("projection", ["fastfood", "fastfood:gaussian", "onehot:one"])
@pytest.mark.parametrize(("dtype", "most"), [("fp32", 1023), ("bf16", 640), ("int8", 512)])
def test_under_a_kilobyte(tmp_path: Path, projection: str, dtype: str, most: int) -> None:
    """d = 200 with lambdas, over blocks, with the recipe's hash and the longest seed."""
    longest = {"structure": "said", "layer": "block", "seed": (1 << 64) - 1, "scale": "relative"}
    space = tuned(d=200, projection=projection, **longest)
    note_tokenizer(space.model, "89abcdef")
    space.save(tmp_path / "task.d90", RECIPE, dtype=dtype)
    assert space.m > 1
    assert (tmp_path / "task.d90").stat().st_size <= most
    header, tensors = tune_file.read(tmp_path / "task.d90")
    assert (header.recipe, header.tokenizer, header.seed) == (RECIPE, "89abcdef", (1 << 64) - 1)
    assert list(tensors) == ["theta"]
    assert tensors["theta"].shape == (200,)


@pytest.mark.parametrize("d", [2, 63, 64, 65, 1000])
@pytest.mark.parametrize(("dtype", "share"), [("bf16", 0.0025), ("int8", 0.007)])
def test_fewer_bytes_stay_close(tmp_path: Path, d: int, dtype: str, share: float) -> None:
    """Each number within its bound, the whole within the documented share, the same in every copy that is made."""
    theta = torch.randn(d, generator=torch.Generator().manual_seed(d)) * 0.02
    tune_file.write(tmp_path / "a.d90", tune_file.Header("did", step_rule=1), {"theta": theta}, dtype)
    header, tensors = tune_file.read(tmp_path / "a.d90")
    error = (tensors["theta"] - theta).abs()
    assert tensors.keys() == {"theta"}
    assert tensors["theta"].dtype == torch.float32
    assert error.norm() > 0
    if d == 1000:
        assert error.norm() < share * theta.norm()
    if dtype == "bf16":
        assert (error <= theta.abs() * 2**-8).all()
    else:
        most = torch.stack([group.abs().max() for group in theta.split(packing.GROUP)]).repeat_interleave(
            packing.GROUP
        )[:d]
        assert (error <= most / 254 * (1 + 1e-5)).all()
    assert tune_file.about(tmp_path / "a.d90").dtype == dtype
    tune_file.write(tmp_path / "b.d90", header, tensors)
    assert torch.equal(tune_file.read(tmp_path / "b.d90")[1]["theta"], tensors["theta"])


def test_int8_of_zeros_and_of_very_small_numbers(tmp_path: Path) -> None:
    for value in (0.0, 1e-42, -3e-39, 1e30):
        theta = torch.full((70,), value)
        tune_file.write(tmp_path / "t.d90", tune_file.Header("did"), {"theta": theta}, "int8")
        back = tune_file.read(tmp_path / "t.d90")[1]["theta"]
        assert (back - theta).abs().max() <= max(abs(value) / 100, 1e-38)


@pytest.mark.parametrize("head", ["inside", "outside"])
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_rounded_tune_is_the_same_in_every_load(tmp_path: Path, head: str, dtype: str) -> None:
    """Two models, one file: bit-equal weights; only theta is rounded, and the space that saved it is not."""
    space = tuned(d=30, structure="said", head=head)
    before = space.theta.detach().clone()
    space.save(tmp_path / "t.d90", dtype=dtype)
    assert torch.equal(space.theta, before)
    first, second = Subspace.load(tmp_path / "t.d90", zoo()), Subspace.load(tmp_path / "t.d90", zoo())
    assert same(values(first.model), values(second.model))
    assert not torch.equal(first.theta, before)
    assert torch.allclose(first.theta, before, atol=float(before.abs().max()) / 200)
    if head == "outside":
        assert torch.equal(first.model.head.bias, space.model.head.bias)  # type: ignore[union-attr]


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    space = tuned()
    with pytest.raises(InputError, match="unknown dtype 'int4': expected one of fp32, bf16, int8"):
        space.save(tmp_path / "t.d90", dtype="int4")
    for recipe in ("a|b", 'a"b', "a\\b", "ä", "a\n"):
        with pytest.raises(InputError, match="for the file's metadata, expected letters"):
            space.save(tmp_path / "t.d90", recipe)
    with torch.no_grad():
        space.theta[3] = float("nan")
    for dtype in ("bf16", "int8"):
        with pytest.raises(InputError, match="theta holds NaN"):
            space.save(tmp_path / "t.d90", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_the_header_alone_says_what_it_is(tmp_path: Path) -> None:
    path, space = saved(tmp_path, d=30, structure="said")
    progress = tune_file.about(path)
    assert progress == tune_file.About(space.header(RECIPE), 30, "fp32", 3, path.stat().st_size)
    tune_file.write(
        path, tune_file.Header("direct"), {"a": torch.zeros(3, 2), "theta": torch.zeros(4, dtype=torch.bfloat16)}
    )
    assert (tune_file.about(path).count, tune_file.about(path).dtype) == (10, "bf16+fp32")
    assert tune_file.read(path)[1]["theta"].dtype == torch.bfloat16  # a parameter that is called theta stays what it is


def test_files_of_format_1_load(tmp_path: Path) -> None:
    """As the first version wrote them: no checksum."""
    path, space = saved(tmp_path, head="outside")
    old = rewrite(path)
    assert tune_file.about(old).format == 1
    assert torch.equal(Subspace.load(old, zoo()).theta, space.theta)
    base = layout.fingerprint(zoo().named_parameters())
    assert tune_file.read(old)[0] == replace(tune_file.read(path)[0], format=1, base=base)


def test_a_tune_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path, space = saved(tmp_path, head="outside")
    tensors = load_file(path)
    assert set(tensors) == {"theta", "head:head.bias"}
    assert torch.equal(tensors["theta"], space.theta)


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, space = saved(tmp_path / "made" / "on the way")
    before = path.read_bytes()
    with torch.no_grad():
        space.theta.add_(1)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunFailed, match=r"No space left on device\. What was there before is untouched"):
            space.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# --- d90 inspect ------------------------------------------------------------------------------------------------------


def test_inspect_shows_what_the_file_is(tmp_path: Path) -> None:
    path, space = saved(tmp_path, d=30, structure="said", head="outside", scale="relative", seed=7)
    space.save(path, RECIPE, dtype="int8")
    done = run("inspect", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    title, *lines = done.stdout.splitlines()
    shown = {line[2:15].strip(): line[15:].strip() for line in lines}
    header = space.header()
    assert title == f"{path}:"
    assert shown == {
        "method": "a subspace",
        "d": "30",
        "structure": "said",
        "projection": "fastfood:sign",
        "scale": "relative",
        "layer": "block",
        "head": "outside",
        "seed": "7",
        "step rule": "2",  # scale relative
        "beside theta": "head:head.bias",
        "base": f"{header.base} (fingerprint)",
        "draws": f"{header.draws} (checksum of P)",
        "recipe": f"{RECIPE} (hash)",
        "dtype": "int8",
        "bytes": str(path.stat().st_size),
        "format": "3",
    }


def test_inspect_of_parameters_trained_as_they_are_and_of_format_1(tmp_path: Path) -> None:
    tune_file.write(tmp_path / "t.d90", tune_file.Header("direct", base="0" * 16), {"a": torch.zeros(1200)})
    out = run("inspect", str(tmp_path / "t.d90")).stdout
    assert "parameters trained as they are" in out
    assert "1,200" in out
    assert "structure" not in out
    assert "without a checksum" not in out
    assert (
        "1 (without a checksum of the file; base: of its weights alone)"
        in run("inspect", str(rewrite(saved(tmp_path)[0]))).stdout
    )


def test_inspect_of_an_unsound_file_is_one_line_and_status_2(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    for bad, why in ((path, "checksum"), (tmp_path / "none.d90", "no such file"), (tmp_path, "no such file")):
        done = run("inspect", str(bad))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("d90: ")
        assert done.stderr.count("\n") == 1
        assert why in done.stderr


# --- where it does not belong -----------------------------------------------------------------------------------------


def refused(path: Path, model: nn.Module, message: str) -> None:
    """Refused with a clear error, and the model is as it was."""
    before, hooks = values(model), hooks_of(model)
    with pytest.raises(InputError, match=message):
        Subspace.load(path, model)
    assert same(values(model), before)
    assert hooks_of(model) == hooks
    assert "_d90_space" not in vars(model)
    assert all(p.grad is None for p in model.parameters())


def test_another_base_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, head="outside")
    refused(path, zoo(seed=1), r"another base model, .* fingerprint [0-9a-f]{16}, this model has [0-9a-f]{16}")
    nearly = zoo()
    with torch.no_grad():
        nearly.frozen.bias[0] += 1  # a weight that the tune does not even move
    refused(path, nearly, "another base model")
    refused(path, Normed(), "another base model")
    refused(path, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "another base model")


def test_another_base_is_refused_before_anything_is_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Subspace is made: theta_0 is not copied, P is not drawn."""
    path, _ = saved(tmp_path)

    def made(*args: object, **kwargs: object) -> None:
        raise AssertionError("a Subspace was made")

    monkeypatch.setattr(Subspace, "__init__", made)
    refused(path, zoo(seed=1), "another base model")
    with pytest.raises(AssertionError, match="was made"):
        Subspace.load(path, zoo())


def test_other_trainable_weights_are_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    model = zoo()
    model.conv.requires_grad_(False)
    refused(path, model, "P is another one here.*requires_grad")


def test_a_base_in_another_type_is_the_same_base(tmp_path: Path) -> None:
    half = zoo().to(torch.bfloat16)
    space = Subspace(copy.deepcopy(half).float(), 12)
    space.theta.data.fill_(0.01)
    space.save(tmp_path / "t.d90")
    loaded = Subspace.load(tmp_path / "t.d90", half)
    assert torch.equal(loaded.theta, space.theta)


def test_a_base_of_other_values_in_another_type_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    refused(path, zoo().to(torch.bfloat16), "another base model, with other weights")


def test_changes_of_one_part_in_a_thousand_are_seen(tmp_path: Path) -> None:
    """One number each, up and down, in every parameter; rounded to bf16 most of these looked the same."""
    path, _ = saved(tmp_path)
    seen = 0
    for index in range(len(list(zoo().parameters()))):
        for factor in (1.001, 0.999):
            model = zoo()
            parameter = list(model.parameters())[index]
            with torch.no_grad():
                if not parameter.any():
                    continue
                place = tuple((parameter.abs() == parameter.abs().max()).nonzero()[0].tolist())
                parameter[place] *= factor
            refused(path, model, "with other weights")
            seen += 1
    assert seen > 20


def test_another_buffer_or_option_is_another_base(tmp_path: Path) -> None:
    class WithBuffer(nn.Module):
        def __init__(self, offset: float = 1.0, slope: float = 0.1, heads: int = 4) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.register_buffer("offset", torch.tensor(offset))
            self.register_buffer("cache", torch.tensor(torch.rand(()).item()), persistent=False)
            self.attention = nn.MultiheadAttention(8, heads)
            self.net = nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(slope))

    Subspace(WithBuffer(), 5).save(tmp_path / "t.d90")
    Subspace.load(tmp_path / "t.d90", WithBuffer()).release()
    for changed in (WithBuffer(offset=1.001), WithBuffer(slope=0.2), WithBuffer(heads=2)):
        refused(tmp_path / "t.d90", changed, "with other weights, config or buffers")


def test_another_tokenizer_is_named_and_a_module_without_one_is_taken(tmp_path: Path) -> None:
    space = tuned()
    note_tokenizer(space.model, "89abcdef")
    space.save(path := tmp_path / "t.d90")
    other = zoo()
    note_tokenizer(other, "00000000")
    refused(path, other, "with other tokenizer: fingerprint")
    note_tokenizer(other, "89abcdef")
    Subspace.load(path, other).release()
    Subspace.load(path, zoo()).release()
    refused(path, zoo(seed=1), "with other weights")


def test_the_parts_of_a_base_say_which_differ() -> None:
    one = Base("0" * 16, "1" * 8, "2" * 16)
    assert one.differs(replace(one, config="3" * 16, tokenizer="4" * 8, buffers="5" * 16)) == ["tokenizer", "config"]
    assert one.differs(replace(one, tokenizer="-")) == []
    assert Base.from_dict(one.to_dict()) == one
    for wrong in ({}, {**one.to_dict(), "config": 5}, {**one.to_dict(), "weights": "x"}):
        with pytest.raises(InputError, match="expected a hash of 16 hex digits"):
            Base.from_dict(wrong)


def test_a_model_that_has_a_space_is_refused(tmp_path: Path) -> None:
    path, space = saved(tmp_path)
    with pytest.raises(InputError, match="already has a Subspace"):
        Subspace.load(path, space.model)
    assert torch.equal(Subspace.load(path, zoo()).theta, space.theta)


def first_line(header: tune_file.Header) -> str:
    """A metadata line of format 1: no tokenizer, no checksum, and as the base zoo()'s weights rounded to bf16."""
    fields = {**vars(header), "base": layout.fingerprint(zoo().named_parameters())}
    return "|".join(["1", *(str(value) for name, value in fields.items() if name not in ("tokenizer", "format"))])


def rewrite(path: Path, metadata: str | None = None, tensors: dict[str, Tensor] | None = None) -> Path:
    """The same content in format 1, which has no checksum, with another metadata line or other tensors."""
    from safetensors.torch import load_file, save_file

    line = first_line(tune_file.read(path)[0])
    other = path.with_name("other.d90")
    save_file(load_file(path) if tensors is None else tensors, other, metadata={"d90": metadata or line})
    return other


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, space = saved(tmp_path, head="outside")
    theta = space.theta.detach()
    head = torch.zeros_like(space.model.head.bias)  # type: ignore[union-attr,arg-type]
    good = {"theta": theta, "head:head.bias": head}
    Subspace.load(rewrite(path, tensors=good), zoo())
    for tensors, message in (
        ({"head:head.bias": head}, "not the tune of a subspace"),
        ({"theta": theta}, "its tensors .* are not the"),
        ({**good, "extra": head.clone()}, "its tensors .* are not the"),
        ({**good, "head:head.bias": head[:-1].clone()}, "its tensors .* are not the"),
        ({**good, "theta": theta.reshape(3, 4)}, r"theta of shape \(3, 4\).*expected \(d,\) in fp32"),
        ({**good, "theta": theta.to(torch.int8)}, "lacks one scale for each 64 numbers"),
        ({**good, "theta": theta.to(torch.int8), "scales": torch.ones(2)}, "lacks one scale for each 64 numbers"),
        ({**good, "theta": theta.to(torch.int8) + 1, "scales": torch.tensor([1e39])}, "holds NaN or infinity"),
        ({**good, "theta": theta.half()}, r"torch.float16, expected \(d,\) in fp32"),
        ({**good, "theta": theta[:0].clone()}, "got d=0"),
        ({**good, "theta": torch.full_like(theta, float("nan"))}, "holds NaN or infinity"),
        ({**good, "theta": theta.index_fill(0, torch.tensor([5]), float("inf"))}, "holds NaN or infinity"),
        ({**good, "head:head.bias": torch.full_like(head, float("nan"))}, "holds NaN or infinity"),
    ):
        refused(rewrite(path, tensors=tensors), zoo(), message)


def test_metadata_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path, space = saved(tmp_path)
    line = first_line(space.header(RECIPE))
    Subspace.load(rewrite(path, line), zoo())
    names = ["format", *vars(space.header())][:11]
    for field, value, message in (
        ("format", "4", "format 4, this d90 reads up to 3: upgrade d90"),
        ("format", "3", "got 9 metadata fields, expected 11 in format 3"),
        ("format", "2", "got 9 metadata fields, expected 10 in format 2"),
        ("format", "999999999", "upgrade d90"),
        ("format", "9" * 5000, "not a sound d90 file"),
        ("format", "0", "not a sound d90 file"),
        ("format", "one", "not a sound d90 file"),
        ("structure", "direct", "not the tune of a subspace"),
        ("structure", "dad", "not the tune of a subspace"),
        ("projection", "slowfood", "unknown projection 'slowfood'"),
        ("projection", "fastfood:gaussian", "P is another one here"),
        ("projection", "onehot:sign", "P is another one here"),
        ("scale", "none", "unknown scale"),
        ("layer", "none", "unknown layer"),
        ("head", "none", "unknown head"),
        ("seed", "1", "P is another one here"),
        ("seed", "-1", "seed or step rule is no number"),
        ("seed", "9" * 5000, "seed or step rule is no number"),
        ("seed", "9" * 20, "64-bit"),
        ("seed", "²", "seed or step rule is no number"),
        ("step_rule", "7", "not the tune of a subspace that this d90 knows"),
        ("step_rule", "", "seed or step rule is no number"),
        ("base", "0" * 16, "another base model"),
        ("draws", "0" * 16, "P is another one here"),
        ("recipe", "a|b", "got 11 metadata fields, expected 10 in format 1"),
    ):
        fields = line.split("|")
        fields[names.index(field)] = value
        refused(rewrite(path, "|".join(fields)), zoo(), message)


# --- damage -----------------------------------------------------------------------------------------------------------


def header_of(raw: bytes) -> tuple[dict[str, dict[str, object]], bytes]:
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def with_header(header: object, data: bytes) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def test_no_file_no_tune(tmp_path: Path) -> None:
    for path in (tmp_path / "none.d90", tmp_path):
        with pytest.raises(InputError, match="no such file"):
            tune_file.read(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    raw = path.read_bytes()
    header, data = header_of(raw)
    theta = header["theta"]

    def changed(**entry: object) -> bytes:
        return with_header({**header, "theta": {**theta, **entry}}, data)

    damaged = {
        "empty": b"",
        "short": raw[:5],
        "no header": raw[:8],
        "half a header": raw[:100],
        "a byte short": raw[:-1],
        "a byte long": raw + b"\0",
        "a huge header": struct.pack("<Q", 1 << 62) + raw[8:],
        "a header of all": struct.pack("<Q", len(raw)) + raw[8:],
        "no header at all": struct.pack("<Q", 0) + raw[8:],
        "not JSON": with_header(b"{" * 60, data),
        "not UTF-8": with_header(b'{"\xff\xfe": 3}', data),
        "deep": with_header(b"[" * 100_000 + b"]" * 100_000, data),
        "a list": with_header([1, 2], data),
        "a number": with_header(7, data),
        "no metadata": with_header({"theta": theta}, data),
        "metadata of another kind": with_header({**header, "__metadata__": ["d90"]}, data),
        "a line of another kind": with_header({**header, "__metadata__": {"d90": 5}}, data),
        "an entry of another kind": with_header({**header, "theta": [1]}, data),
        "a huge shape": changed(shape=[1 << 60]),
        "a huge shape of nothing": changed(shape=[0, 10**30], data_offsets=[0, 0]),
        "a shape of many": changed(shape=[12] + [1] * 5000),
        "a shape of another kind": changed(shape={}),
        "a shape of text": changed(shape=""),
        "no shape": changed(shape=None),
        "half a number": changed(shape=[12.0]),
        "a truth": changed(shape=[True] * 12),
        "a long number": with_header(json.dumps(header).replace("[12]", "[" + "9" * 5000 + "]").encode(), data),
        "a negative shape": changed(shape=[-3, -4]),
        "a type": changed(dtype="U8"),
        "an unhashable type": changed(dtype=["F32"]),
        "offsets turned": changed(data_offsets=[48, 0]),
        "offsets outside": changed(data_offsets=[0, 1 << 40]),
        "one offset": changed(data_offsets=[0]),
        "a gap": with_header({**header, "theta": {**theta, "data_offsets": [4, 52]}}, data + b"\0" * 4),
        "twice the same bytes": with_header({**header, "second": theta}, data),
        "a flipped bit of theta": raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:],
        "a flipped bit of the recipe": raw.replace(b"~ASNFZ4mrze8|", b"~BSNFZ4mrze8|"),
        "the same header in other bytes": with_header(header, data),
        "another checksum": re.sub(rb'\|[0-9a-f]{8}"', b'|00000000"', raw),
        "no checksum": re.sub(rb'\|[0-9a-f]{8}"', b'|"', raw),
        "the older format's number": raw.replace(b'"3|', b'"2|'),
    }
    model = zoo()
    before = values(model)
    assert raw not in damaged.values()
    for what, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            Subspace.load(path, model)
        assert str(path) in str(caught.value), what
    assert same(values(model), before)


def test_a_huge_claim_is_not_believed(tmp_path: Path) -> None:
    """Nothing is allocated on a header's word."""
    path = tmp_path / "t.d90"
    entry = {"theta": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    path.write_bytes(with_header({"__metadata__": {"d90": "1"}, **entry}, b"\0" * 64))
    tracemalloc.start()
    with pytest.raises(InputError):
        tune_file.read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def mutants(raw: bytes, count: int) -> Iterator[bytes]:
    """`count` files that differ from `raw`: bits and bytes changed, runs cut out and put in, three in four in the header."""
    length = 8 + struct.unpack("<Q", raw[:8])[0]
    chance = random.Random(0)
    made = 0
    while made < count:
        mutant = bytearray(raw)
        for _ in range(chance.choice((1, 1, 2, 5))):
            place = chance.randrange(length if made % 4 else len(raw))
            action = chance.randrange(4)
            if action == 0 and mutant:
                mutant[min(place, len(mutant) - 1)] ^= 1 << chance.randrange(8)
            elif action == 1 and mutant:
                mutant[min(place, len(mutant) - 1)] = chance.choice(b'0123456789|[]{}":,-x\xff\x00')
            elif action == 2:
                del mutant[place : place + chance.choice((1, 4, 50))]
            else:
                mutant[place:place] = chance.randbytes(chance.choice((1, 4, 50)))
        if bytes(mutant) != raw:
            made += 1
            yield bytes(mutant)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("count", attacks(1_000, 2_000, MUTATIONS))
def test_mutated_files_are_refused(tmp_path: Path, dtype: str, count: int) -> None:
    """Every one by an InputError, and the model is as it was."""
    space = tuned(d=200, structure="said", head="outside")
    path = tmp_path / "task.d90"
    space.save(path, RECIPE, dtype)
    model, accepted = zoo(), []
    before, raw = values(model), path.read_bytes()
    with path.open("r+b") as file:
        for mutant in mutants(raw, count):
            file.seek(0)
            file.truncate()
            file.write(mutant)
            file.flush()
            try:
                Subspace.load(path, model)
            except InputError:
                continue
            accepted.append(mutant)
    assert accepted == []
    assert same(values(model), before)
    path.write_bytes(raw)
    Subspace.load(path, model)


def test_mutated_files_take_no_memory(tmp_path: Path) -> None:
    """At most twice the file's bytes besides what Python needs to read any header."""
    path, _ = saved(tmp_path, d=200, structure="said")
    raw, worst = path.read_bytes(), 0
    tune_file.read(path)
    tracemalloc.start()
    try:
        for mutant in mutants(raw, 1_000):
            path.write_bytes(mutant)
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0]
            with pytest.raises(InputError):
                tune_file.read(path)
            worst = max(worst, tracemalloc.get_traced_memory()[1] - held - 2 * len(mutant))
    finally:
        tracemalloc.stop()
    assert worst < 1 << 16


@pytest.mark.parametrize("dtype", tune_file.DTYPES)
def test_a_large_file_is_held_once(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "t.d90"
    tune_file.write(path, tune_file.Header("did"), {"theta": torch.randn(1 << 20)}, dtype)
    tracemalloc.start()
    try:
        tune_file.read(path)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * path.stat().st_size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("head", ["inside", "outside"])
def test_mutated_files_of_format_1_never_crash(tmp_path: Path, head: str) -> None:
    """Without a checksum a mutant is refused, or loads as a tune of the same shape over an otherwise untouched model."""
    path, space = saved(tmp_path, d=8, head=head, projection="onehot")
    path = rewrite(path)
    model, fixed = zoo(), space.header("-")
    before, accepted = values(model), 0
    for trial, mutant in enumerate(mutants(path.read_bytes(), 400)):
        path.write_bytes(mutant)
        try:
            loaded = Subspace.load(path, model)
        except InputError:
            pass
        else:
            accepted += 1  # a flipped bit in a number or in the recipe's hash: nothing else is left unchecked
            assert loaded.theta.shape == (8,)
            assert torch.isfinite(loaded.theta).all()
            assert loaded.header("-") == fixed
            loaded.release()
        if trial % 20 == 0:
            assert same(values(model), before)
            assert base_of(model).digest == fixed.base
    assert same(values(model), before)
    assert 0 < accepted < 200
