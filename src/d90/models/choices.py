"""Questions with choices as a model reads them: pairs for a head, or, for a causal model, each choice behind the question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from d90.errors import InputError
from d90.models.model import Model
from d90.tasks.encoded import Encoded

__all__ = ["choices_behind", "choices_beside"]


def choices_beside(inputs: Sequence[tuple[str, ...]], pairs: Callable[[Sequence[tuple[str, ...]]], Encoded]) -> Encoded:
    """Each question beside each of its choices.

    Args:
        pairs: encodes pairs of texts.
    """
    sides = [pairs([(row[0], row[k]) for row in inputs]) for k in range(1, len(inputs[0]))]
    found: dict[str, list[list[int]]] = {name: [[] for _ in inputs] for name in (*sides[0].features, "side")}
    for number, side in enumerate(sides):
        for name, rows in side.features.items():
            for i, values in enumerate(rows):
                found[name][i] += values
        for i, ids in enumerate(side.ids):
            found["side"][i] += [number] * len(ids)
    return Encoded(found, max(side.truncated for side in sides))


def choices_behind(
    model: Model, inputs: Sequence[tuple[str, ...]], ids_of: Callable[[list[str]], list[list[int]]], start: int
) -> Encoded:
    """The token that begins documents, the question, and each choice behind it; the choice's tokens are "scored".

    Of a text longer than the model the question's beginning goes.

    Args:
        ids_of: token ids of texts, without marks.
        start: the token that begins documents.

    Raises:
        InputError: a choice that leaves a question no room, or has no token.
    """
    found: dict[str, list[list[int]]] = {name: [[] for _ in inputs] for name in ("input_ids", "scored", "side")}
    questions = ids_of([row[0] for row in inputs])
    longest, truncated = model.max_length, set()
    for side in range(1, len(inputs[0])):
        for i, choice in enumerate(ids_of([f" {row[side]}" for row in inputs])):
            room = None if longest is None else longest - len(choice) - 1
            if not choice or (room is not None and room < 0):
                got = "no token" if not choice else f"{len(choice)} tokens, and '{model.name}' takes {longest}"
                raise InputError(f"example {i + 1}: its choice {side} has {got}; expected a shorter text, or some text")
            question = questions[i] if room is None else questions[i][max(0, len(questions[i]) - room) :]
            if len(question) < len(questions[i]):
                truncated.add(i)
            whole: list[Any] = [start, *question, *choice]
            found["input_ids"][i] += whole
            found["scored"][i] += [0] * (len(question) + 1) + [1] * len(choice)
            found["side"][i] += [side - 1] * len(whole)
    return Encoded(found, len(truncated))
