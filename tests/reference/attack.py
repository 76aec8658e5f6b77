"""How often an attack is made: a few in the quick tests, more in the slow ones; what the environment says, once, in `make attack`."""

from __future__ import annotations

import os
from typing import Any

import pytest

__all__ = ["KILLS", "MUTATIONS", "STORES", "attacks"]

MUTATIONS, KILLS, STORES = "D90_ATTACK_MUTATIONS", "D90_ATTACK_KILLS", "D90_ATTACK_STORES"


def attacks(quick: int, slow: int, variable: str) -> list[Any]:
    """The counts of a parametrized test; where the environment gives one it is the only one, so that it is run once."""
    given = os.environ.get(variable)
    return [int(given)] if given else [quick, pytest.param(slow, marks=pytest.mark.slow)]
