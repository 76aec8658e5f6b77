"""What advice gives: the smallest method that is shown to be enough, the best guess, and what they rest on."""

from __future__ import annotations

from dataclasses import dataclass

from d90.display import Display
from d90.files import Json
from d90.results.result import Result
from d90.tasks.metrics import to_display
from d90.training.recipe import Recipe
from d90.training.result import Forgotten

__all__ = ["Recommendation", "Tried"]


@dataclass(frozen=True)
class Tried(Result):
    """A method that was trained to its end.

    Attributes:
        method: its text; `family` and `size`, as the search orders it.
        lr: its best rate.
        scores: one a seed.
        gap, error: how much worse than the reference, or than the score asked for, and the standard error of that; `gap` is None
            where every run failed.
        shown: whether it was shown to be no worse by more than the margin; `worse`, whether the opposite is clear.
        stored, bytes, trained: numbers in a file, its bytes, numbers trained.
        forgetting: what its tunes forgot, as `d90.results.compare.Entry` has it; empty where it was not measured.
    """

    method: str
    family: str
    size: float
    lr: float
    scores: tuple[float, ...]
    gap: float | None
    error: float
    shown: bool
    worse: bool
    stored: int
    bytes: int
    trained: int
    forgetting: tuple[Forgotten, ...] = ()

    @property
    def score(self) -> float:
        """The mean over seeds."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class Recommendation(Result, Display):
    """The answer of `d90 advise`.

    Example:
        >>> found = d90.advise(model, images, like="full", epochs=1, budget=12, out="advised.d90")
        >>> found.status in ("shown", "guess", "reference", "none")
        True

    Attributes:
        model, task, metric: names as given, and what scores the task.
        complete: whether every candidate that could matter was run.
        readings, looks, corrected: the rates that were read, how often the decision was looked at, and what that costs.
        recipe, definitions, command: of every trial; fingerprints and versions; the command line that asked.
        status: "shown", "guess" (nothing smaller than the reference was shown within the budget), "reference" (nothing smaller is
            enough) or "none" (no candidate reaches the score that was asked for).
        chosen: what to train: the smallest shown, else the reference, else the best guess.
        guess: the smallest that most likely is enough; None where none is.
        reference: None where a score was asked for.
        tried: every candidate that ran to its end, by numbers stored.
        margin, gain, zero: in the unit of scores; `goal`, the score that was asked for.
        spent, grid: in whole fine-tunings: of this search, and of every candidate at six rates; `seconds`, of all trials, stored ones
            as they took then.
        rates: (family, exponent, deviation, sizes read) of each family's rate.
        limit: the smallest size of the first family that may be enough, and the largest, at 90 %.
        line: the command that trains the answer; `snippets`, the same for other libraries by their names.
        tune, adapter: where they lie; empty where there is none.
        unknown: what is not known, a line each.
        settle: what would settle the best guess.
        gentler: a line where a lower rate was taken because it forgets less; empty where that was not so.
    """

    model: str
    task: str
    metric: str
    status: str
    chosen: Tried | None
    guess: Tried | None
    reference: Tried | None
    tried: tuple[Tried, ...]
    margin: float
    gain: float
    zero: float
    goal: float | None
    spent: float
    grid: float
    complete: bool
    seconds: float
    rates: tuple[tuple[str, float, float, int], ...]
    readings: tuple[tuple[str, float, float | None], ...]
    limit: tuple[float | None, float | None]
    looks: int
    line: str
    snippets: dict[str, str]
    tune: str
    adapter: str
    unknown: tuple[str, ...]
    settle: str
    corrected: str
    recipe: Json
    definitions: Json
    command: str = ""
    gentler: str = ""

    def shown(self, score: float) -> str:
        """A score as a reader sees it."""
        return f"{to_display(score, self.metric):.4f}"

    @property
    def validation_examples(self) -> int:
        """How many examples scored a run."""
        return int(self.definitions["validation"])

    @property
    def smaller(self) -> Tried | None:
        """The next smaller one of the answer's family that ran."""
        chosen = self.chosen
        if chosen is None:
            return None
        below = [one for one in self.tried if one.family == chosen.family and one.stored < chosen.stored]
        return max(below, key=lambda one: one.stored) if below else None

    def __str__(self) -> str:
        chosen = self.chosen
        if chosen is None:
            best = max(self.tried, key=lambda one: one.score, default=None)
            near = (
                f"the best, {best.method}, has {self.metric} {self.shown(best.score)}"
                if best and best.scores
                else "none ran"
            )
            return f"no candidate reaches {self.metric} {self.shown(self.goal or 0.0)}: {near}"
        scores = f"held-out {self.metric} {self.shown(chosen.score)}"
        if self.reference is not None and chosen.method != self.reference.method:
            scores += f", reference {self.reference.method} {self.shown(self.reference.score)}"
        scores += f", untrained {self.shown(self.zero)}"
        epochs = Recipe.from_dict(self.recipe).epochs
        return f"take {chosen.method} at learning rate {chosen.lr:g} for {epochs:g} epochs: {scores}; {self.claim}"

    @property
    def claim(self) -> str:
        """What is claimed of the answer, and no more."""
        chosen, margin = self.chosen, f"{self.margin:.4g}"
        assert chosen is not None
        if self.status == "reference":
            return (
                "it is the reference: no smaller candidate is as good"
                if self.complete
                else ("it is the reference: no smaller candidate was shown to be as good within the budget")
            )
        if self.goal is not None:
            found = (
                f"it reaches {self.shown(self.goal)} with 95 %"
                if chosen.shown
                else f"it most likely reaches {self.shown(self.goal)}"
            )
        elif chosen.shown:
            found = f"no worse than the reference by {margin} with 95 %"
        else:
            found = f"most likely no worse than the reference by {margin}, which was not shown"
        return found + (f"; {self._below}" if self._below else "")

    @property
    def _below(self) -> str:
        """What is known one size below."""
        smaller = self.smaller
        if smaller is None or self.chosen is None:
            return ""
        if smaller.worse:
            return f"one size smaller, {smaller.method}, is worse"
        gap = (
            "failed to train"
            if smaller.gap is None
            else f"is {smaller.gap:.4g} worse, give or take {smaller.error:.2g}"
        )
        return f"one size smaller, {smaller.method}, {gap}"

    def lines(self) -> list[str]:
        """Everything to show, a line each; without the snippets."""
        found = [str(self)]
        chosen, guess = self.chosen, self.guess
        if chosen is not None:
            found.append(
                f"it stores {chosen.stored:,} numbers, {chosen.bytes:,} bytes"
                + (
                    f" (the reference {self.reference.bytes:,})"
                    if self.reference and self.reference.method != chosen.method
                    else ""
                )
            )
        if guess is not None and chosen is not None and guess.method != chosen.method and guess.gap is not None:
            found.append(
                f"best guess: {guess.method} ({guess.bytes:,} bytes) most likely does too, {guess.gap:.4g} worse, give or take "
                f"{guess.error:.2g}, where {self.margin:.4g} is allowed; {self.settle}"
            )
        if chosen is not None and chosen.forgetting:
            one = chosen.forgetting[0]
            other = self.reference.forgetting[0] if self.reference and self.reference.forgetting else None
            beside = f", the reference {other.mean:.4f}" if other and self.reference != chosen else ""
            found.append(f"it forgets {one.mean:.4f} nats a token of {one.on}, give or take {one.error:.2g}{beside}")
        share = self.spent / self.grid
        found.append(
            f"cost: {self.spent:.1f} fine-tunings, {share:.0%} of the whole grid's {self.grid:.0f}"
            + (f" ({self.seconds / 60:.1f} min)" if self.seconds >= 60 else f" ({self.seconds:.0f} s)")
            + ("" if self.complete else "; the budget ended before the search did")
        )
        found += [line for line in (self.corrected, self.gentler) if line]
        found.append(f"not known: {'; '.join(self.unknown)}")
        return found
