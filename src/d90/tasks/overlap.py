"""Which examples cannot be independent draws: repetitions, shared texts, phrases of one another. What a bound cannot see by itself.

Texts are compared normalised: compatibility forms (NFKC), case folded, letters and digits alone, one space between words.
Images, and tensors of any kind, are compared by their bytes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from d90.tasks.base import Split
from d90.tasks.kinds import TaskKind
from d90.tasks.kinds.base import MIN_ASKED

__all__ = ["SHORTEST", "Overlap", "asked_again", "asked_once", "common", "keys", "normalised", "overlap"]

SHORTEST = 3  # words of a phrase: shorter ones lie in other texts by chance
_NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Overlap:
    """Counts of examples, each of them "beyond the first" but for `shared` and `inside`.

    Attributes:
        n: examples looked at.
        copies: equal one before, to the letter.
        near: equal one before once normalised, and are no copies.
        swapped: pairs that equal one before with its two texts in the other order.
        shared, most: pairs with a text that another pair has too, repetitions left out; and the most pairs that one text is in.
        inside: single texts of `SHORTEST` words or more that stand, word for word, inside another.
    """

    n: int
    copies: int
    near: int = 0
    swapped: int = 0
    shared: int = 0
    most: int = 0
    inside: int = 0

    @property
    def lines(self) -> list[str]:
        """What was found, a line each; nothing where nothing was."""
        shown = (
            (self.copies, "repeat another: likely copies, not independent draws"),
            (self.near, "repeat another but for case, spaces or punctuation"),
            (self.swapped, "repeat another with its two texts in the other order"),
            (
                self.shared,
                f"share a text with another, up to {self.most:,} the same one: one source, not independent draws",
            ),
            (self.inside, "are phrases of another: one source, not independent draws"),
        )
        return [f"{count:,} of {self.n:,} examples {words}" for count, words in shown if count]


def asked_once(kind: TaskKind, split: Split) -> Split:
    """The independent examples of a split as examples of their own: the prompt or context that several share, once; where a column
    names what they share, the examples themselves, those that a group repeats once."""
    drawn = kind.sources(split)
    if drawn is None:
        return split
    if split.sources is not None:
        named = zip(drawn.names, keys(split), strict=True)
        last = {key: number for number, key in enumerate(named)}
        return split.pick(torch.tensor(sorted(last.values())))
    asked = dict.fromkeys(drawn.names)
    return Split([(text,) for text in asked], torch.zeros(len(asked), dtype=torch.int64))


def asked_again(kind: TaskKind, some: Split, others: Split) -> int:
    """How many examples of `some` ask what examples of `others` ask; 0 where nothing is asked, or too few things to be draws."""
    drawn, here = kind.sources(others), kind.sources(some)
    known = set(drawn.names) if drawn else set()
    return sum(name in known for name in here.names) if here and len(known) >= MIN_ASKED else 0


def overlap(split: Split, phrases: bool = True) -> Overlap:
    """Count what repeats and what is shared within a split; of images the exact copies alone.

    Args:
        phrases: whether single texts that stand inside another one count.
    """
    n = len(split)
    if isinstance(split.inputs, Tensor):
        return Overlap(n, n - len(set(keys(split))))
    texts = [tuple(_told(text) for text in example) for example in split.inputs]
    distinct = set(texts)
    copies = n - len(set(split.inputs))
    near = n - len(distinct) - copies
    if len(texts[0]) == 1:
        return Overlap(n, copies, near, inside=_inside([example[0] for example in texts]) if phrases else 0)
    unordered = {tuple(sorted(example)) for example in distinct}
    uses = Counter(text for example in unordered for text in set(example))
    shared = {example for example in unordered if any(uses[text] > 1 for text in example)}
    most = max(uses.values())
    return Overlap(n, copies, near, len(distinct) - len(unordered), len(shared), most)


def common(some: Split, others: Split) -> int:
    """How many examples of `some` stand in `others` too: texts normalised, pairs in either order; images by their bytes."""
    known = set(keys(others))
    return sum(key in known for key in keys(some))


def keys(split: Split) -> list[Hashable]:
    """What identifies an example, labels apart: two of equal keys are copies, or near copies of a text."""
    if not isinstance(split.inputs, Tensor):
        return [_unordered(example) for example in split.inputs]
    rows = split.inputs.detach().cpu().reshape(len(split), -1)
    if rows.is_floating_point():
        rows = rows.float() + 0.0  # one zero, not two
    return [row.tobytes() for row in rows.contiguous().numpy()]


def normalised(text: str) -> str:
    """Words alone, case folded, one space between them."""
    return " ".join(_NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def _told(text: str) -> str:
    """Normalised; as it is where it has no word, so that ":)" and "..." stay two texts."""
    return normalised(text) or text.strip()


def _unordered(example: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(map(_told, example)))


def _inside(texts: Sequence[str]) -> int:
    """How many distinct texts stand inside a longer one; found by their first words, then compared whole."""
    lengths: dict[tuple[str, ...], set[int]] = {}
    phrases: dict[tuple[str, ...], bool] = {}
    split = [tuple(text.split()) for text in set(texts)]
    for words in split:
        if len(words) >= SHORTEST:
            phrases[words] = False
            lengths.setdefault(words[:SHORTEST], set()).add(len(words))
    for words in split:
        for at in range(len(words) - SHORTEST + 1):
            for length in lengths.get(words[at : at + SHORTEST], ()):
                if length < len(words) and words[at : at + length] in phrases:
                    phrases[words[at : at + length]] = True
    return sum(phrases.values())
