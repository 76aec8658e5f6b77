"""advise(model, task) -> Recommendation: the smallest method that is as good as a reference, with the evidence and the tune.

The plan is in `d90.search.advice`, the candidates in `d90.studies.advice_candidates`. Every trial is in the store as it ends; asked again,
or after a kill, advice repeats none of them. A reading leaves its state, from which a whole run goes on.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from typing_extensions import Unpack

from d90.errors import InputError
from d90.files import check_output
from d90.integrations.convert import convert
from d90.methods import LoRA, Spec, parse
from d90.models.loading import Model
from d90.options import AdviseOptions, TaskOptions, TrainingOptions, with_options
from d90.options.studies import AdviseFields
from d90.options.task import TaskFields
from d90.options.training import TrainingFields
from d90.results.advise import Recommendation, Tried
from d90.search.advice import advise as search
from d90.search.advice_problem import Advice, AdviceProblem, Candidate, Request, Verdict
from d90.search.noise import expected_noise
from d90.search.rate_line import RateLine
from d90.search.rules import scale_of
from d90.studies.advice_bench import TrialBench
from d90.studies.advice_candidates import Candidates, find_candidates
from d90.studies.advice_words import settle, snippets, train_line, unknown
from d90.studies.compare import forgotten_over_seeds
from d90.studies.measurement_rates import baseline_doubts
from d90.tasks import Task
from d90.tasks.metrics import to_display
from d90.training.loop import open_task, train
from d90.training.progress import Progress
from d90.training.rates import Ladder
from d90.training.recipe import Recipe, make_recipe
from d90.training.record import beside, copy_pair, read_record
from d90.training.showing import shows_progress
from d90.trials.context import versions
from d90.trials.options import RunFields, RunOptions
from d90.trials.runner import TrialRunner, check_sendable
from d90.trials.store import digest

__all__ = ["AllAdviseFields", "advise"]

RATES = 6  # of the whole grid that the cost is compared with
FEWEST = 50  # validation examples
ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
LARGE_ADAPTER = 1 << 26  # numbers: an adapter of more is written by d90 convert


class AllAdviseFields(AdviseFields, TrainingFields, TaskFields, RunFields, total=False):
    """What `advise` takes as keywords besides its own parameters."""


@with_options
@shows_progress
def advise(
    model: str | Model,
    task: str | Task,
    methods: str | Sequence[str | Spec] = (),
    *,
    options: AdviseOptions = AdviseOptions(),
    training: TrainingOptions = TrainingOptions(),
    data: TaskOptions = TaskOptions(),
    run: RunOptions = RunOptions(),
    **fields: Unpack[AllAdviseFields],
) -> Recommendation:
    """Find the smallest method that is as good as a reference on your model and data, and train it.

        gap = score(reference) - score(candidate),   "no worse" where   gap + z SE(gap) <= margin

    Learning rates are found by early readings and shared between sizes, sizes are bisected on whole runs, paired over validation examples;
    every look is paid for, so that a false "no worse" has a probability of at most 5 % (2,000 simulated worlds:
    benchmarks/advise.json).

    Example:
        >>> found = d90.advise(model, images, like="full", epochs=1, budget=12, out="advised.d90")
        >>> found.metric
        'accuracy'

    Args:
        model, task: as for `d90.train`.
        methods: candidates in the grammar of `d90.methods`, in one text or several; by default LoRA of ranks 1 ... 64, subspaces over LoRA
            and over all weights, BitFit, HiWi, (IA)3 and the top layers.
        options: the reference, the margin or the score to reach, the budget.
        training: how every trial is trained; rates are found, so `lr` is left alone.
        data: how the task's data is read.
        run: the store, the log, the executor and who receives the events.
        fields: those of the four as keywords, as within="5%", epochs=2.

    Returns:
        A Recommendation: what to train, what is claimed of it, what it cost, what is not known. The tune lies at `options.out`.

    Raises:
        InputError: what was wrong, what was expected, what to do: fewer than 50 validation examples, a budget below one fine-tuning, a
            reference that does not train, limits that contradict each other.
        StoreError, RunFailed: the store cannot be used, or the machine failed.
    """
    asked = _Question(model, task, options, training, data)
    check_sendable(run.executor, model, task)
    _check_out(asked.out)
    methods = methods.split() if isinstance(methods, str) else methods
    found, bench = _begun(asked, methods, run)
    problem = _problem(options, found, bench.runner, asked.recipe)
    bench.budget = _budget(options, found, bench, problem)
    advice = search(bench, replace(problem, budget=bench.budget))
    _check_reference(advice, bench, max(bench.runner.constant_score(), problem.zero_score))
    result = _recommendation(asked, found, bench, advice)
    _check_limits(options, found, result)
    result = replace(_with_tune(result, asked, bench), command=run.command)
    key = asked.key(methods, result)
    bench.runner.store.put_study(key, "advise", result.to_dict())
    bench.runner.note(key)
    bench.drop()
    bench.progress.search_ended(str(result))
    return result


@dataclass(frozen=True)
class _Question:
    """What advice is asked for."""

    model: str | Model
    task: str | Task
    options: AdviseOptions
    training: TrainingOptions
    data: TaskOptions

    @property
    def out(self) -> Path:
        """Where the tune is to lie."""
        return Path(self.options.out)

    @property
    def recipe(self) -> Recipe:
        """Of the method that the others are held against."""
        return make_recipe(self.model, self.task, parse(self.options.like), self.training, self.data)

    def key(self, methods: Sequence[str | Spec], result: Recommendation) -> str:
        """Of the answer in a store: where its tune lies is no part of the question."""
        options = self.options.to_dict() | {"out": ""}
        parts = [result.model, result.task, options, sorted(map(str, methods)), result.recipe]
        return digest([*map(str, parts)])

    def recipe_of(self, spec: Spec) -> Recipe:
        """Of a method's trials, whose rate is the plan's."""
        return make_recipe(self.model, self.task, spec, replace(self.training, lr="default"), self.data)


# --- before anything is trained ----------------------------------------------------------------------------------------


def _check_out(out: Path) -> None:
    if out.suffix == ".json":
        raise InputError(f"got --out {out}, expected another ending such as .d90: the recipe takes the .json beside it")
    check_output(out)


def _begun(asked: _Question, methods: Sequence[str | Spec], run: RunOptions) -> tuple[Candidates, TrialBench]:
    """The candidates that fit the model, and what runs them; nothing is trained."""
    progress, recipe = run.listener, asked.recipe
    opened = open_task(asked.task, recipe, asked.model)
    _check_examples(opened)
    runner = TrialRunner(asked.model, opened, recipe, run)
    progress.search_started(f"advice for {recipe.model} on {recipe.task}, as good as {asked.options.like}")
    for note in opened.shown_notes:
        progress.note(note)
    runner.data(recipe.seed).note_truncation(progress)
    found = find_candidates(runner.data(recipe.seed), recipe, methods, asked.options.like, asked.options.max_bytes)
    for note in found.notes:
        progress.note(note)
    return found, TrialBench(runner, asked.recipe_of, progress)


def _check_examples(task: Task) -> None:
    """Refuse a validation split that can tell next to nothing.

    Raises:
        InputError: with what could be said.
    """
    count = task.independent("validation")
    if count >= FEWEST:
        return
    if scale_of(task.metric).share:
        points = 100 * 2.49 * math.sqrt(0.1 / count)
        can = f"two methods that differ on a tenth of {count} examples are told apart from {points:.0f} points on"
    else:
        can = f"its standard error is {math.sqrt(400 / count):.1f} times that of 400 examples"
    raise InputError(
        f"got {count} validation examples, expected at least {FEWEST} to tell sizes apart: {can}. Give more, as a validation file; "
        "or compare two methods you have in mind with d90 compare --seeds 5"
    )


def _problem(options: AdviseOptions, found: Candidates, runner: TrialRunner, recipe: Recipe) -> AdviceProblem:
    """The plan's question, in the unit of scores."""
    task, zero = runner.task, runner.zero_score()
    margin, share = options.margin
    if margin is not None and scale_of(task.metric).share:
        margin /= 100
    goal = None if options.min_score is None else to_display(options.min_score, task.metric)
    if goal is not None and goal <= zero:
        raise InputError(
            f"got min_score={options.min_score:g}, which the untrained model reaches ({to_display(zero, task.metric):.4f}); expected "
            "a better one"
        )
    chance = max(runner.constant_score(), zero)
    noise = None
    if scale_of(task.metric).share or scale_of(task.metric).correlation:
        noise = 0.5 * expected_noise(task.metric, task.independent("validation"), chance, chance)  # examples are paired
    return AdviceProblem(
        found.families, None if goal is not None else found.reference, found.home, margin, share, goal, max(zero, runner.constant_score()),
        noise, reading=_reading(options, runner, recipe), seeds=options.seeds, seed=recipe.seed,
    )  # fmt: skip


