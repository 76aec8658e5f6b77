"""The base of a tune: what its record says of it, and the model opened again as the tune was trained on it."""

from __future__ import annotations

from typing import Any

from d90.models.loading import load
from d90.models.model import Model
from d90.subspace import file as tune_file
from d90.subspace import layout
from d90.subspace.fingerprint import Base
from d90.tasks.kinds import TaskKind, stored_kind

__all__ = ["describe_base", "kind_of", "open_base"]


def kind_of(record: dict[str, Any]) -> TaskKind:
    """The kind of task that a tune's record tells of."""
    about = record["task"]
    return stored_kind(about["kind"], not about["texts"], tuple(about["labels"])).restored(about)


def describe_base(model: Model) -> dict[str, Any]:
    """What a tune's record holds of its base beside the recipe: its fresh layers, and how texts are encoded."""
    tokenizer = model.tokenizer
    separator = (
        None if model.separator is None or tokenizer is None else tokenizer.convert_ids_to_tokens(model.separator)
    )
    return {
        "fresh": list(model.fresh),
        "encoding": {"separator": model.separator, "separator_token": separator, "split_special": model.split_special},
    }


def open_base(record: dict[str, Any]) -> Model:
    """The base of a tune with this record, as it was trained on: a record without `fresh` or `encoding` is of the first tunes, whose
    head was what is called like one, whose pairs were not separated, and whose texts could name special tokens.

    Raises:
        InputError: as `d90.models.loading.load`; another base than the tune's: which of its parts differ.
    """
    recipe, kind = record["recipe"], kind_of(record)
    weights = recipe.get("weights", "fp32")
    model = load(recipe["model"], kind.outputs, kind, recipe["seed"], recipe["max_length"], weights)
    check_same_base(record, model)
    if "fresh" not in record:
        layout.mark_called_head(model.module)
    encoding = record.get("encoding") or {}
    model.separator, model.split_special = encoding.get("separator"), bool(encoding.get("split_special", False))
    return model


def check_same_base(record: dict[str, Any], model: Model) -> None:
    """Refuse a model that is not the base of the tune with this record.

    Raises:
        InputError: another base: which of its parts differ.
    """
    if isinstance(record["base"], dict):
        base = Base.from_dict(record["base"])
        parts, wanted, found = base.differs(model.base), base.digest, model.fingerprint
    else:
        same = record["base"] in (model.earlier, model.fingerprint)
        parts, wanted, found = [] if same else ["weights"], record["base"], model.earlier
    if parts:
        raise tune_file.other_base(record["recipe"]["model"], parts, wanted, found)
