"""pretrain(text, folder): a small masked language model of one's own, its checkpoints saved on a log schedule.

The run that `d90.trajectory` measures (Aghajanyan et al. 2021, section 4.2): ModernBERT's architecture (Warner et al. 2024) at a
few layers, byte-level BPE learned on the same text, 30 % of the tokens masked (Wettig et al. 2023). Tokenizer, model, masking and
loop are those of `tokenizers` and `transformers`; this file decides what is kept, and when.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from d90.errors import InputError
from d90.files import write_text
from d90.training.device import best_device
from d90.training.progress import Progress
from d90.training.recipe import bf16_is_fast

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = ["Pretraining", "folders", "losses", "pretrain", "schedule"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MASKED = 0.3
HEAD = 32  # width of an attention head
CHUNK = 1000  # texts that are tokenized at once


@dataclass(frozen=True)
class Pretraining:
    """What decides a pretraining run.

    Example:
        >>> d90.Pretraining("text.txt", layers=2).steps
        2048

    Attributes:
        text: a file of lines, plain or gzipped.
        layers, width: blocks and hidden size; a head for every 32 of width, a gated inner layer of 2 widths.
        vocabulary: entries of the tokenizer.
        length: tokens in a training text, and the most the model will take.
        batch_size, steps: texts in a step, and optimizer steps.
        lr: AdamW's peak rate, after a warm-up over 6 % of the steps; it falls linearly to zero.
        checkpoints: how many are kept, step 0 included.
        seed: of weights, order and masks.
        limit: use the first `limit` lines.
    """

    text: str
    layers: int = 4
    width: int = 256
    vocabulary: int = 8192
    length: int = 128
    batch_size: int = 64
    steps: int = 2048
    lr: float = 2e-3
    checkpoints: int = 8
    seed: int = 0
    limit: int | None = None

    def check(self) -> None:
        """Refuse impossible values.

        Raises:
            InputError: which one, and what was expected.
        """
        if self.width % HEAD or self.width < HEAD:
            raise InputError(f"got width={self.width}, expected a multiple of {HEAD}: a head takes {HEAD}")
        for name, low in (
            ("layers", 1),
            ("length", 3),
            ("batch_size", 1),
            ("steps", 1),
            ("vocabulary", 256 + len(SPECIAL)),
        ):
            if getattr(self, name) < low:
                raise InputError(f"got {name}={getattr(self, name)}, expected at least {low}")
        schedule(self.steps, self.checkpoints)


def schedule(steps: int, checkpoints: int) -> list[int]:
    """0 and the last step, and between them steps / 2^k: pretraining moves on the scale of log(step).

    Raises:
        InputError: fewer than two checkpoints, or more than there are halvings.
    """
    if checkpoints < 2 or steps >> (checkpoints - 2) < 1:
        raise InputError(
            f"got {checkpoints} checkpoints of {steps} steps, expected between 2 and {steps.bit_length() + 1}: "
            "each is at half the step of the next"
        )
    return [0, *(steps >> k for k in range(checkpoints - 2, -1, -1))]


def folders(folder: str | os.PathLike[str], steps: int, checkpoints: int) -> dict[int, Path]:
    """{step: the folder its checkpoint gets}, the earliest first."""
    return {step: Path(folder) / f"step-{step:0{len(str(steps))}}" for step in schedule(steps, checkpoints)}


def losses(folder: str | os.PathLike[str]) -> list[tuple[int, float | None]]:
    """(step, masked loss on the validation text) of each checkpoint that is there; None where there was no such text."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("step-*/pretraining.json"))
    ]
    return [(record["step"], record["validation_loss"]) for record in found]


