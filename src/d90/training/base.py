"""The base of a tune: what its record says of it, and the model opened again as the tune was trained on it."""

from __future__ import annotations

from d90.models.loading import load
from d90.models.model import Model
from d90.subspace import file as tune_file
from d90.subspace import layout
from d90.subspace.fingerprint import Base
from d90.training.record import Encoding, TuneRecord

__all__ = ["check_same_base", "encoding_of", "open_base"]


def encoding_of(model: Model) -> Encoding:
    """How a model's texts are encoded."""
    tokenizer = model.tokenizer
    none = model.separator is None or tokenizer is None
    token = None if none else tokenizer.convert_ids_to_tokens(model.separator)  # type: ignore[union-attr]
    return Encoding(model.separator, token, model.split_special)


def open_base(record: TuneRecord) -> Model:
    """The base of a tune with this record, as it was trained on: a record without `fresh` or `encoding` is of the first tunes, whose
    head was what is called like one, whose pairs were not separated, and whose texts could name special tokens.

    Raises:
        InputError: as `d90.models.loading.load`; another base than the tune's: which of its parts differ.
    """
    recipe, kind = record.recipe, record.kind
    model = load(recipe.model, kind.outputs, kind, recipe.seed, recipe.max_length, recipe.weights)
    check_same_base(record, model)
    if record.fresh is None:
        layout.mark_called_head(model.module)
    model.separator, model.split_special = record.encoding.separator, record.encoding.split_special
    return model


def check_same_base(record: TuneRecord, model: Model) -> None:
    """Refuse a model that is not the base of the tune with this record.

    Raises:
        InputError: another base: which of its parts differ.
    """
    base = record.base
    if isinstance(base, Base):
        parts, wanted, found = base.differs(model.base), base.digest, model.fingerprint
    else:
        parts = [] if base in (model.earlier, model.fingerprint) else ["weights"]
        wanted, found = base, model.earlier
    if parts:
        raise tune_file.other_base(record.recipe.model, parts, wanted, found)