def _reading(options: AdviseOptions, runner: TrialRunner, recipe: Recipe) -> float:
    """The share of the schedule of a reading: of so many steps at least, for the first few of a run prefer to stay where they are."""
    return max(options.reading, min(0.5, Ladder().min_steps / recipe.steps(len(runner.task.train))))


def _grid(found: Candidates) -> float:
    """Whole runs of every candidate and the reference at six rates, one seed."""
    methods = {one.method for family in found.families for one in family.candidates} | {found.reference.method}
    return float(RATES * len(methods))


def _budget(options: AdviseOptions, found: Candidates, bench: TrialBench, problem: AdviceProblem) -> float:
    """In whole runs; minutes are known from the plan's first reading, timed.

    Raises:
        InputError: less than one.
    """
    amount, unit = options.spend
    runs = amount if unit == "runs" else amount * _grid(found)
    if unit == "minutes":
        first = found.reference if problem.reference is not None else found.families[0].candidates[0]
        family = next((one for one in found.families if one.name == first.family), found.home)
        assert family is not None
        line = RateLine(family.guess, family.pivot, family.exponent, family.deviation)
        bench.run([Request(first, line.rate(round(line.at(first.size)[0])), problem.seed, problem.reading)])
        runs = 60 * amount / max(bench.seconds_of_a_run, 1e-3)
    if runs < 1:
        one = f", a fine-tuning takes about {bench.seconds_of_a_run / 60:.1f} minutes" if unit == "minutes" else ""
        raise InputError(
            f"got budget={options.budget}, {runs:.2f} fine-tunings{one}; expected at least one, and some eight for an answer. Give more, "
            "fewer --methods, or train on less with --train-limit"
        )
    return runs


