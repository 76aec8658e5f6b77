"""The pages that are made from the code: names from their docstrings, commands from the command line's own objects,
capabilities from the methods and the contract table of the tests, and the gallery from docs/results."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import picture
import subjects
import typer

import d90
from d90.cli.main import app

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def description() -> str:
    """What the package is, in its own sentence."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["description"])


def made_pages() -> dict[str, str]:
    """Every made page by its path below the documentation's root."""
    return {
        **_api_pages(),
        **_command_pages(),
        "reference/capabilities.md": capabilities(),
        "explanation/packages.svg": picture.svg(),
        "results/README.md": _results(),
        "gallery.md": gallery(),
        "decisions.md": decisions(),
    }


# names


def public_names() -> list[str]:
    """`d90.__all__`, and the public names of its packages behind their dots."""
    return [name for name in d90.__all__ if not name.startswith("__")]


def _api_pages() -> dict[str, str]:
    pages = {f"reference/api/{name}.md": _sphinx_page(name) for name in public_names()}
    listed = "\n".join(f"- [`d90.{name}`]({name}.md): {_first_line(getattr(d90, name))}" for name in public_names())
    toctree = "\n".join(public_names())
    pages["reference/api/index.md"] = (
        f"# Python\n\nEvery public name; `d90.__version__` is the installed version, here {d90.__version__}.\n\n{listed}\n\n"
        f"```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    )
    return pages


def _sphinx_page(name: str) -> str:
    value = getattr(d90, name)
    if not isinstance(value, ModuleType):
        return f"# d90.{name}\n\n```{{eval-rst}}\n{_directive(f'd90.{name}', value)}```\n"
    names = [part for part in value.__all__ if not isinstance(getattr(value, part), ModuleType)]
    parts = [f"# d90.{name}\n\n```{{eval-rst}}\n.. automodule:: d90.{name}\n   :no-members:\n```\n"]
    for part in names:
        parts.append(f"## {part}\n\n```{{eval-rst}}\n{_directive(f'd90.{name}.{part}', getattr(value, part))}```\n")
    return "\n".join(parts)


def _directive(path: str, value: Any) -> str:
    if inspect.isclass(value):
        return f".. autoclass:: {path}\n   :members:\n   :no-index:\n"
    if inspect.isroutine(value):
        return f".. autofunction:: {path}\n   :no-index:\n"
    return "::\n\n" + textwrap.indent(_doc(value), "    ") + "\n"


def plain_pages() -> dict[str, str]:
    """The Markdown of the pages of names: signature and docstring as they stand in the code."""
    found = {}
    for name in public_names():
        value = getattr(d90, name)
        if isinstance(value, ModuleType):
            parts = [f"# d90.{name}\n\n{inspect.getdoc(value) or ''}\n"]
            parts += [_plain(f"d90.{name}.{part}", getattr(value, part), "##") for part in value.__all__]
            found[f"reference/api/{name}.md"] = "\n".join(parts)
        else:
            found[f"reference/api/{name}.md"] = _plain(f"d90.{name}", value, "#")
    return found


def _plain(path: str, value: Any, level: str) -> str:
    try:
        signature = f"\n```python\n{path}{inspect.signature(value)}\n```\n"
    except (TypeError, ValueError):
        signature = ""
    text = f"{level} {path}\n{signature}\n{_doc(value)}\n"
    if inspect.isclass(value):
        for key, member in vars(value).items():
            plain = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if not key.startswith("_") and inspect.isfunction(plain) and plain.__doc__:
                text += f"\n{level}# {path}.{key}{inspect.signature(plain)}\n\n{_doc(plain)}\n"
    return text


def _doc(value: Any) -> str:
    if not (inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, ModuleType)):
        return "\n".join(f"{key}: {each}" for key, each in value.items()) if isinstance(value, Mapping) else repr(value)
    return inspect.getdoc(value) or ""


def _first_line(value: Any) -> str:
    return _doc(value).partition("\n")[0]


# commands


