"""A study on a real Ray cluster of two nodes on this machine, one of which is killed in the middle."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from d90.errors import InputError
from d90.studies.compare import compare
from d90.training.progress import Progress
from d90.trials import ray as ours
from tests.reference.trials import MODEL, QUICK, idx_folder, rows

# Ray's own: unclosed sockets and files of its processes, and what it deprecates of itself
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # a busy machine
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    def one() -> dict[str, int]:
        return {"num_cpus": 1, "object_store_memory": 80 << 20, **_ports()}

    nodes = Cluster()
    try:
        nodes.add_node(**one(), include_dashboard=False)
        nodes.second = nodes.add_node(**one())
        yield nodes
    finally:
        nodes.shutdown()


def _ports() -> dict[str, int]:
    """Free ports for a node's agents, which it would otherwise wait for 15 seconds at most: too few on a busy machine."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: int(one.getsockname()[1]) for name, one in zip(names, sockets, strict=True)}


class NodeKiller(Progress):
    """Kills the second node once a third trial is under way: both nodes are then at work."""

    def __init__(self, nodes: Any) -> None:
        self.nodes, self.killed = nodes, False
        self.started, self.ended, self.notes = list[str](), list[str](), list[str]()

    def trial_started(self, label: str, steps: int) -> None:
        self.started.append(label)
        if len(self.started) == 3:
            time.sleep(0.5)
            self.killed = True
            self.nodes.remove_node(self.nodes.second, allow_graceful=False)

    def trial_ended(self, label: str, message: str) -> None:
        self.ended.append(label)

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_killed_node_costs_a_retry_and_nothing_else(tmp_path: Path, cluster: Any) -> None:
    task, seen = idx_folder(tmp_path / "data"), NodeKiller(cluster)
    options = {**QUICK, "lr": None, "epochs": 100, "rates": (0.3, 0.6, 1, 2), "costs": False}
    executor = ours.Cluster(address=cluster.address)
    try:
        assert executor.slots == 2
        there = compare(
            MODEL, task, ["full@d=40"], store=tmp_path / "there.sqlite", progress=seen, executor=executor, **options
        )
    finally:
        executor.close()
    print("notes:", seen.notes, len(seen.started), "started", len(seen.ended), "ended")
    here = compare(MODEL, task, ["full@d=40"], store=tmp_path / "here.sqlite", **options)
    assert seen.killed
    assert rows(tmp_path / "there.sqlite") == rows(tmp_path / "here.sqlite")
    assert [entry.scores for entry in there.entries] == [entry.scores for entry in here.entries]
    again = [note for note in seen.notes if "it runs again" in note]
    assert again, "the killed node ran a trial, which was run again"
    assert len(seen.started) == len(seen.ended) + len(again)


def test_a_cluster_without_room_or_at_no_address_is_refused(cluster: Any) -> None:
    with pytest.raises(InputError, match="got 1 GPUs for each trial, and the cluster has no such room"):
        ours.Cluster(num_gpus=1, address=cluster.address)
