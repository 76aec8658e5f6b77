"""The picture of the packages: a box for each, and a line for each import that no longer way explains.

Boxes stand in the order of the import contract, lines come from the import graph: neither is drawn by hand.
"""

from __future__ import annotations

import html
import tomllib
from pathlib import Path

import grimp
import tree

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT, ROW, LEFT = 130, 30, 58, 320


def layers() -> list[list[str]]:
    """Packages side by side, the highest first, as the import contract names them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in row.split("|") if not name.strip().startswith("_")] for row in rows]


def imports() -> dict[str, set[str]]:
    """For each package those it imports, late imports included."""
    graph = grimp.build_graph("d90")
    names = {name for row in layers() for name in row}
    found: dict[str, set[str]] = {name: set() for name in names}
    for module in graph.modules:
        upper = module.split(".")[1] if "." in module else ""
        for other in graph.find_modules_directly_imported_by(module):
            lower = other.split(".")[1] if "." in other else ""
            if upper in names and lower in names and upper != lower:
                found[upper].add(lower)
    return found


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the imports that a longer way implies."""

    def below(name: str) -> set[str]:
        return edges[name].union(*(below(other) for other in edges[name]))

    return {name: others - set().union(*(below(other) for other in others)) for name, others in edges.items()}


def svg() -> str:
    """The picture as an SVG file."""
    rows = layers()
    places = {}
    for y, row in enumerate(rows):
        for x, name in enumerate(row):
            places[name] = (LEFT + (x - (len(row) - 1) / 2) * (WIDTH + 40), 10 + y * ROW)
    lines, boxes = [], []
    for upper, others in sorted(reduced(imports()).items()):
        for lower in sorted(others):
            (x1, y1), (x2, y2) = places[upper], places[lower]
            far = (y2 - y1) / ROW > 1.5  # around the boxes between
            side = -1 if sum(map(ord, upper + lower)) % 2 else 1
            edge = WIDTH / 2
            if far:
                reach = side * (edge + 30 + 16 * (y2 - y1) / ROW)
                start = f"M{x1 + side * edge:.0f},{y1 + HEIGHT / 2:.0f}"
                bend = f"C{x1 + reach:.0f},{y1 + 40:.0f} {x2 + reach:.0f},{y2 - 10:.0f}"
                path = f"{start} {bend} {x2 + side * edge:.0f},{y2 + HEIGHT / 2:.0f}"
            else:
                path = f"M{x1:.0f},{y1 + HEIGHT:.0f} L{x2:.0f},{y2:.0f}"
            lines.append(f'<path d="{path}" marker-end="url(#tip)"/>')
    for name, (x, y) in places.items():
        text = html.escape(tree.summary(name))
        boxes.append(
            f'<g><title>{text}</title><rect x="{x - WIDTH / 2:.0f}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
            f'<text x="{x:.0f}" y="{y + 20}">{name}</text></g>'
        )
    height = 10 + len(rows) * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * LEFT} {height}" width="{2 * LEFT}" height="{height}" role="img" '
        'aria-label="The packages of d90 and their imports">\n'
        "<style>text{font:14px sans-serif;text-anchor:middle;fill:#123}rect{fill:#eef4fa;stroke:#47759f}"
        "path{fill:none;stroke:#8a99a8}#tip path{fill:#8a99a8}</style>\n"
        '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>\n'
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0L8,4L0,8z"/></marker>\n' + "\n".join([*lines, *boxes]) + "\n</svg>\n"
    )


if __name__ == "__main__":
    print(svg())
