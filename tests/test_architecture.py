"""The plan of the house: imports run downward only, private names stay inside their package, and a file can be read in one sitting."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "d90"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_LINES, MAX_PARAMETERS = 100, 10


def package_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def test_the_import_contract_holds() -> None:
    """The layers of pyproject.toml; `make lint` prints the chain of imports that breaks them."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_are_absolute_and_of_public_names(file: Path) -> None:
    """A name with an underscore belongs to its package."""
    own = f"d90.{file.relative_to(SOURCE).parts[0].removesuffix('.py')}"
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import; write from d90.... import"
            if (
                (node.module or "").startswith("d90.")
                and node.module != "d90._version"
                and package_of(str(node.module)) != own
            ):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{file} imports {private} of {node.module}"


def test_no_module_imports_one_of_another_package_by_its_name() -> None:
    """The contract sees imports that are written as such. `d90/__init__.py` names every public module, and what shows results."""
    for file in FILES:
        own = f"d90.{file.relative_to(SOURCE).parts[0].removesuffix('.py')}"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                "import_module",
                "__import__",
            )
            if (
                called and file != SOURCE / "__init__.py" and file.name != "worker.py"
            ):  # a job of a worker names its function
                texts = [
                    one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
                ]
                assert all(not text.startswith("d90.") or package_of(text) == own for text in texts), f"{file}: {texts}"


def test_projections_need_torch_and_numpy_alone() -> None:
    """The bottom floor can be lifted out."""
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


@pytest.fixture(scope="module")
def counts() -> ModuleType:
    """docs/counts.py, which is no package."""
    spec = importlib.util.spec_from_file_location("counts", ROOT / "docs" / "counts.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_functions_fit_a_screen_and_take_few_parameters(counts: ModuleType) -> None:
    """What takes more has options, or a value, that nobody has named. Triton's kernels take pointers and numbers alone."""
    every = [one for file in FILES for one in counts.functions(file) if not one.kernel]
    wrong = [str(one) for one in every if one.lines > MAX_LINES or one.parameters > MAX_PARAMETERS]
    assert not wrong
    assert max(one.lines for one in every) > 40, "the docstring is counted"


def test_the_longest_way_down_and_parameters_are_counted(counts: ModuleType) -> None:
    assert counts.chain({("a", "b"), ("b", "d"), ("a", "d"), ("c", "d")}) == ["a", "b", "d"]
    (kernel,) = [
        one for one in counts.functions(SOURCE / "projections" / "kernels" / "gpu.py") if one.name == "write_tiles"
    ]
    assert kernel.kernel
    assert kernel.parameters == 15


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_kind_of_task_is_asked_and_never_compared_by_name(file: Path) -> None:
    """`task.kind` is an object: comparing it with a word would be false in silence. What it is asked is its own to say."""
    assert "is_text" not in file.read_text(encoding="utf-8")
    names = {
        "classification",
        "regression",
        "language",
        "images",
        "image-values",
        "tokens",
        "seq2seq",
        "embeddings",
        "question-answering",
        "multi-label",
        "image-classification",
    }
    if file.is_relative_to(SOURCE / "tasks" / "kinds"):
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Compare):
            continue
        parts = [node.left, *node.comparators]
        words = {part.value for part in parts if isinstance(part, ast.Constant)}
        kinds = [part for part in parts if getattr(part, "attr", getattr(part, "id", "")) == "kind"]
        assert not (kinds and words & names), f"line {node.lineno}: ask the kind instead (d90.tasks.kinds)"


def test_what_a_result_keeps_as_json_is_read_by_key_in_results_alone() -> None:
    """Pages, studies and commands read attributes; `definitions` and `recipe` are shown whole."""
    for file in [*FILES, *SOURCE.rglob("*.html")]:
        if not file.is_relative_to(SOURCE / "results"):
            found = re.findall(r"\b(?:definitions|recipe)(?:\.get\(|\[)[\"'][^\n]*", file.read_text(encoding="utf-8"))
            assert not found, f"{file.relative_to(SOURCE)}: {found}"


def test_no_test_file_imports_another() -> None:
    """What several share stands in tests/reference, tests/conftest.py or a table."""
    for file in (ROOT / "tests").rglob("*.py"):
        found = re.findall(r"from (tests\.(?:[a-z_]+\.)*test_[a-z_]+)", file.read_text(encoding="utf-8"))
        assert not found, f"{file.relative_to(ROOT)} imports {', '.join(found)}"
