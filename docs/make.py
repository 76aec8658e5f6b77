"""Build the documentation: `python docs/make.py` writes build/docs, and fails on a warning or a broken link.

The pages are those of this folder and those made from the code: the reference of Python and of the command line, the
capabilities of methods, the picture of the packages, and the results. Beside each page lies its Markdown, and `llms.txt` lists them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import pages  # noqa: E402

HERE, OUT = ROOT / "docs", ROOT / "build" / "docs"
SOURCE = ROOT / "build" / "docs-source"
FENCE = re.compile(r"^(```python) file=\S+$", re.MULTILINE)


def gather() -> None:
    """Put the written and the made pages side by side under `SOURCE`."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    (SOURCE / "extra" / "results").mkdir(parents=True)
    shutil.copy(HERE / "conf.py", SOURCE)
    for page in sorted([*HERE.glob("*.md"), *HERE.glob("*/*.md"), *HERE.glob("*.svg")]):
        target = SOURCE / page.relative_to(HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        if page.suffix == ".svg":
            shutil.copy(page, target)
        elif page.parent.name != "results":
            # names of files are the tests' business, and no part of a language's name
            target.write_text(FENCE.sub(r"\1", page.read_text(encoding="utf-8")), encoding="utf-8")
    for page in (HERE / "results").iterdir():
        if page.suffix in (".html", ".json", ".jsonl"):
            shutil.copy(page, SOURCE / "extra" / "results")
    for name, text in pages.made_pages().items():
        target = SOURCE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def twins() -> list[Path]:
    """Beside each HTML page its Markdown; what Sphinx would read from docstrings stands there in full."""
    plain = pages.plain_pages()
    written = []
    for page in sorted(SOURCE.rglob("*.md")):
        name = page.relative_to(SOURCE)
        (OUT / name).write_text(plain.get(name.as_posix()) or page.read_text(encoding="utf-8"), encoding="utf-8")
        written.append(name)
    return written


def llms(names: list[Path]) -> str:
    """`llms.txt`: every page's title and address, by its kind."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        title = re.search(r"^# (.+)$", (OUT / name).read_text(encoding="utf-8"), re.MULTILINE)
        kind = name.parent.parts[0] if name.parent.parts else "pages"
        kinds.setdefault(kind, []).append(f"- [{title[1] if title else name.stem}]({name.as_posix()})")
    parts = ["# d90", "", f"> {pages.description()}", ""]
    for kind, lines in kinds.items():
        parts += [f"## {kind.capitalize()}", "", *lines, ""]
    return "\n".join(parts)


class Links(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("href", "src") and value and tag != "link":
                self.targets.add(value)
            elif key in ("id", "name") and value:
                self.anchors.add(value)


def broken_links(folder: Path) -> list[str]:
    """Every link inside the built pages that leads nowhere."""
    found = {
        page: Links(page.read_text(encoding="utf-8"))
        for page in folder.rglob("*.html")
        if "_static" not in page.parts and "results" not in page.relative_to(folder).parts[:1]
    }
    broken = []
    for page, links in found.items():
        for link in sorted(links.targets):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchors = found[target].anchors if target in found else None
            if not target.exists() or (parts.fragment and anchors is not None and parts.fragment not in anchors):
                broken.append(f"{page.relative_to(folder)}: {link}")
    return broken


def main() -> int:
    """Build; the status is not 0 where a page or a link is at fault."""
    gather()
    shutil.rmtree(OUT, ignore_errors=True)
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html", str(SOURCE), str(OUT)]
    done = subprocess.run(words, check=False)
    if done.returncode:
        return done.returncode
    (OUT / "llms.txt").write_text(llms(twins()), encoding="utf-8")
    broken = broken_links(OUT.resolve())
    for line in broken:
        print(f"broken link: {line}", file=sys.stderr)
    print(f"{OUT.relative_to(ROOT)}/index.html")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
