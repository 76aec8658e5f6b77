"""Scores by generation: a language model answers the questions of a split, greedily, and each answer is held against its reference."""

from __future__ import annotations

import torch
from torch import Tensor

from d90.errors import InputError
from d90.models.model import Model
from d90.tasks.answers import Questions
from d90.tasks.kinds import TaskKind
from d90.tasks.split import Split
from d90.training.generation import generate
from d90.training.writing import write

__all__ = ["ask", "score_answers"]

SLACK = 16  # tokens


def ask(model: Model, split: Split, kind: TaskKind) -> Questions:
    """The questions of a split in a model's terms.

    An answer may take twice the tokens of the longest reference and `SLACK` more. Of a prompt that leaves no room for that
    reference the beginning goes, as in training.
    """
    found = kind.questions(model.tokenizer, split, model.split_special, model.name)
    if kind.writes or kind.extracts:  # in a decoder of its own, which the source leaves all its room
        return found
    longest = max(len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in found.references)  # type: ignore[misc]
    if model.max_length is not None:
        room = model.max_length - longest - 1
        if room < 1:
            raise InputError(
                f"the longest answer of the data has {longest} tokens and '{model.name}' takes {model.max_length}, expected room for a "
                "prompt before it; drop such examples, or take --metric loss"
            )
        found = found._replace(prompts=[ids[-room:] for ids in found.prompts])
    return found._replace(limit=2 * longest + SLACK)


def score_answers(model: Model, kind: TaskKind, metric: str, asked: Questions, outputs: Tensor) -> Tensor:
    """Each answer's score (n,): 1 or 0 in int64 where it is right or wrong, else fp32. Answers are made in fp32, as `d90 generate`'s are.

    Raises:
        InputError: a model that cannot generate, or what a script did.
    """
    if kind.extracts:
        answers = kind.answers_in(outputs, asked)
    elif kind.writes:
        texts = list(dict.fromkeys(asked.texts))
        written = dict(zip(texts, write(model, kind, [(text,) for text in texts]), strict=True))
        answers = [written[text] for text in asked.texts]
    else:
        prompts = list(dict.fromkeys(map(tuple, asked.prompts)))  # one with several references is answered once
        found = dict(zip(prompts, generate(model, prompts, asked.limit, asked.ends, size=32), strict=True))
        answers = [found[tuple(ids)] for ids in asked.prompts]
    return torch.as_tensor(kind.grade(metric, asked, answers))
