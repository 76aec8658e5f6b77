"""`d90 compare`: methods side by side, as a table and a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from d90.cli.expand import expanded
from d90.cli.options import MethodsOpt, ModelArg, TaskArg, command_line, echo, make_progress, split_methods
from d90.options import CompareOptions, TaskOptions, TrainingOptions
from d90.trials.options import CommandRunOptions

if TYPE_CHECKING:
    from d90.results.compare import Comparison


@expanded()
def compare(
    model: ModelArg = "minilm",
    task: TaskArg = "docstrings",
    methods: MethodsOpt = "full bitfit lora:r=8",
    options: CompareOptions = CompareOptions(),
    data: TaskOptions = TaskOptions(),
    training: TrainingOptions = TrainingOptions(),
    run: CommandRunOptions = CommandRunOptions(),
) -> None:
    """Compare methods: numbers trained and stored, score with its spread, time, memory, latency."""
    from d90.report.compare import write_comparisons
    from d90.studies.compare import compare as study

    chosen = split_methods(methods)
    with run.opened(make_progress(), command_line()) as opened:
        result = study(model, task, chosen, options=options, training=training, data=data, run=opened)
    written = write_comparisons(opened.open_store(), run.page_path(".compare.html"))
    _show(result)
    echo(f"page: {written}")


def _show(result: Comparison) -> None:
    from d90.report.compare import forgotten_on, interval, verdicts
    from d90.tasks.metrics import to_display
    from d90.training.console import make_table, print_table

    table = make_table(f"{result.model} on {result.task}: {result.split} {result.metric}, {result.seeds} seed(s)")
    costs = any(entry.cost for entry in result.entries)
    names: tuple[str, ...] = ("", "method", "trained", "stored", result.metric, "interval", "lr")
    on = forgotten_on(result)
    names += ("forgets", "forgets what is kept")[: len(on)]
    for name in (*names, *(("step", "memory", "latency") if costs else ())):
        method = name == "method"
        table.add_column(
            name,
            justify="left" if method or not name else "right",
            no_wrap=not method,
            min_width=12 if method else None,
        )
    for entry in sorted(result.entries, key=lambda entry: entry.stored):
        row = ["*" if entry.front else "", entry.asked, f"{entry.trained:,}", f"{entry.stored:,}"]
        row += [f"{to_display(entry.mean, result.metric):.4f}", interval(entry, result.metric), f"{entry.lr:g}"]
        row += [f"{one.mean:.3f} ± {one.error:.3f}" for one in entry.forgetting]
        if entry.cost:
            cost = entry.cost
            row += [f"{cost.step_ratio:.2f}", f"{cost.memory / 1e6:.0f} MB", f"{100 * (cost.latency_ratio - 1):+.1f} %"]
        table.add_row(*row)
    print_table(table)
    for line in (
        *verdicts(result),
        *(["step: over full fine-tuning's; latency: over the merged model's"] if costs else []),
    ):
        echo(line)