# --- honest ends -------------------------------------------------------------------------------------------------------


def _check_reference(advice: Advice, bench: TrialBench, chance: float) -> None:
    """Refuse to advise against a reference that did not train.

    Raises:
        InputError: with its curve.
    """
    if advice.status != "failed":
        return
    metric = bench.runner.task.metric
    whole = {request: result for request, result in bench.results.items() if request.until == 1}
    if not whole:
        raise InputError("the budget ended before the reference was trained; give more with --budget")
    request, best = max(whole.items(), key=lambda pair: pair[1].score)
    curve = ", ".join(f"{to_display(look.score, metric):.4f} at step {look.step}" for look in best.curve)
    rates = ", ".join(f"{lr:g}" for lr in sorted({one.lr for one in whole}))
    guess = f"{to_display(chance, metric):.4f}"
    raise InputError(
        f"the reference {request.candidate.method} does not beat the constant guess's {guess}: {metric} {curve or 'not finite'} "
        f"at learning rate {request.lr:g} (tried {rates}). Train longer (--epochs), give more data, or name another --like"
    )


def _check_limits(options: AdviseOptions, found: Candidates, result: Recommendation) -> None:
    """Refuse limits that contradict each other.

    Raises:
        InputError: with the nearest two.
    """
    limit, reference = options.max_bytes, result.reference
    small = [one for one in result.tried if one.gap is not None and (limit is None or one.bytes <= limit)]
    enough = result.chosen is not None and (limit is None or result.chosen.bytes <= limit)
    if limit is None or enough or not small:
        return
    best = min(small, key=lambda one: one.gap or 0.0)
    other = f" and {reference.method} ({reference.bytes:,} bytes)" if reference is not None else ""
    raise InputError(
        f"nothing takes at most {limit:,} bytes and is within {result.margin:.4g}: the nearest are {best.method} ({best.bytes:,} bytes, "
        f"{best.gap:.4g} worse){other}. Allow more with --max-bytes or --within"
    )


# --- the answer --------------------------------------------------------------------------------------------------------


def _recommendation(asked: _Question, found: Candidates, bench: TrialBench, advice: Advice) -> Recommendation:
    """The result, but for the tune."""
    runner, options, training, data = bench.runner, asked.options, asked.training, asked.data
    reference = _tried(advice.reference, found, bench)
    shown, guess = _tried(advice.shown, found, bench), _tried(advice.guess, found, bench)
    chosen = shown or reference or guess
    recipe = asked.recipe_of(parse(options.like))
    status = "shown" if shown else "guess" if guess and reference is None else "reference" if reference else "none"
    notes = _doubts(advice, bench, runner)
    result = Recommendation(
        model=recipe.model,
        task=recipe.task,
        metric=runner.task.metric,
        status=status,
        chosen=chosen,
        guess=guess,
        reference=reference,
        tried=tuple(one for one in (_tried(verdict, found, bench) for verdict in advice.verdicts) if one is not None),
        margin=advice.margin,
        gain=advice.gain,
        zero=advice.zero_score,
        goal=None if options.min_score is None else to_display(options.min_score, runner.task.metric),
        spent=advice.spent,
        grid=_grid(found),
        complete=advice.complete,
        seconds=bench.seconds,
        rates=advice.rates,
        readings=advice.readings,
        limit=advice.range,
        looks=advice.looks,
        line="",
        snippets={},
        tune="",
        adapter="",
        unknown=(),
        settle="",
        corrected=advice.corrected,
        gentler=advice.gentler,
        recipe={key: value for key, value in recipe.to_dict().items() if key not in ("method", "seed", "lr", "step_rule")},
        definitions={
            "validation": len(runner.task.validation), "seeds": options.seeds, "reading": options.reading,
            "seed_deviation": advice.seed_deviation, "task": runner.task.fingerprint, "base": runner.model(training.seed).fingerprint,
            "notes": [*runner.task.notes, *found.notes, *notes], **versions(),
        },
    )  # fmt: skip
    if chosen is None:
        return replace(result, unknown=(*unknown(result), *notes))
    line = train_line(recipe, chosen.method, chosen.lr, training, data, options.out)
    made = snippets(runner.model(training.seed).module, parse(chosen.method), chosen.lr, training, runner.task, recipe)
    return replace(result, line=line, snippets=made, unknown=(*unknown(result), *notes), settle=settle(result))


