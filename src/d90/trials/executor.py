"""Where trials run when it is not in the driver: sent as plain data, several at once; their events and results are passed on as they come.

    run        sends jobs, returns when all have ended
    together   makes calls side by side: each gives its turn away while it waits for its jobs, and only then

So a study is written as if it ran alone: store, models and progress are used by one thread at a time, the one whose turn it is.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from d90.errors import InputError, RunFailed
from d90.files import Json

__all__ = ["Died", "Executor", "Job", "Stopped", "together"]

Tell = Callable[[str, Any], None]
_One = TypeVar("_One")


@dataclass(frozen=True)
class Job:
    """What is sent: `work`, a function as "module:name", is called with `body` (JSON) and a Progress, and returns JSON."""

    work: str
    body: Json
    label: str
    steps: int


class Died(Exception):
    """A worker ended without a word: killed, or its machine gone. The job is tried again."""


class Stopped(RunFailed):
    """The job was not run, or was ended, because everything ends."""


class Executor:
    """The base: a kind of worker starts a job in `_attempt`, and ends it in `_end`.

    Args:
        slots: how many jobs run at once.
    """

    retries = 1

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise InputError(f"got {slots} trials at once, expected at least 1; say how many with --jobs")
        self.slots = slots
        self._pool = ThreadPoolExecutor(slots)
        self._turn = threading.Lock()
        self._turn.acquire()  # it is the maker's turn
        self._lock = threading.Lock()  # of what follows
        self.live: set[Any] = set()
        self._stopping = False
        self._depth = 0
        self._numbers = itertools.count(1)

    def run(
        self,
        jobs: Sequence[Job],
        event: Callable[[int, int, str, list[Any]], None],
        ended: Callable[[int, int, Json], None],
    ) -> None:
        """Run jobs; both functions are called by this thread, with a job's place in `jobs` and its number among all.

        Args:
            jobs: in the order they are to start.
            event: receives a worker's event: the name of a method of `Progress`, and its arguments.
            ended: receives a result.

        Raises:
            RunFailed, D90Error: the first error of a job; those that ran beside it have ended, those behind it were not begun.
        """
        events: SimpleQueue[tuple[int, str, Any]] = SimpleQueue()
        numbers = [next(self._numbers) for _ in jobs]
        first: BaseException | None = None
        with self._inside():
            futures = [
                self._pool.submit(self._try, job, partial(_put, events, index)) for index, job in enumerate(jobs)
            ]
            left = len(jobs)
            try:
                while left:
                    with self._waiting():
                        index, name, body = events.get()
                    if name == "ended":
                        left -= 1
                        ended(index, numbers[index], body)
                    elif name == "failed":
                        left -= 1 + sum(future.cancel() for future in futures)
                        first = first or body
                    else:
                        event(index, numbers[index], name, body)
            except BaseException:
                self._stop(kill=True)
                raise
            finally:
                with self._waiting():
                    for future in futures:
                        future.cancel()
                    wait(futures)
        if first is not None:
            raise first

    def together(self, calls: Sequence[Callable[[], _One]]) -> list[_One]:
        """What the calls return; at most `slots` are under way. An error ends them all once running trials have ended."""
        if len(calls) < 2:
            return [call() for call in calls]
        with self._inside(), self._waiting(), ThreadPoolExecutor(min(len(calls), self.slots)) as pool:
            futures = [pool.submit(self._in_turn, call) for call in calls]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException as error:
                self._stop(kill=not isinstance(error, Exception))
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def close(self) -> None:
        """End what runs, and all threads."""
        self._stop(kill=True)
        self._pool.shutdown()

    def _attempt(self, job: Job, tell: Tell) -> Json:
        """Run one job once.

        Raises:
            Died: its worker did.
        """
        raise NotImplementedError

    def _end(self, live: Any) -> None:
        """End what `_running` started."""
        raise NotImplementedError

    @contextmanager
    def _running(self, start: Callable[[], _One]) -> Iterator[_One]:
        """What `start` started, ended by `_stop`."""
        with self._lock:
            if self._stopping:
                raise Stopped("not run: another trial failed, or all were interrupted")
            live = start()
            self.live.add(live)
        try:
            yield live
        finally:
            with self._lock:
                self.live.discard(live)

    def _try(self, job: Job, tell: Tell) -> None:
        try:
            for left in range(self.retries, -1, -1):
                try:
                    tell("ended", self._attempt(job, tell))
                    return
                except Died as died:
                    if self._stopping:
                        raise Stopped(f"{job.label}: interrupted") from None
                    if not left:
                        raise RunFailed(
                            f"{job.label}: its worker died {self.retries + 1} times ({died}). Likely cause: too little "
                            "memory for so many trials at once; run fewer. Finished trials are stored"
                        ) from None
                    tell("note", [f"{job.label}: its worker died ({died}); it runs again"])
        except BaseException as error:
            tell("failed", error)

    def _stop(self, kill: bool) -> None:
        """Start no job until everything has ended; `kill` ends those that run."""
        with self._lock:
            self._stopping = True
            for live in self.live if kill else ():
                self._end(live)

    def _in_turn(self, call: Callable[[], _One]) -> _One:
        with self._turn:
            return call()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Whoever leaves last finds everything ended: after an error the executor can be used again."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._stopping = False


def together(executor: Executor | None, calls: Sequence[Callable[[], _One]]) -> list[_One]:
    """What the calls return: side by side where there is an executor, one after another without."""
    return executor.together(calls) if executor is not None else [call() for call in calls]


def _put(events: SimpleQueue[tuple[int, str, Any]], index: int, name: str, body: Any) -> None:
    events.put((index, name, body))
