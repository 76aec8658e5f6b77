"""Variants by name: those that d90 brings, those that a program registers, and those that installed packages bring along."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Generic, TypeVar, cast

from d90.errors import InputError, unknown_name

__all__ = ["Registry", "late_names"]

Variant = TypeVar("Variant")
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


class Registry(Mapping[str, Variant], Generic[Variant]):
    """Names and what they stand for.

    An installed package adds a variant by an entry point of the registry's group, whose name is the variant's:

        [project.entry-points."d90.methods"]
        rows = "my_package.rows:Rows"

    Entry points are loaded when a name is asked for that is not known yet, or when the names are listed.

    Args:
        what: the variant in words, for errors, as "method".
        group: the entry points' group, as "d90.methods".
        own: those that d90 brings; nothing may replace them. One given as "module:name" is imported when it is asked for.
        hint: the next step, said with an unknown name.
        check: refuses a variant that lacks what is needed of it, whether registered or brought by a package.
    """

    def __init__(
        self,
        what: str,
        group: str,
        own: Mapping[str, Variant | str],
        hint: str = "",
        check: Callable[[Variant], None] = lambda variant: None,
    ) -> None:
        self.what, self.group, self.hint, self._check = what, group, hint, check
        self._known: dict[str, Variant | str] = dict(own)
        self._own = frozenset(own)
        self._waiting: dict[str, metadata.EntryPoint] | None = None

    def register(self, name: str, variant: Variant) -> None:
        """Add a variant, or write one of the same module and class again.

        Raises:
            InputError: the name is no word of small letters, digits, "-" and "_", or is taken; the check refuses the variant.
        """
        self._check(variant)
        if not isinstance(name, str) or not name or not set(name) <= LETTERS:
            raise InputError(f"got {name!r} as the name of a {self.what}, expected small letters, digits, '-' and '_'")
        before = self._known.get(name)
        if before is not None and _place(before) != _place(variant):
            raise InputError(f"the {self.what} '{name}' is there already ({_place(before)}); choose another name")
        self._known[name] = variant

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is registered inside a `with` block is forgotten at its end: for tests and notebooks."""
        before = dict(self._known)
        try:
            yield
        finally:
            self._known = before

    def find(self, name: str) -> Variant:
        """The variant of a name.

        Raises:
            InputError: no such variant, or its package fails to load.
        """
        if name not in self._known:
            self._load(name)
        if name not in self._known:
            raise unknown_name(self.what, name, sorted(self), self.hint)
        return self[name]

    def check_name(self, name: str) -> None:
        """Whether there is such a variant; one of d90's own is not imported for that.

        Raises:
            InputError: no such variant, or its package fails to load.
        """
        if name not in self._own:
            self.find(name)

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._entry_points()

    def __getitem__(self, name: str) -> Variant:
        if name not in self._known:
            self._load(name)
        found = self._known[name]
        if isinstance(found, str) and name in self._own:
            module, _, attribute = found.partition(":")
            found = self._known[name] = cast(Variant, getattr(import_module(module), attribute))
        return cast(Variant, found)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._known, *self._entry_points()]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _entry_points(self) -> dict[str, metadata.EntryPoint]:
        if self._waiting is None:
            self._waiting = {point.name: point for point in metadata.entry_points(group=self.group)}
        return {name: point for name, point in self._waiting.items() if name not in self._own}

    def _load(self, name: str) -> None:
        point = self._entry_points().get(name)
        if point is None:
            return
        try:
            self.register(name, point.load())
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            raise InputError(
                f"the {self.what} '{name}' comes with the package '{package}', which fails to load: "
                f"{type(error).__name__}: {error}. Update that package or take it out"
            ) from error


def late_names(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """A package's `__getattr__`, by which each of its names is imported when it is first asked for.

    Args:
        package: its name, as "d90.methods".
        modules: of each name the module in the package that has it.
    """

    def found(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return found


def _place(variant: object) -> str:
    """Where a variant is written: the same for a module that is loaded twice."""
    if isinstance(variant, str):
        return variant.replace(":", ".")
    return f"{getattr(variant, '__module__', '')}.{getattr(variant, '__qualname__', repr(variant))}"
