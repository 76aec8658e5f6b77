"""The embedded task: does this docstring belong to this signature? Read from Python's standard library here.

Nothing is shipped or downloaded, and no module is imported: the sources are parsed. A pair is (signature, first
paragraph of a docstring); half of them carry the docstring of another function of the same module. Split by module, so
no module is in two splits. The set differs between versions of Python, so its hash is part of every result.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from d90.errors import InputError
from d90.projections.philox import name_block, words
from d90.tasks.base import Split, Task
from d90.tasks.kinds import Classification

__all__ = ["load_docstrings"]

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "__pycache__", "ensurepip"}
SHORTEST, LONGEST = 20, 400  # characters of a docstring's paragraph

Function = tuple[str, str]  # signature, paragraph


def load_docstrings() -> Task:
    """About 5,700 functions as pairs with label 1 (belongs) or 0.

    Raises:
        InputError: this Python has no sources of its standard library.
    """
    parts: dict[str, list[tuple[tuple[str, str], int, int]]] = {"train": [], "validation": [], "test": []}
    modules = 0
    for module, functions in library_modules():
        modules += 1
        blocks = torch.tensor([name_block(f"{module}:{i}") for i in range(len(functions))])
        draws = words(0, "split", blocks, 1).tolist()
        for i, (signature, paragraph) in enumerate(functions):
            place, turn, other, _ = draws[i]
            label = turn & 1
            if not label:
                paragraph = functions[(i + 1 + other % (len(functions) - 1)) % len(functions)][1]
            parts[part_of(module)].append(((signature, paragraph), label, place))
    if not parts["train"] or not parts["validation"]:
        raise InputError("this Python comes without the sources of its standard library; give a task of your own")
    splits = {}
    for part, found in parts.items():
        found.sort(key=lambda item: item[2])  # shuffled: `place` is a random word
        splits[part] = Split([pair for pair, _, _ in found], torch.tensor([label for _, label, _ in found]))
    count = sum(map(len, splits.values()))
    return Task(
        "docstrings",
        Classification(("other", "own"), positive="own"),
        ("other", "own"),
        "accuracy",
        splits["train"],
        splits["validation"],
        splits.get("test"),
        notes=(f"{count} functions of {modules} modules",),
    )


def part_of(module: str) -> str:
    draw = name_block(module) % 10
    return "validation" if draw == 0 else "test" if draw == 1 else "train"


def _sources(root: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(root):
        inside[:] = [name for name in inside if name not in SKIPPED]  # site-packages may hold 100,000 files
        yield from (Path(folder, name) for name in files if name.endswith(".py") and name not in SKIPPED)


def library_modules() -> Iterator[tuple[str, list[Function]]]:
    """Modules with at least two documented functions, by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(_sources(root)):
        inside = path.relative_to(root)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in old sources
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, OSError):
            continue
        functions = list(_functions(tree))
        if len({paragraph for _, paragraph in functions}) > 1:
            yield str(inside.with_suffix("")).replace("/", "."), functions


def _functions(tree: ast.Module) -> Iterator[Function]:
    seen = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if not text:
            continue
        paragraph = " ".join(text.split("\n\n")[0].split())
        if SHORTEST <= len(paragraph) <= LONGEST and paragraph not in seen:
            seen.add(paragraph)
            yield f"{node.name}({ast.unparse(node.args)})", paragraph