def pretrain(
    wanted: Pretraining, folder: str | os.PathLike[str], validation: str | None = None, progress: Progress | None = None
) -> list[Path]:
    """Pretrain, or go on where an interrupted run was; a finished one is left as it is.

    Example:
        >>> wanted = d90.Pretraining(text, layers=1, width=32, vocabulary=300, length=16, batch_size=8, steps=2, checkpoints=2)
        >>> [folder.name for folder in d90.pretrain(wanted, "run")]
        ['step-0', 'step-2']

    Args:
        wanted: what decides the run; kept in `folder/pretraining.json`.
        folder: gets a model folder for each checkpoint, `step-0016` and so on.
        validation: a file of lines whose masked loss is written into each checkpoint's `pretraining.json`.
        progress: is told what happens.

    Returns:
        The checkpoints' folders, the earliest first.

    Raises:
        InputError: no text in the file, too little of it for one batch, a width that is not a multiple of 32, or a folder that
            holds another run.
    """
    progress = progress or Progress()
    wanted.check()
    out = Path(folder)
    keep = folders(out, wanted.steps, wanted.checkpoints)
    paths = list(keep.values())
    _claim(out, wanted)
    if all((path / "model.safetensors").exists() for path in paths):
        progress.note(f"{out}: finished before, {len(paths)} checkpoints")
        return paths
    tokenizer = _tokenizer(out, wanted)
    texts = _packed(_lines(wanted.text, wanted.limit), tokenizer, wanted)
    held = None
    if validation is not None:
        held = _packed(_lines(validation, wanted.limit), tokenizer, replace(wanted, text=validation))[:512]
    _run(wanted, keep, out / "resume", tokenizer, texts, held, progress)
    shutil.rmtree(out / "resume", ignore_errors=True)
    return paths


def _claim(out: Path, wanted: Pretraining) -> None:
    """Write what is run into the folder, or check that it is the same."""
    record = out / "pretraining.json"
    asked = asdict(wanted)
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))["recipe"]
        other = {key: (found.get(key), asked[key]) for key in asked if found.get(key) != asked[key]}
        if other:
            changed = ", ".join(f"{key} {was!r}, now {now!r}" for key, (was, now) in other.items())
            raise InputError(f"{out} holds another run ({changed}); expected the same options, or a new folder")
        return
    if not Path(wanted.text).is_file():
        raise InputError(f"text '{wanted.text}' is not a file; expected one text a line, plain or .gz")
    out.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("d90", "torch", "transformers", "tokenizers")}
    write_text(record, json.dumps({"recipe": asked, "versions": versions}, indent=1) + "\n")


def _lines(path: str, limit: int | None) -> Iterator[str]:
    """The lines that hold text."""
    if not Path(path).is_file():
        raise InputError(f"text '{path}' is not a file; expected one text a line, plain or .gz")
    open_text = gzip.open if path.endswith(".gz") else open
    taken = 0
    with open_text(path, "rt", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            text = line.strip()
            if text:
                yield text
                taken += 1
                if taken == limit:
                    return


def _tokenizer(out: Path, wanted: Pretraining) -> PreTrainedTokenizerBase:
    """Byte-level BPE in lower case, learned on the text; read back where a run goes on.

    Not WordPiece: its training numbers the pieces in the order of a hash table, differently in each process.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if not (out / "tokenizer.json").exists():
        learned = Tokenizer(models.BPE())
        learned.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        learned.decoder = decoders.ByteLevel()
        learned.train_from_iterator(
            _lines(wanted.text, wanted.limit),
            trainers.BpeTrainer(
                vocab_size=wanted.vocabulary, special_tokens=list(SPECIAL), show_progress=False,
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            ),
        )  # fmt: skip
        ids = [(mark, learned.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
        learned.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ids)
        learned.save(str(out / "tokenizer.json"))
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_file=str(out / "tokenizer.json"), model_max_length=wanted.length,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    return tokenizer


def _packed(lines: Iterator[str], tokenizer: PreTrainedTokenizerBase, wanted: Pretraining) -> torch.Tensor:
    """Texts one after another, cut to rows of [CLS] ... [SEP]: int32 of shape (texts, length)."""
    fast: Tokenizer = tokenizer.backend_tokenizer
    pieces: list[torch.Tensor] = []
    waiting: list[str] = []
    sep = torch.tensor([tokenizer.sep_token_id], dtype=torch.int32)

    def flush() -> None:
        for encoding in fast.encode_batch(waiting, add_special_tokens=False):
            pieces.extend((torch.tensor(encoding.ids, dtype=torch.int32), sep))
        waiting.clear()

    for line in lines:
        waiting.append(line)
        if len(waiting) == CHUNK:
            flush()
    flush()
    tokens = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.int32)
    inner = wanted.length - 2
    count = len(tokens) // inner
    if count < wanted.batch_size:
        raise InputError(
            f"'{wanted.text}' has {len(tokens):,} tokens, {count} texts of {inner}; expected at least {wanted.batch_size}, a batch"
        )
    rows = tokens[: count * inner].view(count, inner)
    first = torch.full((count, 1), int(tokenizer.cls_token_id or 0), dtype=torch.int32)
    return torch.cat((first, rows, sep.expand(count, 1)), 1)


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of tokens."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.rows[index].long()}


class _Masking:
    """Masks a batch by random numbers of its own, seeded by what is in it.

    Batches are fetched ahead of the step that takes them: masks from torch's global numbers would not be the same ones in a run
    that was interrupted, nor beside an evaluation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        from transformers import DataCollatorForLanguageModeling

        self.seed, self.collate = seed, DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = torch.stack([example["input_ids"] for example in examples])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(rows.numpy().tobytes(), self.seed))
            batch: dict[str, torch.Tensor] = self.collate(examples)
        return batch


