"""Projections from outside: registered (tests/test_registry.py has entry points); named everywhere, checked, and kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from d90 import Subspace
from d90.errors import InputError
from d90.projections import Projection, register_projection
from tests.reference.cyclic import Cyclic
from tests.reference.models import zoo
from tests.reference.table import SPECS


def test_a_registered_projection_is_in_the_shared_table_and_in_tunes(tmp_path: Path) -> None:
    assert "cyclic:sign" in SPECS
    space = Subspace(zoo(), 20, projection="cyclic")
    space.theta.data.normal_()
    space.save(tmp_path / "a.d90")
    there = Subspace.load(tmp_path / "a.d90", zoo())
    assert there.options.projection == "cyclic:sign"
    assert torch.equal(there.theta, space.theta)


def test_what_cannot_be_registered_is_said() -> None:
    with pytest.raises(InputError, match=r"expected a subclass of d90\.projections\.Projection"):
        register_projection(dict)  # type: ignore[type-var]
    with pytest.raises(InputError, match="with rows, fold and draws written"):
        register_projection(Projection)
    with pytest.raises(InputError, match="'dense' is there already"):
        register_projection(type("Mine", (Cyclic,), {"name": "dense"}))
    with pytest.raises(InputError, match="expected identifiers"):
        register_projection(type("Mine", (Cyclic,), {"name": "a|b"}))
    assert register_projection(Cyclic) is Cyclic, "twice is once"
