"""The plan of the house: imports run downward only, and a file can be read in one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "d90"
FLOORS = (  # the lowest first; packages on one floor do not know each other
    ("errors", "_version"),
    ("registry", "files"),
    ("projections", "analysis"),
    ("search",),
    ("subspace", "tasks"),
    ("models",),
    ("methods",),
    ("training",),
    ("trials",),
    ("integrations",),
    ("certificates",),
    ("studies",),
    ("report",),
    ("reproduce",),
    ("__init__",),
    ("cli",),
)
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
FILES = sorted(SOURCE.rglob("*.py"))


def package_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(file: Path) -> Iterator[str]:
    """The packages a file imports, late imports and those for types alone included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "d90":
            yield from (alias.name if alias.name in FLOOR else "__init__" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("d90."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{file}: relative import; write from d90.... import")
        elif isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.split(".")[0] == "d90"]
            yield from (name.split(".")[1] if "." in name else "__init__" for name in ours)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_run_downward(file: Path) -> None:
    package = package_of(file)
    assert package in FLOOR, f"give '{package}' a floor in FLOORS"
    above = {other for other in imported(file) if other != package and FLOOR.get(other, 99) >= FLOOR[package]}
    assert not above, f"{package} imports {above}, which lie on its floor, above it, or on none"


def test_projections_need_torch_and_numpy_alone() -> None:
    """The bottom floor can be lifted out."""
    import sys

    for file in (SOURCE / "projections").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                # kernels/gpu.py is imported where torch has brought Triton along
                allowed = {"torch", "numpy", "d90"} | ({"triton"} if file.name == "gpu.py" else set())
                assert top in allowed or top in sys.stdlib_module_names, f"{file.name}: {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_file_is_read_in_one_sitting(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= 440, f"{file.name} has {lines} lines: past about 400 it is usually two files"
