"""A recipe's file -> Plan: strict, so that what is wrong is said in one line before anything is trained."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d90.errors import D90Error, InputError, unknown_name
from d90.files import Json, check_recipe
from d90.methods import parse
from d90.reproduce.figures import KINDS, canonical
from d90.reproduce.plan import Plan, Published, Study, slug
from d90.reproduce.resolve import makes
from d90.reproduce.schema import Arguments, Command
from d90.training.recipe import make_recipe

__all__ = ["folder_of", "read"]

TOP = ("title", "paper", "differs", "variables", "defaults", "studies")
STUDY = ("name", "command", "options", "published")
PUBLISHED = ("value", "source", "of")
VARIABLE = re.compile(r"\$\{([^}]*)\}")
WRITTEN = ("store", "page", "out", "log", "logs")  # options that name what a study writes
MAX_CHARACTERS, MAX_DEPTH = 1 << 20, 12  # of a recipe's file


@dataclass(frozen=True)
class Setting:
    """What every study of a recipe is read with: the commands by name, the recipe's defaults and variables, its folder."""

    source: str
    commands: Mapping[str, Command]
    defaults: Json
    variables: Mapping[str, str]
    folder: Path
    anywhere: bool


def read(
    path: str | os.PathLike[str],
    commands: Mapping[str, Command],
    values: Mapping[str, str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    anywhere: bool = False,
) -> Plan:
    """Read and check a recipe.

    Args:
        path: a YAML file; nothing in it is ever executed.
        commands: by name.
        values: of the recipe's variables.
        folder: where its store, pages and figures go; `folder_of(path)` by default.
        anywhere: let it write outside that folder, where it says so.

    Raises:
        InputError: what is wrong in which study, what was expected, what to do.
    """
    source, target = Path(path), Path(folder) if folder is not None else folder_of(path)
    body = _mapping(_load(source), f"'{source}'", TOP, ("title", "studies"))
    where = f"'{source}'"
    known = _variables(body.get("variables", {}), dict(values or {}), where) | {"out": str(target)}
    defaults = body.get("defaults", {})
    if not isinstance(defaults, dict) or not all(isinstance(key, str) for key in defaults):
        raise InputError(f"{where}: got defaults: {defaults!r}, expected options by name, as in epochs: 3")
    for name in defaults:
        if not any(command.takes(name) for command in commands.values()):
            every = {option.names[0] for command in commands.values() for option in command.options}
            raise unknown_name(f"option '{name}' among the defaults of", str(source), sorted(every))
    listed = body["studies"]
    if not isinstance(listed, list) or not listed:
        raise InputError(
            f"{where}: got studies: {listed!r}, expected a list of studies, each with a command and options"
        )
    setting = Setting(where, commands, defaults, known, target, anywhere)
    studies: list[Study] = []
    for number, item in enumerate(listed, 1):
        made = [path for study in studies for path in makes(study)]
        study = _study(item, number, setting, made)
        twin = next((other for other in studies if other.name == study.name or other.line == study.line), None)
        if twin is not None:
            what = "name" if twin.name == study.name else "command and options"
            raise InputError(
                f"{where}: study {number} has the {what} of '{twin.name}', expected each once; rename it, or change its options"
            )
        studies.append(study)
    differs = body.get("differs", [])
    return Plan(
        source,
        _text(body["title"], f"{where}: title"),
        _text(body.get("paper", ""), f"{where}: paper"),
        tuple(_text(line, f"{where}: differs") for line in (differs if isinstance(differs, list) else [differs])),
        tuple(studies),
        target,
    )


def folder_of(path: str | os.PathLike[str]) -> Path:
    """runs/NAME, and runs/small/NAME for recipes/small/NAME.yaml, so that a twin does not write over the other's pages."""
    whole = Path(path).absolute().with_suffix("")
    parts = whole.parts
    below = parts[len(parts) - parts[::-1].index("recipes") :] if "recipes" in parts else (whole.name,)
    return Path("runs", *below)


# --- the file ------------------------------------------------------------------------------------------------------


def _load(path: Path) -> Any:
    import yaml

    try:
        with check_recipe(path).open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}': broken UTF-8 at byte {error.start}; save the file as UTF-8") from None
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"'{path}': longer than {MAX_CHARACTERS:,} characters, expected a recipe; split it into several"
        )
    try:
        _bounded(text, path)
        _once(yaml.compose(text, Loader=yaml.SafeLoader), path, set())
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(
            f"'{path}'{line}: no YAML: {problem}. Likely cause: indentation, or an unquoted ':' or '@'"
        ) from None
    except RecursionError:
        raise InputError(f"'{path}': nested too deeply, expected a recipe: a title and a list of studies") from None


