"""Recipes: a table or figure of a paper from YAML, its studies, and the published figures beside ours.

reading    the file, checked whole before anything runs
schema     a command's options, from its function
figures    what each command gives
resolve    what models and tasks are on this machine
running    every study as the command it names
"""

from __future__ import annotations

from d90.reproduce.figures import KINDS
from d90.reproduce.plan import Plan, Published, Study
from d90.reproduce.reading import folder_of, read
from d90.reproduce.resolve import names, resolve
from d90.reproduce.running import TableRow, run
from d90.reproduce.schema import Command, command_of

__all__ = [
    "KINDS",
    "Command",
    "Plan",
    "Published",
    "Study",
    "TableRow",
    "command_of",
    "folder_of",
    "names",
    "read",
    "resolve",
    "run",
]