def _run(
    wanted: Pretraining, keep: dict[int, Path], resume: Path, tokenizer: PreTrainedTokenizerBase, texts: torch.Tensor,
    held: torch.Tensor | None, progress: Progress,
) -> None:  # fmt: skip
    """Train with `transformers.Trainer`, which also keeps what an interrupted run needs to go on."""
    from transformers import (
        ModernBertConfig,
        ModernBertForMaskedLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )
    from transformers.trainer_utils import get_last_checkpoint

    set_seed(wanted.seed)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"[{name.upper()}]") for name in ("pad", "cls", "sep")}
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=wanted.width, num_hidden_layers=wanted.layers,
        num_attention_heads=wanted.width // HEAD, intermediate_size=2 * wanted.width, max_position_embeddings=wanted.length,
        global_attn_every_n_layers=1, classifier_pooling="mean", sparse_prediction=True,
        initializer_range=0.02 * (768 / wanted.width) ** 0.5,  # 0.02 is for a width of 768: W x keeps its size
        bos_token_id=ids["cls_token_id"], eos_token_id=ids["sep_token_id"], **ids,
    )  # fmt: skip
    model = ModernBertForMaskedLM(config)
    masking = _Masking(tokenizer, wanted.seed)

    class Keep(TrainerCallback):
        """Writes a checkpoint's folder at the steps of the schedule."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            progress.trial_started(
                f"pretraining {wanted.layers} x {wanted.width} on {len(texts):,} texts", wanted.steps
            )
            if state.global_step == 0:
                self.save(0)

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step in keep:
                self.save(state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if logs and "loss" in logs:
                progress.trial_step(state.global_step, float(logs["loss"]))

        def save(self, step: int) -> None:
            path = keep[step]
            part = path.with_name(path.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            loss = None if held is None else _loss(model, masking, held, wanted.batch_size)
            write_text(part / "pretraining.json", json.dumps({"step": step, "validation_loss": loss}) + "\n")
            shutil.rmtree(path, ignore_errors=True)
            part.rename(path)
            progress.note(f"step {step}: {path.name}" + (f", masked loss {loss:.3f}" if loss is not None else ""))

    steps = wanted.steps
    arguments = TrainingArguments(
        output_dir=str(resume), max_steps=steps, per_device_train_batch_size=wanted.batch_size, seed=wanted.seed,
        learning_rate=wanted.lr, warmup_steps=max(1, round(0.06 * steps)), lr_scheduler_type="linear", weight_decay=0.01,
        bf16=bf16_is_fast(best_device()), use_cpu=best_device() == "cpu", save_steps=max(1, steps // 16), save_total_limit=1,
        logging_steps=max(1, steps // 100), report_to=[], disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=_Rows(texts), data_collator=masking, callbacks=[Keep()]
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(resume)) if resume.is_dir() else None)


def _loss(model: Any, masking: _Masking, held: torch.Tensor, batch_size: int) -> float:
    """Mean loss of the masked tokens, the same masks for every checkpoint."""
    training = model.training
    model.eval()
    losses = []
    with torch.no_grad():
        for rows in held.split(batch_size):
            batch = masking([{"input_ids": row.long()} for row in rows])
            losses.append(float(model(**{key: value.to(model.device) for key, value in batch.items()}).loss))
    model.train(training)
    return sum(losses) / len(losses)
