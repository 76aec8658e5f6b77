"""Data parallel on two real processes: the same result as one, d numbers an optimizer step, and clear refusals."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from d90.subspace.distributed import digest, processes

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")

SECONDS = 900

START = """
import os, sys, torch
import torch.distributed as dist
from torch import nn
import d90

torch.set_num_threads(1)
D = 12
sent = []  # (collective, bytes)

def counted(name):
    plain = getattr(dist, name)
    def call(*args, **kwargs):
        tensor = args[-1] if name == "all_gather" else args[0]
        sent.append((name, tensor.numel() * tensor.element_size()))
        return plain(*args, **kwargs)
    setattr(dist, name, call)

for name in ("all_reduce", "all_gather", "broadcast"):
    counted(name)

def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))

generator = torch.Generator().manual_seed(1)
x, y = torch.randn(14, 6, generator=generator), torch.arange(14) % 3

def alone(parts, structure, steps):
    # one process, the whole batch at once
    model = network()
    space = d90.Subspace(model, D, structure=structure, layer="module")
    optimizer = torch.optim.Adam(space.parameters(), lr=0.05)
    for _ in range(steps):
        for part in parts:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return space.theta.detach()
"""

SAME = """
dist.init_process_group("gloo")
rank = dist.get_rank()
for structure in ("did", "said"):
    model = network()
    space = d90.Subspace(model, D, structure=structure, layer="module")
    optimizer = space.attach(torch.optim.Adam(space.parameters(), lr=0.05))
    sent.clear()
    for _ in range(5):
        # two micro-batches of a process, one exchange
        optimizer.zero_grad()
        for part in torch.arange(4 * rank, 4 * rank + 4).chunk(2):
            (nn.functional.cross_entropy(model(x[part]), y[part]) / 2).backward()
        optimizer.step()
        # the last batch: 4 examples on one process, 2 on the other, each loss scaled by its share
        part = torch.arange(8, 12) if rank == 0 else torch.arange(12, 14)
        optimizer.zero_grad()
        share = len(part) * dist.get_world_size() / 6
        (share * nn.functional.cross_entropy(model(x[part]), y[part])).backward()
        optimizer.step()
    assert sent == [("all_gather", 8)] + [("all_reduce", 4 * D)] * 10, sent
    expected = alone([torch.arange(8), torch.arange(8, 14)], structure, 5)
    torch.testing.assert_close(space.theta.detach(), expected, rtol=1e-5, atol=1e-6)
    theirs = [torch.empty(D) for _ in range(2)]
    dist.all_gather(theirs, space.theta.detach())
    assert torch.equal(*theirs), "bit for bit on both"
    assert space.theta.detach().norm() > 0.1

# a process without a batch counts as zero
model = network()
space = d90.Subspace(model, D)
optimizer = space.attach(torch.optim.SGD(space.parameters(), lr=1.0))
if rank == 0:
    nn.functional.cross_entropy(model(x), y).backward()
mine = None if space.theta.grad is None else space.theta.grad.clone()
optimizer.step()
if rank == 0:
    torch.testing.assert_close(space.theta.detach(), -mine / 2)
assert space.theta.detach().norm() > 0
print(f"payload {4 * D} bytes a step")  # in one piece: two processes write to one pipe
dist.destroy_process_group()
"""

REFUSED = """
from d90.errors import D90Error
dist.init_process_group("gloo")
rank = dist.get_rank()

def refused(words, act):
    try:
        act()
    except D90Error as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")

# wrapped before the Subspace
refused("wrapped in DistributedDataParallel", lambda: d90.Subspace(nn.parallel.DistributedDataParallel(network()), D))
# wrapped after it
model = network()
space = d90.Subspace(model, D)
wrapped = nn.parallel.DistributedDataParallel(model)
refused("wrapped in DistributedDataParallel", lambda: wrapped(x))
space.release()
# sharded after it, by both kinds
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
for names in (True, False):
    model = network()
    space = d90.Subspace(model, D)
    try:
        whole = FullyShardedDataParallel(model, use_orig_params=names, device_id=torch.device("cpu"))
    except (RuntimeError, ValueError) as error:
        print("FSDP itself refuses:", error)
        continue
    refused("wrapped in FullyShardedDataParallel", lambda: whole(x))
    refused("wrapped in FullyShardedDataParallel", lambda: space.attach(torch.optim.SGD(space.parameters(), lr=1.0)))
