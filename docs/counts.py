"""What the shape of the package is counted by; `tests/test_architecture.py` holds its limits.

    python docs/counts.py

Boxes are the packages and modules right under d90, arrows the pairs of them that import one another, late imports and those for
types included; `d90/__init__.py`, which names what is public, is not a box.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "d90"


@dataclass(frozen=True)
class Function:
    """A function or method: its file, its name, its lines with the docstring, its parameters without `self`.

    `kernel`: compiled by Triton, which is called with pointers and numbers, never with an object that holds them.
    """

    file: str
    name: str
    lines: int
    parameters: int
    kernel: bool

    def __str__(self) -> str:
        return f"{self.file}: {self.name}, {self.lines} lines, {self.parameters} parameters"


def functions(file: Path) -> list[Function]:
    """Every function of a file, those inside others included."""
    name = file.relative_to(SOURCE).as_posix()
    return [_read(name, node, owner) for node, owner in _nodes(ast.parse(file.read_text(encoding="utf-8")), "")]


def _nodes(tree: ast.AST, owner: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, owner
            yield from _nodes(node, f"{owner}{node.name}.")
        else:
            yield from _nodes(node, f"{owner}{node.name}." if isinstance(node, ast.ClassDef) else owner)


def _read(file: str, node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str) -> Function:
    given = node.args
    named = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs) if one.arg not in ("self", "cls")]
    count = len(named) + (given.vararg is not None) + (given.kwarg is not None)
    kernel = any(ast.unparse(one).startswith("triton.jit") for one in node.decorator_list)
    return Function(file, f"{owner}{node.name}", (node.end_lineno or 0) - node.lineno + 1, count, kernel)


def arrows() -> set[tuple[str, str]]:
    """(importer, imported) of the packages and modules right under d90."""
    import grimp

    graph = grimp.build_graph("d90")
    found = set()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            upper, lower = (f"{name}..".split(".")[1] for name in (module, other))
            if upper and lower and upper != lower:
                found.add((upper, lower))
    return found


def chain(edges: set[tuple[str, str]]) -> list[str]:
    """The longest way down."""

    def longest(name: str, known: dict[str, list[str]]) -> list[str]:
        if name not in known:
            below = [longest(lower, known) for upper, lower in edges if upper == name]
            known[name] = [name, *max(below, key=len, default=[])]
        return known[name]

    known: dict[str, list[str]] = {}
    return max((longest(upper, known) for upper, _ in sorted(edges)), key=len)


def main() -> None:
    """Print the counts."""
    files = sorted(SOURCE.rglob("*.py"))
    every = [one for file in files for one in functions(file)]
    edges = arrows()
    way = chain(edges)
    print(f"boxes {len({name for edge in edges for name in edge})}, arrows {len(edges)}, longest chain {len(way)}:")
    print("  " + " > ".join(way))
    print(
        f"files {len(files)}, longest {max(len(file.read_text(encoding='utf-8').splitlines()) for file in files)} lines"
    )
    print(f"functions {len(every)}, of which {sum(one.kernel for one in every)} Triton's")
    for what, limits in (("lines", (60, 100)), ("parameters", (6, 10))):
        counts = [sum(getattr(one, what) > limit for one in every) for limit in limits]
        print(f"over {limits[0]} {what}: {counts[0]}; over {limits[1]}: {counts[1]}")
    loose = sum(file.read_text(encoding="utf-8").count("dict[str, Any]") for file in files)
    print(f"dict[str, Any]: {loose}")
    for one in sorted(every, key=lambda one: -one.parameters):
        if one.parameters > 6 or one.lines > 60:
            print(f"  {one}")


if __name__ == "__main__":
    main()
