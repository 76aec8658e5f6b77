"""A trial as it is sent to a worker and as it comes back: through JSON, and equal to what went in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from d90.methods import parse
from d90.search.pruning import Pruner
from d90.training.checkpoint import Checkpoint
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.trials.job import TrialJob, result_in, run_job
from d90.trials.predictions import unpack
from d90.trials.request import TrialRequest
from tests.reference.blobs import FAST
from tests.reference.trials import MODEL, idx_folder


def test_a_job_arrives_as_it_was_sent(tmp_path: Path) -> None:
    recipe = Recipe("m", "t", "full@d=16", until=0.5, columns={"text": "a,b"})
    pruner = Pruner([[0.1, 0.2]], 2, 0.9, 0.01)
    request = TrialRequest(parse(recipe.method), recipe, 0.8, pruner, test=True, keep=tmp_path / "t.d90")
    state = Checkpoint(tmp_path / "k.safetensors", "k", 2.0)
    job = TrialJob(request, "bf16", state, replace(state, key="p"), tmp_path / "texts", "cpu")
    found = TrialJob.from_dict(json.loads(json.dumps(job.to_dict())))
    assert found == job
    bare = TrialJob(TrialRequest(parse("full"), Recipe("m", "t")), None)
    assert TrialJob.from_dict(json.loads(json.dumps(bare.to_dict()))) == bare


def test_what_a_worker_gives_comes_back_whole(tmp_path: Path) -> None:
    recipe = Recipe(MODEL, idx_folder(tmp_path / "data"), "full@d=16", **FAST)
    message = run_job(TrialJob(TrialRequest(parse(recipe.method), recipe), None).to_dict(), Progress())
    found = result_in(json.loads(json.dumps(message)))
    assert found.to_dict() == message["outcome"]
    assert found.context.to_dict() == message["context"]
    assert found.context.task
    assert found.context.threads > 0
    assert len(unpack(found.predictions)) > 0
    assert found.curve[-1].step == found.steps
