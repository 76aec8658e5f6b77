"""What long work tells while it runs: one protocol, silent by default. The command line shows bars, or plain lines when piped."""

from __future__ import annotations

from d90.training.estimate import Estimate

__all__ = ["Progress"]


class Progress:
    """Receives what happens; every method may be overridden and does nothing here."""

    def search_started(self, title: str) -> None:
        """A measurement begins."""

    def search_expected(self, plan: Estimate) -> None:
        """How much a search is likely to train, before it trains anything."""

    def search_planned(self, message: str) -> None:
        """What the search does next, in a line."""

    def search_ended(self, message: str) -> None:
        """A measurement has its answer."""

    def trial_started(self, label: str, steps: int) -> None:
        """A training run of `steps` optimizer steps begins."""

    def trial_turned(self, number: int) -> None:
        """Of several trials under way, what follows is this one's; numbers begin at 1."""

    def trial_step(self, step: int, loss: float) -> None:
        """An optimizer step was made (called every few steps)."""

    def trial_scored(self, step: int, score: float, loss: float) -> None:
        """The model was evaluated."""

    def trial_ended(self, label: str, message: str) -> None:
        """A training run ended, or its stored result was found."""

    def note(self, message: str) -> None:
        """Something worth a line, said once."""
