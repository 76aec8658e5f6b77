"""Which files weights are read from: a model that names anything but its own safetensors files is refused, nothing loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from d90.errors import UnsupportedModelError
from d90.models import loading
from tests.reference.tiny import tiny_model


class Trap:
    """Its unpickling leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def sharded(whole: Path, tmp_path: Path) -> Path:
    """The same model in one shard that an index names."""
    folder = Path(shutil.copytree(whole, tmp_path / "sharded"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index(folder, "model-00001-of-00001.safetensors")
    return folder


def index(folder: Path, shard: object) -> None:
    from safetensors import safe_open

    (weights,) = folder.glob("*.safetensors")
    with safe_open(weights, "pt") as opened:
        names = list(opened.keys())
    body = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(body))


def test_a_sharded_model_of_safetensors_loads(sharded: Path, whole: Path) -> None:
    assert loading.load(str(sharded), 2).fingerprint == loading.load(str(whole), 2).fingerprint


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "weights.pt", "shard.safetensors.bin", "model"])
def test_shards_that_are_no_safetensors_are_refused_before_they_are_read(sharded: Path, shard: str) -> None:
    (sharded / shard).write_bytes(pickle.dumps(Trap(sharded / "ran")))
    index(sharded, shard)
    with pytest.raises(UnsupportedModelError, match=r"expected \.safetensors files.*Nothing was loaded"):
        loading.load(str(sharded), 2)
    assert not (sharded / "ran").exists()


@pytest.mark.parametrize(
    "shard",
    ["../other.safetensors", "/etc/w.safetensors", "..\\w.safetensors", "a/../../w.safetensors", "C:w.safetensors"],
)
def test_shards_outside_the_folder_are_refused(sharded: Path, shard: str) -> None:
    index(sharded, shard)
    with pytest.raises(UnsupportedModelError, match="model's own folder"):
        loading.load(str(sharded), 2)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UnsupportedModelError, match="no index of shards"):
        loading.load(str(sharded), 2)


@pytest.mark.parametrize("named", ["weights.bin", "../x.safetensors", "weights.bin.index.json"])
def test_a_config_that_names_other_weights_is_refused(whole: Path, tmp_path: Path, named: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "named"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": named}))
    (folder / "weights.bin").write_bytes(pickle.dumps(Trap(folder / "ran")))
    with pytest.raises(UnsupportedModelError, match=r"config\.json names the weights"):
        loading.load(str(folder), 2)
    assert not (folder / "ran").exists()