def commands() -> dict[str, Any]:
    """Every command of `d90` by its name."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def command_page(name: str, command: Any) -> str:
    """A command with every argument and option.

    Raises:
        ValueError: one has no help text, so that nobody would learn what it does.
    """
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join(["d90", name, *(_argument(each) for each in arguments), "[OPTIONS]"])
    parts = [f"# d90 {name}\n\n{textwrap.dedent(command.help or '').strip()}\n\n```\n{usage}\n```\n"]
    if arguments:
        rows = [(f"`{each.name}`", _default(each), _help(name, each)) for each in arguments]
        parts.append(_table(("argument", "default", "what it is"), rows))
    rows = []
    for each in options:
        if getattr(each, "hidden", False):
            continue
        spelled = ", ".join(f"`{word}`" for word in [*each.opts, *each.secondary_opts])
        rows.append((spelled, _default(each), _help(name, each)))
    parts.append(_table(("option", "default", "what it does"), rows))
    return "\n".join(parts)


def _help(command: str, parameter: Any) -> str:
    text = getattr(parameter, "help", None)
    if not text:
        raise ValueError(
            f"{parameter.opts[0]} of d90 {command} has no help text; the reference says what each option does"
        )
    return _cell(text)


def _argument(argument: Any) -> str:
    text = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return text if argument.required else f"[{text}]"


def _default(parameter: Any) -> str:
    value = parameter.default
    return "" if value is None or callable(value) or value == "" else f"`{value}`"


def _cell(text: str) -> str:
    return re.sub(r"([*_<>\[\]])", r"\\\1", " ".join(text.split())).replace("|", "\\|")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "-|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _command_pages() -> dict[str, str]:
    found = commands()
    pages = {f"reference/cli/{name}.md": command_page(name, command) for name, command in found.items()}
    listed = "\n".join(f"- [`d90 {name}`]({name}.md): {_summary(command)}" for name, command in found.items())
    toctree = "\n".join(found)
    pages["reference/cli/index.md"] = (
        "# Command line\n\nExit status 0: done. 2: something asked for is wrong, told in one line. 1: a run or the machine failed. "
        "130: interrupted.\n\n"
        f"{listed}\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    )
    return pages


def _summary(command: Any) -> str:
    return _cell(textwrap.dedent(command.help or "").strip().partition("\n\n")[0])


# capabilities


def capabilities() -> str:
    """What each method can do: its own flags, and the models on which the contract tests try it."""
    from tests.methods.table import MODELS, ROWS, SPACES

    from d90.methods import METHODS

    kinds = {"bert": "encoder", "llama": "decoder, grouped heads", "gpt2": "decoder, Conv1D", "plain": "bare network"}
    rows = []
    for name, method in METHODS.items():
        if not method.__module__.startswith("d90."):
            continue  # of another package that is installed here
        cells = []
        for model in MODELS:
            tried = [row for row in ROWS if row.method.partition(":")[0] == name and row.model == model]
            cells.append("yes" if any(not row.error for row in tried) else "refused" if tried else "")
        stores = "tuned weights" if method.leaves_weights else "what it trains"
        fields = ",".join(field.name for field in dataclasses.fields(method))
        rows.append(
            (
                f"`{name}{':' if fields else ''}{fields}`",
                "yes" if method.merges else "no",
                stores,
                "yes" if method.starts_at_base else "no",
                _cell(method.adds),
                "yes",
                "yes" if method.over_packed else "refused",
                *cells,
            )
        )
    spaces = ", ".join(f"`{space}`" for space in SPACES if space)
    head = (
        "method",
        "merges",
        "stores",
        "starts at the base",
        "adds at inference",
        "subspace over it",
        "over a 4-bit base",
    )
    return (
        "# What each method can do\n\nThe first columns are the methods' own attributes. The last ones say on which models the "
        "contract tests try it: *yes* where the whole contract holds, *refused* where the method says in one line why; an empty cell was "
        f"not tried. Each is tried plain and below {spaces}.\n\n{_table((*head, *(kinds.get(m, m) for m in MODELS)), rows)}\n"
        "Over a 4-bit base (`--weights 4bit`, language models on a GPU): packed integers cannot move, so what reads or writes the base's "
        "own weights is refused before anything is loaded; where a method adds its own, a subspace over it works there too, and a sum of "
        "methods where each of them does.\n\nA task's own head moves with every method. What a method costs on a model in numbers: "
        "`d90 methods --model minilm`.\n"
    )


# decisions


def decisions() -> str:
    """The decisions under the subjects of `subjects.SUBJECTS`, with an index of these before them."""
    head, *found = re.split(
        r"^(?=- \*\*)", (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    left = {re.sub(r"\s+", " ", each[4:]): each.rstrip("\n") for each in found}
    groups: dict[str, list[str]] = {}
    for subject, names in subjects.SUBJECTS.items():
        for name in names:
            groups.setdefault(subject, []).extend(left.pop(title) for title in list(left) if title.startswith(name))
    if left:
        groups["Not yet under a subject"] = list(left.values())
    index = "\n".join(f"- [{subject}](#{_anchor(subject)}): {len(each)}" for subject, each in groups.items())
    parts = ["\n".join([f"## {subject}", "", *each, ""]) for subject, each in groups.items()]
    return "\n".join([head.rstrip("\n"), "", index, "", *parts])


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


# results


def _results() -> str:
    """The table of results; its pages are ordinary links, which Sphinx would take for files to download."""
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\[([^\]]+)\]\((\w+\.(?:html|json|jsonl|md))\)", r'<a href="\2">\1</a>', text)


def gallery() -> str:
    """A line for each page of docs/results."""
    lines = []
    for page in sorted(RESULTS.glob("*.html")):
        text = page.read_text(encoding="utf-8")
        title = re.search(r"<h1[^>]*>(.*?)</h1>", text, re.DOTALL) or re.search(
            r"<title>(.*?)</title>", text, re.DOTALL
        )
        figures = text.count("<svg")
        words = re.sub(r"<[^>]+>|\s+", " ", title[1]).strip() if title else page.stem
        lines.append(
            f'- <a href="results/{page.name}">{page.stem}</a>: {words}; {figures} figure{"s" * (figures != 1)}'
        )
    return (
        "# Gallery\n\nPages that `d90 report` and its relatives made from the trials stored in `docs/results`, as they are. "
        "[All figures in one table, each with its command](results/README.md).\n\n" + "\n".join(lines) + "\n"
    )
