"""The view `runs`: one row for each trial, in columns anyone can read. Documented in docs/store.md.

It is plain SQL over the JSON of `trials`, so that any SQLite tool shows it.
"""

from __future__ import annotations

__all__ = ["RUNS"]

RECIPE = (
    "epochs",
    "batch_size",
    "warmup",
    "weight_decay",
    "clip",
    "evaluations",
    "train_limit",
    "validation_limit",
    "max_length",
)
OUTCOME = (
    "zero_score",
    "test",
    "train_loss",
    "steps",
    "seconds",
    "trained",
    "D",  # shown as `weights_moved`: SQLite does not tell a column D from d
    "lambdas",
    "layers",
    "truncated",
    "precision",
)
SHOWN_AS = {"D": "weights_moved"}
CONTEXT = ("d90", "torch", "python", "machine", "threads", "device")


def _recipe(name: str) -> str:
    return f"json_extract(recipe, '$.{name}')"


# a loss that was not finite is written as NaN or Infinity, which is no JSON to SQLite
_OUTCOME = "replace(replace(replace(outcome, '-Infinity', 'null'), 'Infinity', 'null'), 'NaN', 'null')"
_METHOD = _recipe("method")
_SPACE = f"substr({_METHOD}, instr({_METHOD} || '@', '@') + 1) || ','"


def _space(key: str) -> str:
    """The value of key= in the part of the method after '@'."""
    start = f"instr(',' || {_SPACE}, ',{key}=')"
    rest = f"substr(',' || {_SPACE}, {start} + {len(key) + 2})"
    return f"CASE WHEN {start} > 0 THEN substr({rest}, 1, instr({rest}, ',') - 1) END"


_BOUND = "CASE status WHEN 'passed' THEN 'at least' WHEN 'hopeless' THEN 'below stop_at' WHEN 'diverged' THEN 'unknown' ELSE 'exact' END"
_P = f"CASE WHEN d IS NOT NULL THEN coalesce(CAST({_space('seed')} AS INTEGER), seed) END"

_SELECTED = {
    "id": "id",
    "ended": "ended",
    "model": _recipe("model"),
    "task": _recipe("task"),
    "method": _METHOD,
    "moves": f"substr({_METHOD}, 1, instr({_METHOD} || '@', '@') - 1)",
    **{key: _space(key) for key in ("structure", "projection", "scale", "layer", "head")},
    "d": "d",
    "seed": "seed",
    "p_seed": _P,
    "lr": f"json_extract({_OUTCOME}, '$.lr')",
    **{name: _recipe(name) for name in RECIPE},
    "score": "score",
    "bound": _BOUND,
    "status": "status",
    "stop_at": "stop_at",
    **{SHOWN_AS.get(name, name): f"json_extract({_OUTCOME}, '$.{name}')" for name in OUTCOME},
    "evaluated": f"json_array_length({_OUTCOME}, '$.curve') - 1",
    "best_step": (
        f"(SELECT json_extract(value, '$.step') FROM json_each({_OUTCOME}, '$.curve')"
        " ORDER BY json_extract(value, '$.score') DESC, key LIMIT 1)"
    ),
    "task_hash": "json_extract(context, '$.task')",
    "base_hash": "json_extract(context, '$.base')",
    **{name: f"json_extract(context, '$.{name}')" for name in CONTEXT},
    "key": "key",
}

RUNS = "SELECT " + ", ".join(f'{sql} AS "{name}"' for name, sql in _SELECTED.items()) + " FROM trials ORDER BY id"
