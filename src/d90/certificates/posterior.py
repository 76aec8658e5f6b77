"""A subspace whose d numbers are a Gaussian, trained against the bound of what is drawn from it.

    theta = mean + sigma eps           eps (d,) drawn anew at every step
    minimised: C L(theta) / 4 + KL(Q || P) / n

C is the temperature of Catoni's bound, whose numerator this is, but that the mean loss L in nats stands for the error, at some four nats
each. (Over ln 2 the loss is no smaller than the error, but far larger: the divergence then counts for too little, docs/decisions.md.)
P's width follows Q while it trains, at the value of least divergence; it is rounded to one of `WIDTHS` when it ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from d90.analysis.posterior import Gaussian
from d90.certificates.quantised import OverTheta
from d90.projections.philox import gaussians
from d90.subspace.subspace import Subspace

__all__ = ["GaussianSpace", "draw"]

SEED = 0  # of all draws: fixed, so that none is chosen
TRAINING = 1 << 40  # the number of the first draw of training: none of them is measured
NATS = 4.0  # of loss for an error
PACE = 0.05  # how far ln sigma goes in a step of Adam at the peak of its rate


def draw(q: Gaussian, number: int) -> Tensor:
    """The draw of Q with that number, (d,) float32: a function of Q and the number alone."""
    return q.mean + q.sigma * gaussians(SEED, "posterior", torch.tensor([number]), len(q.mean))[0]


class GaussianSpace(OverTheta):
    """Trains like the `Subspace` under it; `gaussian()` is what is certified.

    Args:
        space: over its model; its theta is written from here. The mean begins at the theta it has, sigma at `lr`: as far as a
            number goes in one step.
        n: the examples that count.
        temperature: C.
        lr: Adam's rate.
    """

    def __init__(self, space: Subspace, n: int, temperature: float, lr: float) -> None:
        super().__init__(space)
        self.mean = nn.Parameter(space.theta.detach().clone())
        self.pace = nn.Parameter(torch.zeros_like(space.theta))  # ln sigma in units of PACE / lr
        self.start, self.gain = math.log(lr), PACE / lr
        self.n, self._drawn = n, 0
        self.aim(temperature)
        self.flush()

    def aim(self, temperature: float) -> None:
        """Train for another temperature from here on."""
        self.weight = NATS / (temperature * self.n)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The mean, then ln sigma in units of its pace."""
        yield self.mean
        yield self.pace

    @property
    def sigma(self) -> Tensor:
        """(d,), more than 0."""
        return torch.exp(self.start + self.gain * self.pace.detach())

    def gaussian(self) -> Gaussian:
        """What was learned, in fp32 on the CPU."""
        return Gaussian(self.mean.detach().float().cpu().clone(), self.sigma.float().cpu())

    @torch.no_grad()
    def flush(self) -> None:
        """Write the mean, and through it the weights: what is looked at between steps."""
        self.space.theta.copy_(self.mean)
        self.space.flush()
        self._eps: Tensor | None = None

    def _hand_over(self, gradient: Tensor) -> None:
        mean, sigma = self.mean.detach(), self.sigma
        square = float((sigma.square() + mean.square()).mean())  # of the width of least divergence
        noise = self._eps if self._eps is not None else torch.zeros_like(mean)
        self.mean.grad = gradient + self.weight * mean / square
        self.pace.grad = self.gain * (gradient * noise * sigma + self.weight * (sigma.square() / square - 1))

    def _follow(self) -> None:
        eps = gaussians(SEED, "posterior", torch.tensor([TRAINING + self._drawn]), len(self.mean))[0]
        self._drawn += 1
        self._eps = eps.to(self.mean)
        self.space.theta.copy_(self.mean + self.sigma * self._eps)
