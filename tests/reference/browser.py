"""Pages in headless Chromium: how they lie at two widths in two colour schemes, measured by a script in the page itself."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

SCRIPT = Path(__file__).with_name("look.js").read_text(encoding="utf-8")


def browser() -> str | None:
    """The browser of the system's packages; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def looked_at(page: Path, folder: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """{(width, scheme): what is wrong ("found"), background and ink} of a page.

    A frame for each: its width is the page's window, and its colour scheme what the page is told that the reader prefers.
    """
    text = page.read_text(encoding="utf-8")
    frames = "".join(
        f'<iframe id="{scheme}{width}" width="{width}" height="20000" style="border:0;color-scheme:{scheme}" '
        f'srcdoc="{html.escape(text)}"></iframe>'
        for width in WIDTHS
        for scheme in SCHEMES
    )
    tell = (
        "window.onload = () => { const told = {}; for (const f of document.querySelectorAll('iframe')) told[f.id] = faults(f); "
        "document.body.innerHTML = '<pre id=\"told\"></pre>'; document.getElementById('told').textContent = JSON.stringify(told); };"
    )
    wrapper = folder / f"look_{page.stem}.html"
    wrapper.write_text(
        f'<!doctype html><meta charset="utf-8"><script>{SCRIPT}{tell}</script>{frames}', encoding="utf-8"
    )
    shown = run("--dump-dom", f"file://{wrapper}", folder=folder)
    told = re.findall(r'<pre id="told">(.*?)</pre>', shown, re.DOTALL)[-1]  # the first stands in the script itself
    found = json.loads(html.unescape(told))
    return {(width, scheme): found[f"{scheme}{width}"] for width in WIDTHS for scheme in SCHEMES}


def run(*words: str, folder: Path) -> str:
    """What the browser prints; its profile lies in `folder`."""
    path = browser()
    assert path is not None
    usual = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}",
    ]
    return subprocess.run([path, *usual, *words], capture_output=True, text=True, timeout=300, check=True).stdout
