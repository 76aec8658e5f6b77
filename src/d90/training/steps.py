"""The optimizer's steps of one run: begun or gone on with, evaluated as the recipe says, ended early where that is asked for.

Adam, linear warm-up and decay, length-bucketed batches, bf16 autocast where the processor has it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d90.methods import Direct, Spec, Trainable, restore, snapshot
from d90.subspace.subspace import Subspace
from d90.training.batches import outputs_of
from d90.training.checkpoint import Checkpoint, State, resumed
from d90.training.data import Data
from d90.training.evaluation import assess
from d90.training.precision import autocast, precision_of
from d90.training.progress import Progress
from d90.training.recipe import Recipe, default_lr, trial_label
from d90.training.result import Evaluation, TrialResult
from d90.training.schedule import batches_of, rate

__all__ = ["NO_CONTROL", "Loop", "RunControl"]


@dataclass(frozen=True)
class RunControl:
    """When a run ends early, and what is kept of it.

    Attributes:
        stop_at: a score at which it stops.
        pruner: is asked after each evaluation whether to give up.
        keep_best: end at the best evaluation's weights.
        best: receives the predictions whenever they are the best so far.
        checkpoint: keeps the run's state; one that was killed goes on from it.
        test: score the best evaluation's weights, which are then kept, on the test split.
        pause: where a reading (`Recipe.until`) leaves its state, from which the whole run goes on, bit for bit.
        at_base: the untrained model gives what the base gives, so the look at it may be that of an earlier run.
    """

    stop_at: float | None = None
    pruner: Callable[[Sequence[Evaluation]], bool] | None = None
    keep_best: bool = False
    best: Callable[[Tensor], None] | None = None
    checkpoint: Checkpoint | None = None
    pause: Checkpoint | None = None
    test: bool = False
    at_base: bool = False


NO_CONTROL = RunControl()


class Loop:
    """One run.

    Args:
        data: the task, encoded for the model.
        trained: what the optimizer moves.
        spec, recipe: the method, and how it is trained.
        control: when it ends early, and what is kept.
        progress: receives the events.
    """

    def __init__(
        self, data: Data, trained: Trainable, spec: Spec, recipe: Recipe, control: RunControl, progress: Progress
    ) -> None:
        self._began = time.perf_counter()
        self.data, self.trained, self.spec, self.recipe = data, trained, spec, recipe
        self.control, self.progress = control, progress
        self.precision = precision_of(recipe, data)
        if data.precision_note:
            data.note_once(data.precision_note, progress)
        self.lr = recipe.lr if recipe.lr is not None else default_lr(spec, data.task.kind)
        self.parameters = list(trained.parameters())
        # fused: one pass over the weights; over every weight of minilm a bf16 step is a quarter shorter (benchmarks/step.py)
        adam = torch.optim.Adam(self.parameters, lr=self.lr, weight_decay=recipe.weight_decay, fused=True)
        self.optimizer = trained.attach(adam)
        total = recipe.steps(len(data.train))
        self.total, self.last = total, max(1, round(total * recipe.until))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: rate(step, total, recipe.warmup))
        self.evenly = {max(1, round(total * (i + 1) / recipe.evaluations)) for i in range(recipe.evaluations)}
        self.step, self.running = 0, 0.0  # the mean of the last losses
        self.curve: list[Evaluation] = []
        self._predictions: Tensor | None = None  # of the best evaluation so far
        self._best_state: Any = None

    def run(self) -> TrialResult:
        """Train to the end, or to where it ends early."""
        self.progress.trial_started(trial_label(self.spec, self.recipe, self.data.task.kind), self.last)
        self._begin()
        status = "finished" if self.last == self.total else "read"
        done = self.step
        rest = itertools.islice(batches_of(self.data.train, self.recipe, self.last), done, None)
        for self.step, chosen in enumerate(rest, start=done + 1):
            ended = self._optimize(chosen) or self._after_step()
            if ended is not None:
                status = ended
                break
        if self._best_state is not None:
            restore(self.trained, self._best_state)
        space = self.trained if isinstance(self.trained, Subspace) else None
        return TrialResult(
            score=self._best,
            status=status,
            zero_score=self.curve[0].score,
            curve=tuple(self.curve),
            steps=self.step,
            seconds=time.perf_counter() - self._began,
            train_loss=self.running,
            truncated=self.data.truncated,
            lr=self.lr,
            precision=self.precision,
            trained=sum(p.numel() for p in self.parameters),
            D=space.D if space else sum(p.numel() for p in self.parameters),
            lambdas=space.m if space else 0,
            layers=space.layer_definition if space else "none (direct)",
        )

    @property
    def _best(self) -> float:
        return max(look.score for look in self.curve)

    def _begin(self) -> None:
        """Look at the untrained model, or go on from a checkpoint."""
        kept = self.control.checkpoint
        state = None if kept is None else resumed(kept, self.trained, self.optimizer, self.schedule, self.last)
        if state is None:
            self.curve.append(self._look())
            self._best_state = snapshot(self.trained) if self.control.keep_best else None
            return
        self.curve, self.running, self.step, self._best_state = state.curve, state.running, state.step, state.best
        self._began -= state.seconds
        if state.predictions is not None:
            self._tell(state.predictions)
        self.progress.note(f"{self.spec.brief} seed {self.recipe.seed} goes on from step {self.step} of {self.last}")

    def _optimize(self, chosen: Tensor) -> str | None:
        """One step on a batch; "diverged" where its loss is not finite."""
        value = self._backward(chosen)
        if not math.isfinite(value):
            return "diverged"
        if self.recipe.clip and isinstance(self.trained, Direct):
            torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.running = value if self.step == 1 else 0.98 * self.running + 0.02 * value
        if self.step % 10 == 0 or self.step == self.last:
            self.progress.trial_step(self.step, self.running)
        return None

    def _backward(self, chosen: Tensor) -> float:
        """The loss of one batch, in the unit it is shown in, and its gradient where it is finite.

        In several parts one after the other, each counts by its examples, of whose losses the batch's is the mean.
        """
        data, parts = self.data, self.recipe.accumulate
        module, kind = data.model.module, data.task.kind
        module.train()
        total = 0.0
        for part in chosen.tensor_split(min(parts, len(chosen))):
            with autocast(module, self.precision):
                outputs = outputs_of(module, data.train.inputs(part, self.step), kind)
            loss = kind.training_loss(outputs, data.train.labels[part].to(outputs.device))
            share = 1.0 if len(part) == len(chosen) else len(part) / len(chosen)
            value = loss.item() * kind.unit * share
            total += value
            if not math.isfinite(value):
                break
            (loss if share == 1 else loss * share).backward()
        return total

    def _after_step(self) -> str | None:
        """Evaluate and keep the state where it is due; the status with which the run ends here, if it does."""
        control, step = self.control, self.step
        if control.pause is not None and step == self.last and step not in self.evenly:
            self._save(control.pause)  # the whole run does not look here
        if step in self.evenly or step == self.last:
            ended = self._evaluate()
            if ended is not None:
                return ended
        if control.checkpoint is not None and step < self.last and control.checkpoint.due:
            self._save(control.checkpoint)
        if control.pause is not None and step == self.last and step in self.evenly:
            self._save(control.pause)
        return None

    def _evaluate(self) -> str | None:
        """Look at the validation split; the status with which the run ends here, if it does."""
        look, before = self._look(), self._best
        if not math.isfinite(look.loss):
            return "diverged"
        self.curve.append(look)
        self.progress.trial_scored(self.step, look.score, look.loss)
        if look.score > before:
            self._best_state = snapshot(self.trained) if self.control.keep_best else None
        if self.control.stop_at is not None and look.score >= self.control.stop_at:
            return "passed" if self.step < self.total else "finished"
        if self.control.pruner is not None and self.step < self.total and self.control.pruner(self.curve):
            return "hopeless"
        return None

    def _look(self) -> Evaluation:
        """Evaluate on the validation split; predictions that score better than all looks before are passed on.

        A look that has forgotten more than the recipe allows counts as the untrained model's.
        """
        if self.step == 0 and self.control.at_base:
            found = self.data.untrained(self.precision)
        else:
            found = assess(self.data, "validation", self.precision)
        best = max((look.score for look in self.curve), default=-math.inf)
        score, forgets, most = found.score, None, self.recipe.forget_at_most
        better = score > best and math.isfinite(found.loss)
        if most is not None and self.curve and better:
            forgets = max(one.mean for one in self.data.forgotten(self.recipe.keep))
            score = score if forgets <= most else self.curve[0].score
        if self.control.best is not None and score > best and math.isfinite(found.loss):
            self._tell(found.predictions)
        return Evaluation(self.step, score, found.loss, forgets)

    def _tell(self, predictions: Tensor) -> None:
        self._predictions = predictions
        if self.control.best is not None:
            self.control.best(predictions)

    def _save(self, to: Checkpoint) -> None:
        """Keep the run's state; where that cannot be written, say so and go on."""
        moments, seconds = self.optimizer.state_dict()["state"], time.perf_counter() - self._began
        weights = snapshot(self.trained)
        state = State(
            weights, moments, self.step, self.running, self.curve, seconds, self._best_state, self._predictions
        )
        why = to.save(state)
        if why is not None:
            self.progress.note(why)
