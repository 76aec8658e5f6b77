"""How many numbers does a controller need? d90 of CartPole, trained by an evolution strategy in random subspaces.

    pip install gymnasium
    python examples/cartpole.py

The controller is a network of 4-16-2, D = 114 weights; an episode's score is how many of 200 steps the pole stays up. d90 trains
nothing here: it says which d and which seeds to try, and what the scores mean. Li et al. (2018, section 4.3) report 4 numbers for the
inverted pendulum, by a search like this one.
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy

import d90
from d90.projections import build
from d90.studies.study import Trial

SIZES = (4 * 16, 16, 16 * 2, 2)
D = sum(SIZES)
STEPS = 200  # of an episode at most
EPISODES = 5  # a policy's score is the mean of so many
GENERATIONS, POPULATION, SPREAD = 20, 16, 0.5


def act(weights: numpy.ndarray, state: numpy.ndarray) -> int:
    """The action of the controller with these D weights."""
    first, bias, second, other = numpy.split(weights, numpy.cumsum(SIZES)[:-1])
    hidden = numpy.tanh(state @ first.reshape(4, 16) + bias)
    return int(numpy.argmax(hidden @ second.reshape(16, 2) + other))


def episode(weights: numpy.ndarray, seed: int) -> int:
    """How many steps the pole stays up."""
    world = gymnasium.make("CartPole-v1", max_episode_steps=STEPS)
    state, _ = world.reset(seed=seed)
    for step in range(1, STEPS + 1):
        state, _, fell, late, _ = world.step(act(weights, state))
        if fell or late:
            return step
    return STEPS


def score(weights: numpy.ndarray, seed: int, episodes: int = EPISODES) -> float:
    """The mean over episodes."""
    return float(numpy.mean([episode(weights, 1000 * seed + i) for i in range(episodes)]))


def evaluate(trial: Trial) -> float:
    """Train theta by a simple evolution strategy, and score the mean of the last generation on new episodes."""
    bits = numpy.random.default_rng(trial.training_seed)
    start = bits.normal(0, 0.1, D)
    matrix = numpy.eye(D) if trial.d is None else build("dense", trial.d, D, trial.projection_seed).dense().numpy()
    scale = numpy.sqrt(D / matrix.shape[1])  # a step moves the D weights as far at every d
    mean, spread = numpy.zeros(matrix.shape[1]), SPREAD
    for generation in range(GENERATIONS):
        tries = mean + spread * bits.normal(size=(POPULATION, len(mean)))
        scores = [score(start + scale * matrix @ one, trial.training_seed * 997 + generation, 2) for one in tries]
        best = tries[numpy.argsort(scores)[-POPULATION // 4 :]]
        mean, spread = best.mean(axis=0), 0.9 * spread
    return score(start + scale * matrix @ mean, 10**6 + trial.training_seed, 4 * EPISODES)


def main() -> None:
    """Ask, evaluate, tell; a second run goes on where the first was stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="runs/cartpole.sqlite")
    parser.add_argument("--budget", type=float, default=12.0)
    given = parser.parse_args()
    study = d90.Study("cartpole", D=D, chance=10.0, full=float(STEPS), start=16, budget=given.budget, store=given.store)
    while (trial := study.ask()) is not None:
        reached = evaluate(trial)
        study.tell(trial, reached)
        print(f"d = {trial.d}, seed {trial.training_seed}: {reached:.1f} of {STEPS} steps")
    print(study)
    print(f"page: {study.page(given.store.removesuffix('.sqlite') + '.html')}")


if __name__ == "__main__":
    main()
