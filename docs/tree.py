"""The design page's tree, made from the packages' docstrings in the order in which their imports run.

    python docs/tree.py            prints it
    python docs/tree.py --write    puts it into docs/explanation/design.md

The order is that of the import contract in pyproject.toml, so that picture and contract cannot disagree.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "d90"
BLOCK = re.compile(r"(?<=```\n)src/d90/\n.*?(?=```)", re.DOTALL)
PAGE = ROOT / "docs" / "explanation" / "design.md"


def order() -> list[str]:
    """Packages and modules, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [name.strip() for layer in layers for name in layer.split("|") if not name.strip().startswith("_")]


def summary(name: str) -> str:
    """The first sentence of a package's or a module's docstring, without its full stop."""
    file = SOURCE / name / "__init__.py"
    text = ast.get_docstring(ast.parse((file if file.exists() else SOURCE / f"{name}.py").read_text(encoding="utf-8")))
    first = (text or "").partition("\n\n")[0].replace("\n", " ").replace("`", "")
    sentence = re.split(r"\.(?=\s|$)", first)[0]
    return sentence[0].lower() + sentence[1:] if sentence[1:2].islower() else sentence


def tree() -> str:
    """The block as the page has it."""
    lines = [f"  {name + '/' if (SOURCE / name).is_dir() else name + '.py':<16}{summary(name)}" for name in order()]
    return "\n".join(["src/d90/", *lines, ""])


def main() -> None:
    """Print the tree, or write it."""
    if "--write" not in sys.argv:
        print(tree(), end="")
        return
    PAGE.write_text(BLOCK.sub(lambda _: tree(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
