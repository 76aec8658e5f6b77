"""Any of several classes for a text: topics, emotions, reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from d90.errors import InputError, quoted
from d90.files import Json
from d90.search.rules import Scale, set_scale
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds.base import Prediction, Reading, TaskKind
from d90.tasks.labels import class_names, class_numbers
from d90.tasks.metrics import LOSS
from d90.tasks.split import Split

__all__ = ["MultiLabel", "best_thresholds"]

F1_MICRO, F1_MACRO, AVERAGE_PRECISION = "f1_micro", "f1_macro", "average_precision"
LISTS = ("label", "labels")
ZERO_ONE = (0, 1, "0", "1", True, False, 0.0, 1.0)

for _metric in (F1_MICRO, F1_MACRO, AVERAGE_PRECISION):  # labels of one text are not independent: neither is counted
    set_scale(_metric, Scale(share=True))


@dataclass(frozen=True)
class MultiLabel(TaskKind):
    """Any of several classes; the loss is the mean over examples and classes of binary cross-entropies.

    F1 is of the classes that are likelier than not. What `describe` names is decided by thresholds that the validation split chose.

    Attributes:
        thresholds: the probability from which on each class is named; empty before a run was saved: one half.
        ranked: whether predictions are probabilities, as average precision takes them.
    """

    name: ClassVar[str] = "multi-label"
    stored: ClassVar[str] = "multi-label"
    summary: ClassVar[str] = "any of several classes for a text or a pair: a list as label, or columns of 0 and 1"
    problem: ClassVar[str | None] = "multi_label_classification"
    metrics: ClassVar[tuple[str, ...]] = (F1_MICRO, F1_MACRO, AVERAGE_PRECISION)
    classes: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    mistake: ClassVar[str] = "an example's classes may be right in part"
    hub_task: ClassVar[str | None] = "text-classification"
    peft_task: ClassVar[str | None] = "SEQ_CLS"

    thresholds: tuple[float, ...] = ()
    ranked: bool = False

    # --- data --------------------------------------------------------------------------------------------------------

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """Texts with a list of classes, or with two columns of 0 and 1 at least and no label."""
        if columns.find(table.rows[0]) is None:
            return False
        return _list_column(table, columns) is not None or len(_flags(table, columns)) > 1

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Classes are those of the training table."""
        train = tables["train"]
        column = _list_column(train, columns)
        flags = [] if column is not None else _flags(train, columns)
        if column is None and len(flags) < 2:
            shown = ", ".join(map(str, list(train.rows[0])[:20]))
            raise InputError(
                f"{train.where}: neither a list of classes nor two columns of 0 and 1; it has {shown}. Name a list with --label, or "
                "columns as --label toxic,rude"
            )
        found = {
            part: _lists(table, column) if column is not None else _from_flags(table, flags)
            for part, table in tables.items()
        }
        names = tuple(flags) if flags else class_names([one for row in found["train"] for one in row], train, True)
        splits = {}
        for part, table in tables.items():
            labels = torch.zeros(len(table.rows), len(names))
            for i, row in enumerate(found[part]):
                spots = Table([], table.where, [table.place(i)] * len(row))
                labels[i, class_numbers(row, names, spots)] = 1.0
            splits[part] = Split(columns.texts(table, labelled=False), labels)
        empty = sum(int((split.labels.sum(dim=1) == 0).sum()) for split in splits.values())
        notes = [] if given else [f"kind: {cls.name}, {len(names)} classes, guessed; --kind names another"]
        notes += [f"{empty:,} examples have no class"] if empty else []
        return Reading(cls(names), splits, tuple(notes))

    def check(self, task: str, train: Split, metric: str) -> None:
        """As the others; training labels must hold a class that some examples have and some have not."""
        super().check(task, train, metric)
        rates = train.labels.mean(dim=0)
        if not bool(((rates > 0) & (rates < 1)).any()):
            raise InputError(
                f"task '{task}': every class stands at all {len(train)} training examples, or at none; expected some that differ. Likely "
                "cause: the wrong column"
            )

    def renumbered(self, labels: Tensor, place: Tensor) -> Tensor:
        """Columns in another order."""
        return torch.zeros_like(labels).index_copy(1, place, labels)

    @property
    def record(self) -> Json:
        """The thresholds."""
        return {"thresholds": list(self.thresholds)} if self.thresholds else {}

    def restored(self, record: Json) -> MultiLabel:
        """With the thresholds of a finished tune."""
        return replace(self, thresholds=tuple(map(float, record.get("thresholds", ()))))

    def calibrated(self, outputs: Tensor, labels: Tensor) -> MultiLabel:
        """With the thresholds that the validation split chooses."""
        return replace(self, thresholds=best_thresholds(outputs.float().sigmoid(), labels))

    # --- model -------------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> int:
        """A logit for each class."""
        return len(self.labels)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Each example's mean binary cross-entropy, in nats."""
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs.float(), labels, reduction="none").mean(
            dim=1
        )

    # --- predictions -------------------------------------------------------------------------------------------------

    def scored_by(self, metric: str) -> MultiLabel:
        """With probabilities as predictions, where they are ranked."""
        ranked = metric == AVERAGE_PRECISION
        return self if ranked == self.ranked else replace(self, ranked=ranked)

    def predict(self, outputs: Tensor) -> Tensor:
        """1 where a class is likelier than not, (n, classes); probabilities where they are ranked."""
        return outputs.float().sigmoid() if self.ranked else (outputs > 0).float()

    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> Prediction:
        """The classes above their thresholds, the likeliest first, and every class's probability."""
        shares = dict(zip(self.labels, output.float().sigmoid().tolist(), strict=True))
        least = dict(zip(self.labels, self.thresholds or [0.5] * len(self.labels), strict=True))
        named = sorted((name for name in shares if shares[name] >= least[name]), key=lambda name: -shares[name])
        return {"labels": named, "probabilities": shares}

    def measure(self, metric: str, predicted: Tensor, labels: Tensor) -> float:
        """F1 over all decisions, the mean over classes of their F1 (0 of a class that is nowhere), or average precision over all."""
        if metric == AVERAGE_PRECISION:
            return _average_precision(predicted, labels)
        if metric not in (F1_MICRO, F1_MACRO):
            return super().measure(metric, predicted, labels)
        hits, all_there = (predicted * labels).sum(dim=0).double(), (predicted + labels).sum(dim=0).double()
        if metric == F1_MICRO:
            hits, all_there = hits.sum()[None], all_there.sum()[None]
        return (2 * hits / all_there.clamp(min=1)).mean().item()

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """Always the same classes, those whose F1 is best in training; for the loss, and ranked, the classes' rates."""
        rates = train.mean(dim=0)
        if metric in (LOSS, AVERAGE_PRECISION):
            logits = torch.logit(rates.clamp(1e-3, 1 - 1e-3)).expand(len(labels), -1)
            return self.scored_by(metric).score(metric, logits, labels)
        guess = torch.ones_like(rates) if metric == F1_MACRO else _commonest(rates)
        return self.measure(metric, guess.expand_as(labels), labels)


