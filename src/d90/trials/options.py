"""Where trials are kept, where they run, and who receives the events."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from d90.errors import InputError
from d90.options.base import Limit, Options, at_least, option
from d90.training.progress import Progress
from d90.training.showing import ProgressOption, listener
from d90.trials.executor import Executor
from d90.trials.store import CHECKPOINT_MINUTES, Store

__all__ = ["CommandRunOptions", "ExecutorOptions", "Place", "RunFields", "RunOptions", "open_executor"]

Place = Literal["here", "ray"]


@dataclass(frozen=True, kw_only=True, repr=False)
class RunOptions(Options):
    """Where trials are kept, where they run, and who receives the events; none of it decides a result.

    Example:
        >>> d90.RunOptions(store="mine.sqlite", checkpoint_minutes=2)
        RunOptions(store='mine.sqlite', checkpoint_minutes=2)

    Attributes:
        store: path of the SQLite store, or an open one; a stored trial is not repeated.
        checkpoint_minutes: how often a running trial's state is kept beside the store.
        log: a file that gets one JSON line for each trial trained, as it ends.
        progress: receives the events; by default bars in a terminal and lines in a notebook, which False silences.
        executor: where trials run, if not here: `d90.trials.local.Local`, `d90.trials.ray.Cluster`.
        command: the command line that asked, kept with the result.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    store: str | os.PathLike[str] | Store = option(Path("runs/d90.sqlite"), "The SQLite file trials are kept in.")
    checkpoint_minutes: float = option(
        CHECKPOINT_MINUTES,
        "How often a running trial's state is kept, to go on from after a kill.",
        limit=Limit("0 or more", 0),
    )
    log: str | os.PathLike[str] | None = option(None, "Append one JSON line for each trial as it ends.")
    progress: ProgressOption = option(None, "Receives the events; False for silence.", shown=False)
    executor: Executor | None = option(None, "Where trials run, if not here.", shown=False)
    command: str = option("", "The command line that asked.", shown=False)

    def open_store(self) -> Store:
        """The store, opened if it is not.

        Raises:
            StoreError, RunFailed: it cannot be used.
        """
        if isinstance(self.store, Store):
            return self.store
        return Store(self.store, checkpoint_minutes=self.checkpoint_minutes)

    @property
    def listener(self) -> Progress:
        """Who receives the events."""
        return listener(self.progress)


class RunFields(TypedDict, total=False):
    """The fields of `RunOptions`, as keywords of a function."""

    store: str | os.PathLike[str] | Store
    checkpoint_minutes: float
    log: str | os.PathLike[str] | None
    progress: ProgressOption
    executor: Executor | None
    command: str


@dataclass(frozen=True, kw_only=True, repr=False)
class ExecutorOptions(Options):
    """Where a command's trials run.

    Attributes:
        jobs: trials at once, a process each; on a cluster as many as it has room for, if not given.
        on: "here", or "ray" for a Ray cluster.
        num_gpus: on a cluster, GPUs for each trial, or a share of one.
        address: the cluster's.

    Raises:
        InputError: options of Ray's without it.
    """

    jobs: int | None = option(
        None,
        "Trials at once, a process each; on a cluster as many as it has room for, if not given.",
        limit=at_least(1),
    )
    on: Place = option("here", "Where trials run: here, or ray for a Ray cluster (d90[ray]).")
    num_gpus: float = option(0.0, "With --on ray: GPUs, or a share of one, for each trial.", limit=at_least(0))
    address: str | None = option(None, "With --on ray: the cluster's, as auto or HOST:6379.")

    def check(self) -> None:
        """Refuse what cannot be."""
        super().check()
        if self.on == "here" and (self.num_gpus or self.address):
            raise InputError("got --num-gpus or --address without --on ray, expected them with it")


@contextmanager
def open_executor(where: ExecutorOptions) -> Iterator[Executor | None]:
    """The executor that was asked for; None: trials run in this process."""
    executor: Any = None
    if where.on == "ray":
        from d90.trials.ray import Cluster

        executor = Cluster(where.jobs, where.num_gpus, address=where.address)
    elif where.jobs is not None:
        from d90.trials.local import Local

        executor = Local(where.jobs)
    try:
        yield executor
    finally:
        if executor is not None:
            executor.close()


@dataclass(frozen=True, kw_only=True, repr=False)
class CommandRunOptions(RunOptions, ExecutorOptions):
    """How a command or a recipe runs a study: `RunOptions`, where its trials run, and the page it leaves.

    Attributes:
        page: the HTML page; beside the store by default.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    page: Path | None = option(None, "The HTML page; beside the store by default.")

    @contextmanager
    def opened(self, progress: Progress, command: str) -> Iterator[RunOptions]:
        """What the study is called with: its store open, its executor there until the end.

        Args:
            progress: receives the events.
            command: the command line that does the same, kept with the result.

        Raises:
            StoreError, RunFailed: the store cannot be used.
        """
        store = self.open_store()
        with open_executor(self) as executor:
            yield RunOptions(
                store=store,
                checkpoint_minutes=self.checkpoint_minutes,
                log=self.log,
                progress=progress,
                executor=executor,
                command=command,
            )

    def page_path(self, ending: str) -> Path:
        """Where the page goes: beside the store, with this ending, where none was named."""
        store = self.store.path if isinstance(self.store, Store) else Path(self.store)
        return self.page or store.with_suffix(ending)
