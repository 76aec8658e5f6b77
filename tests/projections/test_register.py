"""Projections from outside: registered, or found by an entry point; named everywhere, checked, and kept apart."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from d90 import Subspace, projections
from d90.errors import InputError
from d90.projections import PROJECTIONS, Projection, register_projection
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


def test_an_entry_point_is_loaded_when_its_name_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("cyclic", "tests.reference.cyclic:Cyclic", projections.ENTRY_POINTS)
    monkeypatch.setattr(projections, "entry_points", lambda group: [point] if group == "d90.projections" else [])
    monkeypatch.delitem(PROJECTIONS, "cyclic")
    assert isinstance(projections.build("cyclic", 3, (10,)), Cyclic)
    monkeypatch.delitem(PROJECTIONS, "cyclic")
    assert "cyclic" in projections.known()


def test_what_cannot_be_registered_is_said() -> None:
    with pytest.raises(InputError, match=r"expected a subclass of d90\.projections\.Projection"):
        register_projection(dict)  # type: ignore[type-var]
    with pytest.raises(InputError, match="with rows, fold and draws written"):
        register_projection(Projection)
    with pytest.raises(InputError, match="the name 'dense' is taken"):
        register_projection(type("Mine", (Cyclic,), {"name": "dense"}))
    with pytest.raises(InputError, match="expected identifiers"):
        register_projection(type("Mine", (Cyclic,), {"name": "a|b"}))
    assert register_projection(Cyclic) is Cyclic, "twice is once"
