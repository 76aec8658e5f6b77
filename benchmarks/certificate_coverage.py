"""How often certificates hold where the true risk is known: simulated tasks, one line for each kind of certificate.

python benchmarks/certificate_coverage.py [--tasks 2000] [--kind errors] [--out docs/results/certify_coverage.jsonl]

Each task is drawn anew: labels of a random half-space, flipped with a probability of its own (up to one half: coins), or documents of
a random Markov chain over three words. `d90.certify` and `d90.certify_language` are called as a user calls them, on a tiny network;
the true risk is that of the certified model, decoded from its message, over fresh draws whose labels' probabilities are known.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d90.analysis import coding
from d90.certificates.certificate import BaseCertificate
from d90.certificates.classification import Certificate, certify
from d90.certificates.language import certify_language, smoothed_bits
from d90.certificates.preparation import ground_of
from d90.certificates.starting_point import own_copy
from d90.methods import Context, apply, parse
from d90.models.loading import Model
from d90.models.loading import load as load_model
from d90.tasks import Split, Task
from d90.training.batches import Batches
from d90.training.loop import predict

FAST: dict[str, Any] = {
    "levels": (3,),
    "epochs": 2,
    "quantise_epochs": 1,
    "prior_epochs": 1,
    "precision": "fp32",
    "evaluations": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "errors": {},
    "errors, prior": {"prior": 0.5},
    "bits per token": {},
    "bits per token, prior": {"prior": 0.5},
    "bits per token, a part evaluated": {"evaluated": 30},
    "bits per token, prior, a part evaluated": {"evaluated": 20, "prior": 0.5},
}
WIDTH, WORDS = 8, "abc"


def half_space(seed: int) -> tuple[Task, Callable[[Tensor], Tensor]]:
    """A task of 40 to 240 examples, and P(y = 1 | x)."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(WIDTH, generator=generator)
    flipped = 0.5 * float(torch.rand((), generator=generator))

    def probability(x: Tensor) -> Tensor:
        return torch.where(x.flatten(1) @ normal > 0, 1 - flipped, flipped)

    def split(n: int) -> Split:
        x = torch.randn(n, 1, 1, WIDTH, generator=generator)
        return Split(x, (torch.rand(n, generator=generator) < probability(x)).long())

    train = split(int(torch.randint(40, 240, (), generator=generator)))
    return Task(
        f"half-space {seed}", "classification", ("a", "b"), "accuracy", train, split(20), split(20)
    ), probability


def true_error(certificate: Certificate, model: Model, probability: Callable[[Tensor], Tensor], seed: int) -> float:
    """Over 20,000 fresh inputs, each weighed by its labels' probabilities."""
    module = decoded(certificate, model).module.eval()
    x = torch.randn(20_000, 1, 1, WIDTH, generator=torch.Generator().manual_seed(10**6 + seed))
    with torch.no_grad():
        answered = module(x).argmax(dim=1)
    of_one = probability(x)
    return float(torch.where(answered == 1, 1 - of_one, of_one).mean())


def chain(seed: int, fresh: int = 1500) -> tuple[Task, Split]:
    """A task of 60 to 200 documents of 14 words, and fresh documents of the same chain."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(3, 3, generator=generator) ** 2 + 0.02

    def split(n: int) -> Split:
        state, said = torch.randint(0, 3, (n,), generator=generator), []
        for _ in range(14):
            said.append(state)
            state = torch.multinomial(steps[state], 1, generator=generator)[:, 0]
        texts = [(" ".join(WORDS[word] for word in row),) for row in torch.stack(said, 1).tolist()]
        return Split(texts, torch.zeros(n))

    train = split(int(torch.randint(60, 200, (), generator=generator)))
    return Task(f"chain {seed}", "language", (), "loss", train, split(12)), split(fresh)


def decoded(certificate: BaseCertificate[Any], start: Model) -> Model:
    """The certified model: the message on a copy of the starting point."""
    model, best = own_copy(start), certificate.best
    if best.payload:
        laid = apply(parse(certificate.method), model.module, 0, Context(step_rule=certificate.recipe["step_rule"]))
        with torch.no_grad():
            laid.trained.theta.copy_(coding.decode(bytes.fromhex(best.payload)).vector())  # type: ignore[union-attr]
            laid.trained.flush()
    return model


def one(kind: str, seed: int, language_model: Model | None) -> dict[str, Any]:
    """A simulated task's certificate, and the truth."""
    options = {**FAST, **KINDS[kind], "store": ":memory:"}
    if kind.startswith("errors"):
        task, probability = half_space(seed)
        model = load_model(f"mlp:{WIDTH}-6-2", 2, seed=0)
        found: BaseCertificate[Any] = certify(model, task, dims=(6,), lr=0.1, **options)
        truth = true_error(found, ground_of(found, model, task).model, probability, seed)  # type: ignore[arg-type]
    else:
        assert language_model is not None
        task, fresh = chain(seed)
        options |= {"copies": "drop"} if "prior" in KINDS[kind] else {}
        found = certify_language(language_model, task, "lora:r=2@structure=did", dims=(6,), lr=0.05, **options)
        model = decoded(found, ground_of(found, language_model, task).model)
        nats = predict(model, Batches(model, fresh), "fp32")
        truth = float(smoothed_bits(nats, found.best.alpha, found.vocabulary).mean())  # type: ignore[attr-defined]
    return {
        "kind": kind,
        "seed": seed,
        "n": found.n,
        "certified": found.certified,
        "bound": found.bound,
        "truth": truth,
    }


def main() -> None:
    """Draw the tasks that the file does not have, and say how often each kind held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--out", type=Path, default=Path("docs/results/certify_coverage.jsonl"))
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="Stop after so long; the same command goes on."
    )
    asked = parser.parse_args()
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        language_model = tiny_language_model(Path(folder))
        for kind in asked.kind or KINDS:
            done = {row["seed"] for row in rows if row["kind"] == kind}
            for seed in range(asked.tasks):
                if seed in done or time.perf_counter() - began > asked.seconds:
                    continue
                rows.append(one(kind, seed, language_model))
                with asked.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    for kind in asked.kind or KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        held = sum(row["truth"] <= row["bound"] for row in mine)
        changed = sum(not row["certified"].startswith("no change") for row in mine)
        slack = sorted(row["bound"] - row["truth"] for row in mine)[len(mine) // 2]
        print(
            f"{kind}: {held:,} of {len(mine):,} hold ({held / len(mine):.2%}); {changed:,} change something; median slack {slack:.3f}"
        )


def tiny_language_model(folder: Path) -> Model:
    """A Llama of one layer over three words."""
    from tests.reference.tiny_causal import tiny_causal

    return replace(load_model(str(tiny_causal(folder)), 0, "language"), name="a Llama of one layer")


if __name__ == "__main__":
    main()