model = network()
space = d90.Subspace(model, D)
fully_shard(model)
refused("wrapped in FullyShardedDataParallel", lambda: model(x))
model = network()
fully_shard(model)
refused("sharded", lambda: d90.Subspace(model, D))
# other weights on each process
model = network(seed=rank)
space = d90.Subspace(model, D)
optimizer = space.attach(torch.optim.SGD(space.parameters(), lr=1.0))
nn.functional.cross_entropy(model(x), y).backward()
refused("processes [1] have another subspace", optimizer.step)
# gradients that would come after the exchange
model = network()
space = d90.Subspace(model, D)
optimizer = space.attach(torch.optim.SGD(space.parameters(), lr=1.0))
refused("step(closure)", lambda: optimizer.step(lambda: nn.functional.cross_entropy(model(x), y)))
print("all refused")
dist.destroy_process_group()
"""

ACCELERATE = """
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
assert accelerator.num_processes == 2
model = network()
space = d90.Subspace(model, D)
optimizer = torch.optim.Adam(space.parameters(), lr=0.05)
if sys.argv[1] == "before":
    optimizer = space.attach(optimizer)
loader = DataLoader(TensorDataset(x[:8], y[:8]), batch_size=2)
optimizer, loader = accelerator.prepare(optimizer, loader)
if sys.argv[1] == "after":
    optimizer = space.attach(optimizer)
sent.clear()
for _ in range(5):
    for inputs, labels in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(inputs), labels))
            optimizer.step()
            optimizer.zero_grad()
mine = [entry for entry in sent if entry[0] == "all_reduce"]
assert mine == [("all_reduce", 4 * D)] * 5, sent
torch.testing.assert_close(space.theta.detach(), alone([torch.arange(8)], "did", 5), rtol=1e-5, atol=1e-6)
print("as one process")
"""


def two(tmp_path: Path, text: str, *arguments: str, launcher: str = "torch.distributed.run") -> str:
    """Run a script on two processes that meet on a free port; what they print."""
    script = tmp_path / "run.py"
    script.write_text(START + text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--master_addr=127.0.0.1", f"--master_port={port}", "--nproc_per_node=2"]
    if launcher != "torch.distributed.run":
        # --cpu would start one process; this starts two, and the script says that they are to use the processor
        options = [
            "--multi_gpu",
            "--num_processes=2",
            "--num_machines=1",
            "--mixed_precision=no",
            "--dynamo_backend=no",
        ]
        options += [f"--main_process_port={port}"]
    command = [sys.executable, "-m", launcher, *options, str(script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    """Under torchrun: DID and SAID, accumulation, unequal last batches; each process sends 4 d bytes a step."""
    said = two(tmp_path, SAME)
    assert said.count("payload 48 bytes a step") == 2
    record_property("payload_bytes", 48)


def test_wrapped_models_and_processes_that_differ_are_refused(tmp_path: Path) -> None:
    assert two(tmp_path, REFUSED).count("all refused") == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_under_accelerate_launch(tmp_path: Path, when: str) -> None:
    """The optimizer is attached before or after accelerate wraps it; the model is not prepared."""
    pytest.importorskip("accelerate")
    said = two(tmp_path, ACCELERATE, when, launcher="accelerate.commands.launch")
    assert said.count("as one process") == 2


def test_alone_nothing_is_sent_and_marks_tell_numbers_apart() -> None:
    assert processes() == 1
    numbers = torch.arange(3.0)
    assert digest("a", [numbers]) == digest("a", [numbers.clone()])
    assert len({digest("a", [numbers]), digest("b", [numbers]), digest("a", [numbers + 1e-7])}) == 3
