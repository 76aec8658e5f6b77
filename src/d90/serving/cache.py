"""The most recently used of what was made, up to a limit of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Cache"]

_V = TypeVar("_V")


class Cache(Generic[_V]):
    """Values with their sizes; the least recently used go first when their sum would exceed `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._held: OrderedDict[Hashable, tuple[_V, int]] = OrderedDict()

    def get(self, key: Hashable) -> _V | None:
        """The value, which is now the most recently used; None for one that is not held."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Hashable, value: _V, size: int) -> None:
        """Hold a value of this size, at most the limit."""
        self.size += size - self._held.pop(key, (value, 0))[1]
        self._held[key] = value, size
        while self.size > self.limit:
            self.size -= self._held.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._held)