def _tried(verdict: Verdict | None, found: Candidates, bench: TrialBench) -> Tried | None:
    """A verdict as it is stored."""
    if verdict is None:
        return None
    one: Candidate = verdict.candidate
    stored, size, trained = found.sizes[one.method]
    results = [
        result
        for request, result in bench.results.items()
        if request.until == 1 and request.candidate == one and request.lr == verdict.lr
    ]
    gap = verdict.gap if math.isfinite(verdict.gap) else None
    lr = verdict.lr if math.isfinite(verdict.lr) else 0.0
    return Tried(
        one.method, one.family, one.size, lr, verdict.scores, gap, verdict.error, verdict.shown, verdict.worse, stored, size, trained,
        forgotten_over_seeds(results),
    )  # fmt: skip


def _doubts(advice: Advice, bench: TrialBench, runner: TrialRunner) -> list[str]:
    """What speaks against the reference as something to be held against."""
    if advice.reference is None:
        return []
    mine = [
        result for request, result in bench.results.items()
        if request.until == 1 and request.candidate == advice.reference.candidate and request.lr == advice.reference.lr
    ]  # fmt: skip
    words = {
        "the baseline": "the reference", "--epochs, --baseline-epochs": "--epochs", "--baseline-epochs": "--epochs", "no d": "no size",
        "another d90": "another size",
    }  # fmt: skip
    found = baseline_doubts(mine[0].curve, advice.zero_score, advice.seed_deviation, True)
    for before, after in words.items():
        found = [line.replace(before, after) for line in found]
    return found


def _with_tune(result: Recommendation, asked: _Question, bench: TrialBench) -> Recommendation:
    """The result with the tune that was chosen, copied from its trial, or trained again where its trial came from the store."""
    chosen, out, training, progress = result.chosen, asked.out, asked.training, bench.progress
    if chosen is None:
        return result
    spec = parse(chosen.method)
    recipe = replace(bench.recipe_of(spec), lr=chosen.lr, seed=training.seed)
    kept = bench.runner.kept(recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    if kept.exists() and beside(kept).exists():
        copy_pair(kept, out)
    elif not _is_there(out, recipe, bench.runner.task.fingerprint):
        progress.search_planned(f"{chosen.method} once more: its trial was stored without its tune")
        tuned = replace(training, lr=chosen.lr)
        made = train(asked.model, asked.task, spec, progress=progress, training=tuned, data=asked.data)
        made.save(out)
        made.release()
    return replace(result, tune=str(out), adapter=_adapter(spec, out, chosen, progress))


def _is_there(out: Path, recipe: Recipe, task: str) -> bool:
    """Whether the tune lies there already, as where advice is asked for again."""
    try:
        record = read_record(out)
    except (InputError, OSError):
        return False
    return record.recipe == recipe and record.task.fingerprint == task


def _adapter(spec: Spec, out: Path, chosen: Tried, progress: Progress) -> str:
    """The folder that peft loads, where the method has such a form; else nothing, and why."""
    lora = isinstance(spec.method, LoRA)
    if not (lora or (spec.space is not None and spec.method.name == "full")) or chosen.stored > LARGE_ADAPTER:
        return ""
    folder = out.with_suffix("").with_name(f"{out.stem}_adapter")
    if folder.is_dir() and {file.name for file in folder.iterdir()} <= ADAPTER:
        shutil.rmtree(folder)  # an earlier answer's
    try:
        convert(out, "lora" if lora else "peft", folder, check=False)
    except InputError as error:
        progress.note(f"no adapter folder: {error}")
        return ""
    return str(folder)
