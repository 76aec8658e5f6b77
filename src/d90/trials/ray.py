"""Trials on a Ray cluster: a core task each. What a killed node ran is run again on another; only the driver writes the store."""

from __future__ import annotations

import os
from typing import Any

from d90.errors import InputError, RunFailed
from d90.files import Json
from d90.training.progress import Progress
from d90.trials.executor import Died, Executor, Job, Tell
from d90.trials.worker import outcome_of, result_of

__all__ = ["Cluster"]


class Cluster(Executor):
    """Ray's: the machine alone where no address is given and no cluster runs on it.

    Args:
        slots: how many trials at once; by default as many as the cluster has room for.
        num_gpus, num_cpus: of each trial; with a share of a GPU it trains there. A trial has as many threads as CPUs.
        address: of the cluster, as `ray.init` takes it: "auto", "10.0.0.1:6379".

    Raises:
        InputError: Ray is not installed, there is no cluster at the address, or it has no GPU.
    """

    retries = 3  # nodes come and go

    def __init__(
        self, slots: int | None = None, num_gpus: float = 0, num_cpus: int = 1, address: str | None = None
    ) -> None:
        if not (num_gpus >= 0 and num_cpus >= 1):
            raise InputError(f"got num_gpus={num_gpus}, num_cpus={num_cpus} for a trial, expected >= 0 and >= 1")
        self._ray = ray = _ray()
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError) as error:
                said = str(error).strip().partition("\n")[0]
                raise InputError(
                    f"no Ray cluster at '{address or 'this machine'}': {said}. Start one: ray start --head"
                ) from None
        there = ray.cluster_resources()
        room = there.get("GPU", 0) / num_gpus if num_gpus else there.get("CPU", 0) / num_cpus
        if room < 1:
            self._leave()
            what = f"{num_gpus:g} GPUs" if num_gpus else f"{num_cpus} CPUs"
            raise InputError(f"got {what} for each trial, and the cluster has no such room: {there}; ask for less")
        super().__init__(slots or int(room))
        self._gpu = num_gpus > 0
        # tried again by us, who tell it; by Ray itself only what never began
        self._task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)(_work)

    def _attempt(self, job: Job, tell: Tell) -> Json:
        ray = self._ray
        body = {**job.body, "device": "cuda" if self._gpu else "cpu"}
        with self._running(lambda: self._task.remote(job.work, body)) as task:
            tell("trial_started", [job.label, job.steps])
            try:
                return result_of(ray.get(task))
            except ray.exceptions.RayTaskError as error:
                said = str(error).strip().rpartition("\n")[2]
                raise RunFailed(
                    f"{job.label}: Ray could not run it: {said}. The nodes need the same d90 as the driver"
                ) from None
            except ray.exceptions.RayError as error:
                raise Died(f"{type(error).__name__}") from None

    def _end(self, live: Any) -> None:
        self._ray.cancel(live, force=True)

    def close(self) -> None:
        """End what runs, and leave the cluster."""
        super().close()
        self._leave()

    def _leave(self) -> None:
        if self._ours:
            self._ray.shutdown()


def _work(work: str, body: Json) -> list[Any]:
    return outcome_of(work, body, Progress())


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise InputError("--on ray needs the package 'ray', which is not installed: pip install 'd90[ray]'") from None
    return ray
