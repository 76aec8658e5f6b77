"""The public names: there, callable, and not imported before they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import d90


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", d90.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(d90, name) is not None
    assert name in dir(d90)


def test_the_command_line_starts_without_torch() -> None:
    assert (
        python("import sys, d90.cli.main; print({'torch', 'scipy', 'transformers'} & set(sys.modules) or 'none')")
        == "none"
    )


def test_a_module_of_the_same_name_does_not_hide_its_function() -> None:
    code = "import d90, d90.studies.measure, d90.studies.compare; print(callable(d90.measure), callable(d90.compare))"
    assert python(code) == "True True"
    code = "from d90.results.compare import Entry; import d90; print(d90.compare.__name__, Entry.__name__)"
    assert python(code) == "compare Entry"


def test_an_unknown_name_is_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = d90.nothing  # type: ignore[attr-defined]