def _bounded(text: str, path: Path) -> None:
    """Refuse aliases, which a few lines of can stand for billions of values, and nesting that no recipe has."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise InputError(
                f"'{path}', line {line}: got the alias '*{event.anchor}', expected values written out; copy it"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError(
                f"'{path}', line {line}: nested more than {MAX_DEPTH} deep, expected a title and a list of studies"
            )


def _once(node: Any, path: Path, seen: set[int]) -> None:
    """Refuse a key that stands twice: YAML keeps the last, and an option would be lost without a word."""
    if id(node) in seen or not isinstance(getattr(node, "value", None), list):
        return
    seen.add(id(node))
    pairs = [part for part in node.value if isinstance(part, tuple)]
    names = [key.value for key, _ in pairs if isinstance(key.value, str)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        line = node.start_mark.line + 1
        raise InputError(f"'{path}', line {line}: got '{twice}' twice, expected each key once; remove one")
    for part in [value for _, value in pairs] or node.value:
        _once(part, path, seen)


def _mapping(item: Any, where: str, known: tuple[str, ...], needed: tuple[str, ...]) -> Json:
    if not isinstance(item, dict):
        raise InputError(f"{where}: got {type(item).__name__}, expected keys {', '.join(known)}")
    unknown = next((key for key in item if key not in known), None)
    if unknown is not None:
        raise unknown_name("key", unknown, known, f"In {where}.")
    missing = next((key for key in needed if item.get(key) is None), None)
    if missing is not None:
        raise InputError(
            f"{where}: got no '{missing}', expected it beside {', '.join(map(str, item)) or 'nothing'}; add it"
        )
    return item


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: got {value!r}, expected a text; put it in quotes")
    return value


# --- variables -----------------------------------------------------------------------------------------------------


def _variables(declared: Any, values: dict[str, str], where: str) -> dict[str, str]:
    """Declared as `name: what it is`, or `name: {about: what it is, default: value}`."""
    if not isinstance(declared, dict):
        raise InputError(
            f"{where}: got variables: {declared!r}, expected names with what they are, as in data: a folder"
        )
    unknown = next((name for name in values if name not in declared), None)
    if unknown is not None:
        if not declared:
            raise InputError(f"got --set {unknown}=..., but {where} has no variables; leave it out")
        raise unknown_name("variable", unknown, declared, f"{where} has no other.")
    found = {}
    for name, about in declared.items():
        if name == "out":
            raise InputError(f"{where}: got a variable 'out', which is the run's own folder; rename it")
        default = None
        if isinstance(about, dict):
            inner = _mapping(about, f"{where}, variable '{name}'", ("about", "default"), ("about",))
            default, about = inner.get("default"), inner["about"]
        about = _text(about, f"{where}, variable '{name}'")
        if name not in values and default is None:
            raise InputError(f"{where} needs {name}: {about}. Got none; give it with --set {name}=...")
        found[str(name)] = values.get(name, str(default))
        if not found[name].strip():
            raise InputError(f"got --set {name}= without a value, expected {about}")
    return found


def _filled(value: Any, known: Mapping[str, str], where: str) -> Any:
    if isinstance(value, list):
        return [_filled(part, known, where) for part in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise unknown_name("variable", match[1], known, f"In {where}; declare it under variables.")
        return known[match[1]]

    return VARIABLE.sub(fill, value)


# --- studies -------------------------------------------------------------------------------------------------------


def _study(item: Any, number: int, setting: Setting, made: Sequence[str]) -> Study:
    """One study of the list; `made` are the folders that those before it will write."""
    where, commands = setting.source, setting.commands
    name = f"study {number}"
    if isinstance(item, dict) and isinstance(item.get("name"), str):
        name = f"study {number}, '{item['name']}'"
    stated = _mapping(item, f"{where}, {name}", STUDY, ("name", "command"))
    shown = _text(stated["name"], f"{where}, {name}: name")
    try:
        if stated["command"] not in commands:
            raise unknown_name("command", stated["command"], commands)
        command = commands[stated["command"]]
        options = stated.get("options") or {}
        if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
            raise InputError(f"got options: {options!r}, expected options by name, as in epochs: 3")
        given = {key: value for key, value in setting.defaults.items() if command.takes(key)}
        own = {command.field(key) for key in options}
        given = {key: value for key, value in given.items() if command.field(key) not in own} | options
        arguments = command.arguments({key: _filled(value, setting.variables, name) for key, value in given.items()})
        _placed(command, arguments, shown, setting.folder)
        if not setting.anywhere:
            _check_places(arguments, setting.folder)
        if hasattr(arguments, "models"):
            arguments.models = [found for text in arguments.models for found in _globbed(text, made)]
        _check(command, arguments)
        study = Study(shown, command, arguments, ())
        published = stated.get("published") or []
        if not isinstance(published, list):
            raise InputError(f"got published: {published!r}, expected a list of figures with value and source")
        return replace(study, published=tuple(_published(entry, study) for entry in published))
    except D90Error as error:
        raise InputError(f"{where}, {name}: {error}") from None


def _placed(command: Command, arguments: Arguments, name: str, folder: Path) -> None:
    """Everything a study writes goes into the recipe's folder, where the recipe does not say otherwise."""
    defaults = {option.name: option.default for option in command.options}
    places = {"store": folder / "d90.sqlite", "logs": str(folder / "logs")}
    if command.name in ("trajectory", "family", "lowdata"):
        places["page"] = folder / f"{slug(name)}.html"
    endings = {"analyze": ".html", "train": ".d90", "pretrain": ""}
    places["out"] = folder / f"{slug(name)}{endings.get(command.name, '.json')}"
    for key, place in places.items():
        if hasattr(arguments, key) and getattr(arguments, key) == defaults[key]:
            setattr(arguments, key, place)


