"""What does a LoRA step of a language model cost in d90's own loop, beside a plain loop of transformers and peft and beside trl?

SmolLM2 (`make smollm2`), fp32, r = 8 on every linear layer, Adam; batches of 8 texts of 128 tokens, the same ones in the same order
for all. Each loop runs in a process of its own, as its library runs it, and waits at the end of every optimizer step for its turn:
one step of each is taken in turn, in an order drawn anew each round. The plain loop is the usual one (`model(**batch).loss`), once
with each attention that transformers has on a processor; the best of them is the one to compare with. ``loss` says which tokens
count: all of them, or answers alone, some three fifths of each text. Ratios are taken to the best plain loop in the same round; the
table shows their medians, of wall-clock and of processor time (`--threads 1` where the machine is shared: threads that wait for one
another count as working). Peak memory is the process's own above what it holds when its loop begins.

    python benchmarks/llm_step.py [--rounds 12] [--loss all answers]        writes llm_step.json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from machine import beside, processor
from memory import resident

BATCH, LENGTH, TEXTS, R = 8, 128, 64, 8
RATE = 1e-3
PLAIN = ("plain, sdpa", "plain, eager")
LOOPS = (*PLAIN, "trl SFTTrainer", f"d90 lora:r={R}", f"d90 lora:r={R}@d=1000")


# --- in a process of its own: one loop ---------------------------------------------------------------------------------


def data_of(loss: str) -> Any:
    """Texts cut to `LENGTH` tokens, encoded for SmolLM2 by d90."""
    import pydoc_data.topics

    from d90.models import loading
    from d90.tasks import Task
    from d90.tasks.conversations import Conversation, Message
    from d90.tasks.kinds import Instruction, Language
    from d90.tasks.kinds.language import documents
    from d90.training.data import Data

    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    pieces = [text[i : i + 2000] for i in range(0, 2000 * (TEXTS + 1), 2000)]
    kind: Any = Language()
    if loss == "answers":
        kind = Instruction()
        turns = [(Message("user", piece[:240]), Message("assistant", piece[240:560])) for piece in pieces]
        pieces = [Conversation(pair).to_json() for pair in turns]
    rows: list[tuple[str, ...]] = [(piece,) for piece in pieces]
    task = Task("topics", kind, (), "loss", documents(rows[:TEXTS]), documents(rows[TEXTS:]))
    return Data(loading.load("smollm2", 0, kind, max_length=LENGTH), task)


def recipe_of(steps: int) -> Any:
    """Of a run of that many steps, looked at before the first and after the last."""
    from d90.training.recipe import Recipe

    return Recipe(
        "smollm2", "topics", lr=RATE, batch_size=BATCH, epochs=steps * BATCH / TEXTS, evaluations=1, precision="fp32"
    )


def batches_of_run(data: Any, recipe: Any, steps: int) -> list[dict[str, Any]]:
    """The batches of d90's run, as a plain loop takes them: labels of -100 where nothing counts."""
    from d90.training.schedule import batches_of

    found = []
    for chosen in batches_of(data.train, recipe, steps):
        batch = data.train.inputs(chosen)
        labels = batch["input_ids"].masked_fill(~batch["scored"], -100)
        found.append({"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels})
        assert labels.shape == (BATCH, LENGTH)
    return found


def peft_model(attention: str) -> Any:
    """SmolLM2 with peft's LoRA."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from d90.models.smollm2 import smollm2_folder

    module = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32, attn_implementation=attention)
    return get_peft_model(module, LoraConfig(r=R, lora_alpha=R, target_modules="all-linear", task_type="CAUSAL_LM"))


def plain_loop(batches: list[dict[str, Any]], attention: str) -> Callable[[], None]:
    """The loop that everyone writes."""
    import torch

    model = peft_model(attention).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=RATE, fused=True)

    def run() -> None:
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def trl_loop(batches: list[dict[str, Any]], folder: str) -> Callable[[], None]:
    """trl's trainer over the same token ids, without what it adds by default: no bf16, no gradient checkpointing, no logs."""
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from d90.models.smollm2 import smollm2_folder

    disable_progress_bars()
    rows = [
        {"input_ids": ids, "completion_mask": [int(label != -100) for label in labels]}
        for batch in batches
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
    ]
    options = SFTConfig(
        folder, per_device_train_batch_size=BATCH, max_steps=len(batches), learning_rate=RATE, max_length=LENGTH,
        completion_only_loss=True, train_sampling_strategy="sequential", use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", logging_strategy="no", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    trainer = SFTTrainer(peft_model("sdpa"), options, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    return lambda: trainer.train()


def d90_loop(loss: str, steps: int, method: str) -> Callable[[], None]:
    """d90's own."""
    from d90.training.loop import fit
    from d90.training.progress import Progress
    from d90.training.recipe import suited

    data = data_of(loss)
    spec = suited(method, data.task.kind)
    return lambda: fit(data, spec, recipe_of(steps), progress=Progress())


def run_loop(name: str, loss: str, threads: int, batches: list[dict[str, Any]], turns: Connection) -> None:
    """One loop: says what each of its steps took, and waits for its next turn."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        if name in PLAIN:
            run = plain_loop(batches, name.split(", ")[1])
        elif name.startswith("trl"):
            run = trl_loop(batches, folder)
        else:
            run = d90_loop(loss, len(batches), name.removeprefix("d90 "))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
        before, began = resident("VmRSS"), (time.perf_counter(), time.process_time())

        def at_end_of_step(*_: object) -> None:
            nonlocal began
            took = time.perf_counter() - began[0], time.process_time() - began[1]
            turns.send({"wall": took[0], "cpu": took[1], "peak": resident("VmHWM") - before})
            ctypes.CDLL(None).malloc_trim(0)  # while it waits, its memory is the others'
            turns.recv()
            began = time.perf_counter(), time.process_time()

        register_optimizer_step_post_hook(at_end_of_step)
        run()


# --- the process that compares them ------------------------------------------------------------------------------------


def compare(loss: str, rounds: int, threads: int) -> Iterator[list[dict[str, Any]]]:
    """A line for each loop, after each round."""
    batches = batches_of_run(data_of(loss), recipe_of(rounds + 4), rounds + 4)
    counted = statistics.fmean(int(batch["labels"][:, 1:].ne(-100).sum()) for batch in batches)
    context = multiprocessing.get_context("spawn")
    turns: dict[str, Connection] = {}
    workers = []
    try:
        for name in LOOPS:
            here, there = context.Pipe()
            worker = context.Process(target=run_loop, args=(name, loss, threads, batches, there), daemon=True)
            worker.start()
            there.close()
            workers.append(worker)
            turns[name] = here
            here.recv()  # its first step, which sets up what later ones use
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in LOOPS}
        order, draw = list(LOOPS), random.Random(0)
        for number in range(rounds + 1):
            draw.shuffle(order)
            for name in order:
                turns[name].send("go")
                found = turns[name].recv()
                if number:  # the first round warms up
                    taken[name].append(found)
            if number:
                yield [{**line, "counted": round(counted), "rounds": number} for line in lines_of(taken)]
    finally:
        for worker in workers:
            worker.kill()


def lines_of(taken: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians, and ratios to the best plain loop and to d90's LoRA of the same round."""

    def median(name: str, what: str = "wall") -> float:
        return statistics.median(one[what] for one in taken[name])

    def over(name: str, other: str, what: str = "wall") -> float:
        ratios = [a[what] / b[what] for a, b in zip(taken[name], taken[other], strict=True)]
        return round(statistics.median(ratios), 3)

    best, lora = min(PLAIN, key=median), LOOPS[-2]
    return [
        {
            "loop": name, "median_s": round(median(name), 3), "cpu_s": round(median(name, "cpu"), 3),
            "over_best_plain": over(name, best), "cpu_over_best_plain": over(name, best, "cpu"), "over_lora": over(name, lora),
            "cpu_over_lora": over(name, lora, "cpu"), "peak_mb": round(taken[name][-1]["peak"]),
        }
        for name in LOOPS
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--loss", nargs="+", choices=("all", "answers"), default=["all", "answers"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {"processor": processor(), "threads": arguments.threads}
    for loss in arguments.loss:
        lines: list[dict[str, Any]] = []
        for lines in compare(loss, arguments.rounds, arguments.threads):
            result |= {f"loss on {loss}": lines, f"load, {loss}": round(os.getloadavg()[0], 1)}
            arguments.output.write_text(json.dumps(beside(arguments.output, result), indent=1) + "\n")
        print(f"loss on {loss}, {lines[0]['counted']} tokens counted of {BATCH * LENGTH}")
        for line in lines:
            print(
                f"{line['loop']:24}{line['median_s']:>8} s{line['over_best_plain']:>8} x best plain{line['over_lora']:>8} x LoRA"
                f"{line['peak_mb']:>7} MB above the model",
                flush=True,
            )


if __name__ == "__main__":
    main()
