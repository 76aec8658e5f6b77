"""The tunes of a folder over one base model: switched one at a time, or each row of a batch its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from d90.errors import InputError, did_you_mean
from d90.methods import Spec, parse
from d90.serving.batch import Batches, check_rows_first
from d90.serving.cache import Cache
from d90.serving.changes import Changes
from d90.serving.frame import Frame
from d90.serving.index import Entry, scan
from d90.serving.plan import Plan, make_plan
from d90.serving.switching import Switch, check_no_space
from d90.subspace import file as tune_file
from d90.training.record import beside, read_record

__all__ = ["Bank"]

MEMORY_LIMIT = 1 << 28  # bytes of the tunes that are ready for a batch
MAX_FRAMES = 32


class Bank:
    """The tunes of a folder (`NAME.d90`), over one base model.

        with bank.batch(["anna", "ben", None]):     # one name a row, None for the base
            outputs = model(three_texts)

    `use` takes tunes of a subspace over the model's own weights (`full@d`, `top@d`, ...): it writes the weights once and leaves a plain
    model, with no hooks. `batch` takes LoRA (`lora:r`, `lora:r@d`, of any ranks and targets), biases (`bitfit`, `hiwi:on=bias`) and their
    heads: the base's products are made once for all rows, and each row's own small products are added.

    The folder is read when the bank is made and by `refresh()`. A tune's id is the hash of its bytes. Threads may share a bank: each has
    batches of its own; `use` and `release` change the model for all, and are refused while a batch is open.

    Example:
        >>> space = d90.Subspace(network, d=20)
        >>> space.save("tunes/french.d90")
        >>> network = space.release()
        >>> bank = d90.Bank(network, "tunes")
        >>> bank.names()
        ['french']
        >>> bank.use("french") is network
        True
        >>> network = bank.release()  # theta_0 again, bit for bit

    Args:
        model: the base model, its `requires_grad` as in training.
        folder: where the tunes lie, each with its record (NAME.json) beside it.
        method, seed: of tunes that have no record beside them, as in training; `batch` needs them.
        memory_limit: bytes of tunes that are kept ready for `batch`; the least recently used go first. A batch holds its own tunes
            besides, as long as it is open.

    Raises:
        InputError: no such folder, an unknown method, or a memory limit below 1.
        UnsupportedModelError: sharded, quantised, wrapped or meta-device models.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | os.PathLike[str],
        *,
        method: str | None = None,
        seed: int = 0,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        self.model, self.folder = model, Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"'{self.folder}' is not a folder; expected one that holds NAME.d90 files")
        if memory_limit < 1:
            raise InputError(f"got memory_limit={memory_limit}, expected bytes, at least those of one tune")
        self._switch = Switch(model)
        self._spec, self._seed = None if method is None else parse(method), seed
        self.active: str | None = None
        self._ready: Cache[Changes] = Cache(memory_limit)
        self._frames: Cache[Frame] = Cache(MAX_FRAMES)
        self._batches = Batches(model)
        self._lock = threading.RLock()
        self._index = scan(self.folder)

    # --- what is there ---------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The tunes in the folder, sorted, as of the last look at it."""
        return list(self._index)

    @property
    def ready_bytes(self) -> int:
        """Bytes of the tunes that are kept ready for `batch`, at most `memory_limit`."""
        return self._ready.size

    def ids(self) -> dict[str, str]:
        """Each tune's id: 16 hex digits of the SHA-256 of its file."""
        return {name: entry.id for name, entry in self._index.items()}

    def tunes(self) -> dict[str, tune_file.About | InputError]:
        """What each tune is, read from its header alone; for an unsound file, the error that says why."""
        found: dict[str, tune_file.About | InputError] = {}
        for name, entry in self._index.items():
            try:
                found[name] = tune_file.about(entry.path, entry.held)
            except InputError as error:
                found[name] = error
        return found

    def refresh(self) -> list[str]:
        """Look at the folder again, all at once: the names that are new, gone, or have a new id.

        Batches that are open keep their tunes; what the weights hold after `use` stays.
        """
        with self._lock:
            before, self._index = self._index, scan(self.folder, self._index)
            now = self._index
            return sorted(n for n in before.keys() | now.keys() if _id(before.get(n)) != _id(now.get(n)))

    # --- one tune at a time ----------------------------------------------------------------------------------------

    def use(self, name: str) -> nn.Module:
        """Switch the model to the tune `name`, and return it.

        Raises:
            InputError: an unknown name, an unsound file, a tune of another base or over other weights, an open batch, or a model that
                has an enabled Subspace of its own. The model is then as it was, its weights and gradients too.
            UnsupportedModelError: the model was cast since the first `use`.
        """
        with self._lock:
            self._check_no_batch("use()")
            entry = self._entry(name)
            self._switch.write(*tune_file.read(entry.path, entry.data()), entry.path)
            self.active = name
            return self.model

    def release(self) -> nn.Module:
        """Put theta_0 back, bit for bit, and drop the copy of it; the next `use` starts afresh.

        Raises:
            InputError: a batch is open.
        """
        with self._lock:
            self._check_no_batch("release()")
            self._switch.release(self.active is not None)
            self.active = None
            return self.model

    # --- many tunes at once ----------------------------------------------------------------------------------------

    @contextmanager
    def batch(self, names: Sequence[str | None]) -> Iterator[nn.Module]:
        """While open, row i of every forward pass of this thread is under the tune `names[i]`, or under the base for None.

            with bank.batch(["anna", None]) as model:
                logits = model(two_texts).logits
                written = model.generate(two_prompts, do_sample=False)

        Outputs are those of each tune alone, within rounding. Beams and several sequences for a prompt are rows: repeat the prompt's name.

        Raises:
            InputError: an unknown name; a tune of another base, P or head size, or of a method that cannot be batched (`use` it); no
                record beside it; a tune larger than the memory limit; another number of rows than names. The bank is as it was.
            UnsupportedModelError: a compiled model, or one whose layers do not see the batch's rows first.
        """
        if isinstance(names, str) or not names:
            raise InputError(f"got names={names!r}, expected a list with one name a row, None for the base")
        with self._lock:
            if self.active is not None:
                raise InputError(
                    f"the model holds the tune '{self.active}', expected the base. Call release() before a batch"
                )
            plan = self._plan(names)
            running = self._batches.running(plan)
            running.__enter__()
        try:
            yield self.model
        finally:
            running.__exit__(None, None, None)

    def _plan(self, names: Sequence[str | None]) -> Plan:
        check_rows_first(self.model)
        check_no_space(self.model)
        entries = {name: self._entry(name) for name in names if name is not None}
        with torch.inference_mode(False):  # what is made here is kept, also for passes outside inference mode
            made = {entry.id: self._changes(entry) for entry in entries.values()}
            return make_plan(self.model, [None if name is None else entries[name].id for name in names], made)

    def _changes(self, entry: Entry) -> Changes:
        """What a tune changes: from the cache, or made from its numbers."""
        place = next(self.model.parameters())
        found = self._ready.get((entry.id, place.device, place.dtype))
        if found is None:
            found = self._make(entry, (place.device, place.dtype))
            size = sum(change.bytes for change in found.values())
            if size > self._ready.limit:
                raise InputError(
                    f"'{entry.path}' takes {size:,} bytes when it is ready, above memory_limit={self._ready.limit:,}; expected a limit of "
                    "at least one tune. Raise memory_limit"
                )
            self._ready.put((entry.id, place.device, place.dtype), found, size)
        return found

    def _make(self, entry: Entry, place: tuple[torch.device, torch.dtype]) -> Changes:
        header, tensors = tune_file.read(entry.path, entry.data())
        spec, seed, called_head = self._method(entry, header)
        d = tensors["theta"].shape if header.structure != "direct" and "theta" in tensors else None
        options = None if header.structure == "direct" else header.options
        key = (str(spec.method), seed, called_head, options, d, header.format < 3, frozenset(tensors), place)
        frame = self._frames.get(key)
        if frame is None:
            frame = Frame(self.model, spec, seed, header, tensors, entry.path, called_head)
            self._frames.put(key, frame, 1)
        return frame.changes(header, tensors, entry.path)

    def _method(self, entry: Entry, header: tune_file.Header) -> tuple[Spec, int, bool]:
        """(method, seed, whether a head is what is called like one) of a tune, from its record or as given to the bank."""
        if not beside(entry.path).exists():
            if self._spec is None:
                raise InputError(
                    f"'{entry.path}': no record '{beside(entry.path).name}' lies beside it, so its method is unknown; expected one. Copy "
                    'both files, or give the bank the method, as Bank(..., method="lora:r=8", seed=0)'
                )
            return self._spec, self._seed, False
        try:
            record = read_record(entry.path, header)
        except InputError:
            if not entry.is_current():
                raise entry.replaced() from None
            raise
        return record.spec, record.recipe.seed, record.fresh is None

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _entry(self, name: str) -> Entry:
        entry = self._index.get(name)
        if entry is None:
            known = list(self._index)
            more = f" and {len(known) - 20} more" if len(known) > 20 else ""
            raise InputError(
                f"unknown tune '{name}': expected one of {', '.join(known[:20])}{more}.{did_you_mean(name, known)} They are the files "
                f"NAME.d90 in '{self.folder}'; call refresh() where one was added."
            )
        return entry

    def _check_no_batch(self, what: str) -> None:
        if self._batches.any_open:
            raise InputError(
                f"{what} while a batch is open would change its rows; expected none. Call it after the batch"
            )

    def __repr__(self) -> str:
        return f"Bank('{self.folder}', {len(self._index)} tunes, active={self.active!r})"


def _id(entry: Entry | None) -> str | None:
    return None if entry is None else entry.id