def best_thresholds(probabilities: Tensor, labels: Tensor) -> tuple[float, ...]:
    """For each class the probability from which on F1 is best, midway to the next example's; one half where the class is nowhere."""
    found = []
    for shares, there in zip(probabilities.T.double(), labels.T, strict=True):
        order = shares.argsort(descending=True)
        ranked, hits = shares[order], there[order].double().cumsum(0)
        if hits[-1] == 0:
            found.append(0.5)
            continue
        scores = 2 * hits / (torch.arange(1, len(hits) + 1) + hits[-1])
        following = torch.cat((ranked[1:], ranked.new_zeros(1)))
        scores = scores.where(following < ranked, -1.0)  # equal probabilities are on one side
        best = int(scores.argmax())
        found.append(((ranked[best] + following[best]) / 2).item())
    return tuple(found)


def _commonest(rates: Tensor) -> Tensor:
    """The k commonest classes, for the k with the best F1 over all decisions: 2 sum_k p / (k + sum p)."""
    ranked, order = rates.sort(descending=True)
    scores = 2 * ranked.cumsum(0) / (torch.arange(1, len(rates) + 1) + rates.sum())
    guess = torch.zeros_like(rates)
    guess[order[: int(scores.argmax()) + 1]] = 1.0
    return guess


def _average_precision(predicted: Tensor, labels: Tensor) -> float:
    try:
        from sklearn.metrics import average_precision_score
    except ImportError:
        raise InputError(f"metric '{AVERAGE_PRECISION}' needs scikit-learn: pip install 'd90[metrics]'") from None
    return (
        float(average_precision_score(labels.numpy(), predicted.numpy(), average="micro"))
        if bool(labels.any())
        else 0.0
    )


def _list_column(table: Table, columns: Columns) -> str | None:
    """The column of lists: the one that was named, or the first usual one."""
    names = (columns.given_label,) if columns.given_label else LISTS
    return next((name for name in names if name is not None and isinstance(table.rows[0].get(name), list)), None)


def _flags(table: Table, columns: Columns) -> list[str]:
    """The columns of 0 and 1: those that were named, joined by commas, or all that hold nothing else; none where there is a label."""
    if columns.given_label:
        named = [name.strip() for name in columns.given_label.split(",")]
        return named if len(named) > 1 and all(name in table.rows[0] for name in named) else []
    if columns.label in table.rows[0]:
        return []
    texts = columns.find(table.rows[0]) or ()
    others = [name for name in table.rows[0] if name not in texts]
    return [name for name in others if all(row.get(name) in ZERO_ONE for row in table.rows)]


def _lists(table: Table, column: str) -> list[list[str]]:
    found: list[list[Any]] = []
    for i, row in enumerate(table.rows):
        value = row.get(column)
        if not isinstance(value, list):
            raise InputError(
                f"{table.spot(i)}: column {quoted(column)} holds no list, expected the example's classes as a list"
            )
        wrong = [one for one in value if not isinstance(one, str | int | float) or one == ""]
        if wrong:
            raise InputError(f"{table.spot(i)}: {quoted(wrong[0])} among the classes, expected names or numbers")
        found.append(value)
    if _one_hot(found):
        return [[str(k) for k, one in enumerate(row) if one] for row in found]
    return [[_written(one) for one in row] for row in found]


def _written(one: Any) -> str:
    """1.0 and 1 are one class."""
    whole = isinstance(one, bool | float) and float(one).is_integer()
    return str(int(one)) if whole else str(one).strip()


def _one_hot(rows: Sequence[Sequence[Any]]) -> bool:
    """Whether lists of one length hold a 0 or 1 for each class: numbers of classes would not stand twice in a list."""
    widths = {len(row) for row in rows}
    numbers = all(isinstance(one, int | float) and one in (0, 1) for row in rows for one in row)
    return len(widths) == 1 and max(widths) > 1 and numbers and any(len(set(row)) < len(row) for row in rows)


def _from_flags(table: Table, flags: Sequence[str]) -> list[list[str]]:
    found = []
    for i, row in enumerate(table.rows):
        for name in flags:
            if row.get(name) not in ZERO_ONE:
                raise InputError(
                    f"{table.spot(i)}: column {quoted(name)} holds {quoted(str(row.get(name)))}, expected 0 or 1"
                )
        found.append([name for name in flags if str(row[name]) not in ("0", "False", "0.0")])
    return found
