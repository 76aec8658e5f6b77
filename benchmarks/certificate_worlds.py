"""Tasks whose true risk is known: labels of a half-space flipped by coins, and documents of a chain of steps around a circle of words.

A chain's word lies `step` words behind the last one, where the step is drawn anew from a distribution over `STEPS` of them; the model
of such documents has one number for each step, so that a message of a few numbers can be worth what it costs, and the true bits per
token are a sum over steps instead of an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from d90.analysis import coding
from d90.analysis.posterior import Gaussian
from d90.certificates.certificate import BaseCertificate
from d90.certificates.classification import Certificate
from d90.certificates.drawn import GaussianCertificate
from d90.certificates.posterior import draw
from d90.certificates.preparation import ground_of
from d90.certificates.starting_point import own_copy
from d90.methods import Context, apply, parse
from d90.models.loading import Model
from d90.tasks import Split, Task

WIDTH = 8  # of a half-space
CIRCLE, STEPS, LENGTH = 100, 8, 10  # words, steps, words of a document


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
    task = Task(f"half-space {seed}", "classification", ("a", "b"), "accuracy", train, split(20), split(20))
    return task, probability


def true_error(certificate: Certificate, model: Model, probability: Callable[[Tensor], Tensor], seed: int) -> float:
    """Over 20,000 fresh inputs, each weighed by its labels' probabilities."""
    module = decoded(certificate, model).module.eval()
    x = torch.randn(20_000, 1, 1, WIDTH, generator=torch.Generator().manual_seed(10**6 + seed))
    with torch.no_grad():
        answered = module(x).argmax(dim=1)
    of_one = probability(x)
    return float(torch.where(answered == 1, 1 - of_one, of_one).mean())


def true_error_of_draws(
    certificate: GaussianCertificate, model: Model, probability: Callable[[Tensor], Tensor], seed: int
) -> float:
    """The same of what a Gaussian certifies: its one draw, or the mean over 200 draws that neither training nor the certificate made."""
    best, x = certificate.best, torch.randn(20_000, 1, 1, WIDTH, generator=torch.Generator().manual_seed(10**6 + seed))
    model, of_one = own_copy(model), probability(x)
    if not best.payload:
        numbers: list[Tensor | None] = [None]
    else:
        q = Gaussian.from_hex(best.payload, best.d)
        fresh = torch.randn(200, best.d, generator=torch.Generator().manual_seed(seed))
        numbers = [draw(q, 0)] if best.posterior == "draw" else [q.mean + q.sigma * row for row in fresh]
        laid = apply(parse(certificate.method), model.module, 0, Context(step_rule=certificate.recipe.step_rule))
    found, module = 0.0, model.module.eval()
    with torch.no_grad():
        for theta in numbers:
            if theta is not None:
                laid.trained.theta.copy_(theta)  # type: ignore[union-attr]
                laid.trained.flush()
            found += float(torch.where(module(x).argmax(dim=1) == 1, 1 - of_one, of_one).mean()) / len(numbers)
    return found


def chain(seed: int) -> tuple[Task, Tensor]:
    """A task of 60 to 1,200 documents of ten words, and the probability of each step, (STEPS,).

    Steps are from all alike to mostly the same one; with few documents no message is worth its bits.
    """
    generator = torch.Generator().manual_seed(seed)
    sharpness = 2 * torch.rand((), generator=generator)
    steps = torch.softmax(sharpness * torch.randn(STEPS, generator=generator), dim=0)

    def split(n: int) -> Split:
        words = torch.randint(0, CIRCLE, (n, LENGTH), generator=generator)
        taken = torch.multinomial(steps, n * (LENGTH - 1), replacement=True, generator=generator)
        words[:, 1:] = words[:, :1] + 1 + taken.view(n, -1).cumsum(dim=1) + torch.arange(LENGTH - 1)
        texts = [(" ".join(f"w{word}" for word in row),) for row in (words % CIRCLE).tolist()]
        return Split(texts, torch.zeros(n))

    train = split(round(60 * 20 ** float(torch.rand((), generator=generator))))
    return Task(f"chain {seed}", "language", (), "loss", train, split(12)), steps


def true_bits(model: Model, steps: Tensor, alpha: float) -> float:
    """Smoothed bits per token of a document of the chain, exactly: its first word is uniform, every other one a step."""
    with torch.no_grad():
        p = torch.softmax(model.module(torch.tensor([[0, CIRCLE]]))[0].double(), dim=1)
    bits = -torch.log2((1 - alpha) * p + alpha / (CIRCLE + 1))
    return float((bits[1, :CIRCLE].mean() + (LENGTH - 1) * (steps.double() * bits[0, 1 : STEPS + 1]).sum()) / LENGTH)


class StepModel(nn.Module):
    """Logits of the next word by its distance from the last: a number for each step, 0 for what is no step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(STEPS))
        distance = (torch.arange(CIRCLE)[None, :] - torch.arange(CIRCLE)[:, None]) % CIRCLE
        table = torch.full((CIRCLE + 1, CIRCLE + 1), STEPS)  # the last row and column: the mark that begins a document
        table[:CIRCLE, :CIRCLE] = torch.where((distance > 0) & (distance <= STEPS), distance - 1, STEPS)
        self.register_buffer("table", table, persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        rows: Tensor = torch.cat([self.weight, self.weight.new_zeros(1)])[self.table]  # type: ignore[index]
        return rows[input_ids]


class Words:
    """The tokenizer of w0 ... w99, with a mark for the beginning."""

    bos_token_id, eos_token_id, pad_token_id = CIRCLE, None, CIRCLE
    all_special_tokens = ()

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(word[1:]) for word in text.split()] for text in texts]}


def step_model() -> Model:
    """Every word is as likely as any other before it learns."""
    return Model("a model of steps", StepModel(), Words(), max_length=LENGTH + 1, vocabulary=CIRCLE + 1)


def decoded(certificate: BaseCertificate[Any], start: Model) -> Model:
    """The certified model: the message on a copy of the starting point."""
    model, best = own_copy(start), certificate.best
    if best.payload:
        laid = apply(parse(certificate.method), model.module, 0, Context(step_rule=certificate.recipe.step_rule))
        with torch.no_grad():
            laid.trained.theta.copy_(coding.decode(bytes.fromhex(best.payload)).vector())  # type: ignore[union-attr]
            laid.trained.flush()
    return model


def certified_start(certificate: BaseCertificate[Any], model: Model, task: Task) -> Model:
    """What the message is laid on; without a prior the model as it was given."""
    return ground_of(certificate, model, task).model if certificate.prior else model
