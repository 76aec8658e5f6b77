"""From matplotlib's SVG file to an SVG inside a page.

Colours become CSS variables and `currentColor`, so that the page decides them, in the light and in the dark; ids are
kept apart from those of the page's other figures; each dot tells the pointer which trial it is.
"""

from __future__ import annotations

import contextlib
import html
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = [
    "COLOURS",
    "INK",
    "WIDTH",
    "for_page",
    "log_ticks",
    "new_axes",
    "own_style",
    "put_labels",
    "rendered",
    "stand_in",
    "standalone",
]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all eyes
WIDTH = 5.2  # inches, of 374 units: on a telephone a letter of 8.5 is still 8 pixels high
LONGEST_TITLE = 56  # letters of a line over a figure of this width
INK = "#0a0b0c"  # stands for currentColor; not black, which matplotlib would leave unsaid

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "d90", "font.size": 10, "axes.grid": False}
STYLE |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Around the drawing of a figure: matplotlib's own defaults, whatever the user has set."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield


def new_axes(height: float, title_lines: int = 1, grid: bool = True) -> tuple[Any, Any]:
    """A figure of the page's width with one plot, and its axes; `for_page` puts the title in.

    A font may lack a user's letters, and '$' would begin mathematics: TITLE0, TITLE1 ... take the title's room.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("\n".join(f"TITLE{i}" for i in range(title_lines)), loc="left", fontsize=10)
    if grid:
        axes.grid(alpha=0.12, color=INK, lw=0.8)
    return figure, axes


def log_ticks(axis: Any, name: Callable[[float], str]) -> None:
    """Name round values along a logarithmic axis, whose limits are settled: more of them to a decade the narrower it is, two at least."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(FixedLocator(_round_values(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: name(value)))


def _round_values(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if high / low < 6:
        return [value for value in MaxNLocator(5, integer=low >= 4).tick_values(low, high) if low <= value <= high]
    steps = (1, 2, 5) if high / low < 200 else (1, 3) if high / low < 5000 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [value for k in decades for value in (s * 10.0**k for s in steps) if low <= value <= high]


def stand_in(index: int, label: str) -> str:
    """Takes a label's room in the layout; `put_labels` puts the label itself in, which may be any text."""
    return f"L{index:03d}" + "n" * (len(label) - 4)


def put_labels(svg: str, labels: Sequence[str]) -> str:
    """The labels in place of their stand-ins."""
    for i, label in enumerate(labels):
        svg = svg.replace(f">{stand_in(i, label)}<", f">{html.escape(label)}<")
    return svg


def rendered(figure: Any) -> str:
    """A matplotlib figure as the text of an SVG file; equal figures give equal text."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return file.getvalue()


def for_page(svg: str, title: Sequence[str], hover: dict[str, list[str]], prefix: str) -> str:
    """The SVG to inline.

    Args:
        svg: a file's text, in which TITLE0, TITLE1 ... stand for the title's lines.
        title: any text at all; escaped here, and lines cut that would not fit the figure: the page's heading has them whole.
        hover: for the id of a group of dots, what each of them tells, in their order.
        prefix: put before every id.
    """
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.S)
    view = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]  # the size gives way to the page's, and the namespaces are HTML's own
    body = re.sub(r"\n\s+", "\n", re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], prefix), body))
    for key, texts in hover.items():
        head, group, tail = body.partition(f'id="{prefix}-{key}"')
        for text in texts:
            # few dots are drawn as paths, many as uses of one, whose definition has an id
            before, name, rest, tail = re.split(r"<(use|path) (?!id=)([^>]*?)/>", tail, maxsplit=1)
            group += f"{before}<{name} {rest}><title>{html.escape(text)}</title></{name}>"
        body = head + group + tail
    for i, line in enumerate(title):
        shown = line if len(line) <= LONGEST_TITLE else f"{line[: LONGEST_TITLE - 1]}…"
        body = body.replace(f">TITLE{i}<", f">{html.escape(shown)}<")
    label = html.escape("; ".join(title))
    return f'<svg role="img" aria-label="{label}" {view[0] if view else ""}>{body}'


def standalone(svg: str) -> str:
    """A page's figure as a file of its own: on white, in ink and in any reader's letters, whatever stands around it."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head, body = svg.replace("<svg ", f"<svg {names} ", 1).split(">", 1)
    style = "<style>text{font-family:sans-serif}</style>"
    return f'{head}>{style}<rect width="100%" height="100%" fill="#fff"/>{body.replace("currentColor", "#333")}'


def _tag(tag: str, prefix: str) -> str:
    """One tag with its attributes made the page's; never the text between tags, whose numbers must stay."""
    tag = re.sub(r' font-family: [^;"]*;| transform="rotate\(-0 [^"]*"', "", tag)  # the page's font; no turn at all
    tag = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag)  # a hundredth of a point is enough
    tag = re.sub(r'\bid="', f'id="{prefix}-', tag)
    tag = re.sub(r"url\(#|href=\"#", lambda found: f"{found[0]}{prefix}-", tag)
    for i, colour in enumerate(COLOURS, 1):
        tag = tag.replace(colour, f"var(--c{i}, {colour})")
    return tag.replace(INK, "currentColor")
