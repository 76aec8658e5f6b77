"""docs/integrations.md runs as written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning", "ignore:.*pin_memory.*:UserWarning")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    for number, code in enumerate(blocks):
        exec(compile(code, f"docs/integrations.md, block {number}", "exec"), names)
    assert "trainable params: 200 ||" in capsys.readouterr().out
    assert names["found"].exact
    assert names["found"].error <= 1e-6
    assert 0 < names["cut"].kept < 1
    assert (tmp_path / "back.d90").exists()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 1024
    assert (tmp_path / "out" / "checkpoint-4" / "model.safetensors").stat().st_size < 1100
    assert (tmp_path / "state" / "model.safetensors").stat().st_size < 1100