def _check_places(arguments: Arguments, folder: Path) -> None:
    """Refuse what would be written outside the recipe's folder: a recipe may come from someone else."""
    allowed = folder.resolve()
    for key in WRITTEN:
        place = getattr(arguments, key, None)
        if place and not Path(place).resolve().is_relative_to(allowed):
            raise InputError(
                f"got {key}: {place}, which is outside the recipe's folder '{folder}'; expected a path in it, as "
                f"${{out}}/{Path(place).name}, or --anywhere"
            )


def _globbed(text: str, made: Sequence[str]) -> list[str]:
    """Folders by a pattern, in the order of the numbers in their names; those that an earlier study will make count as there."""
    if not any(letter in text for letter in "*?["):
        return [text]
    import fnmatch
    import glob

    found = fnmatch.filter(made, text) or glob.glob(text)
    if not found:
        raise InputError(f"got '{text}', which no folder fits; expected checkpoints, as in run/step-*")
    return sorted(found, key=lambda name: ([int(part) for part in re.findall(r"\d+", name)], name))


def _check(command: Command, arguments: Arguments) -> None:
    """What the functions below would refuse, when the studies before have been trained."""
    KINDS[command.name].keys(arguments)
    whole = command.whole(arguments)
    spec = parse(getattr(arguments, "method", None) or "full")  # certify leaves it open
    if hasattr(whole, "training"):
        make_recipe("model", "task", spec, whole.training)
    if command.name in ("trajectory", "family") and len(arguments.models) < 2:
        raise InputError(f"got {len(arguments.models)} models, expected at least two")
    for name in ("tried", "d"):
        value = getattr(arguments, name, None)
        if value is not None and value < 1:
            raise InputError(f"got {name}: {value}, expected at least 1")


def _published(entry: Any, study: Study) -> Published:
    kind = KINDS[study.command.name]
    expected = kind.keys(study.arguments)
    names = (*dict.fromkeys(key for keys in expected for key in keys), *kind.free)
    stated = _mapping(entry, "published", (*PUBLISHED, *names), ("value", "source"))
    value, source = stated["value"], _text(stated["source"], "published: source")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"got published value: {value!r}, expected a number as the paper prints it, or a statement")
    of = stated.get("of", "")
    if of and of not in kind.of:
        raise unknown_name(f"figure of {study.command.name}", of, kind.of)
    keys = {key: canonical(key, str(stated[key])) for key in names if key in stated}
    if isinstance(value, str) and not of and not keys:
        return Published(value, source)  # of the study as a whole
    if any(key in kind.free for key in keys):
        return Published(value, source, of, keys)
    fits = [one for one in expected if keys.items() <= one.items()]
    if len(fits) != 1:
        shown = ", ".join(f"{key}: {value}" for key, value in keys.items()) or "no key"
        raise InputError(
            f"published {value}: got {shown}, which fits {len(fits)} of the study's {len(expected)} figures, expected one; "
            f"name it by {', '.join(names) or 'nothing'}, with values the study's options have"
        )
    return Published(value, source, of, keys)
