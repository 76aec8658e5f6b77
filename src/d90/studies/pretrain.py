"""pretrain(text, folder, layers=..., steps=...): a small masked language model of one's own, its checkpoints saved on a log schedule.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import Unpack

from d90.errors import InputError
from d90.files import write_text
from d90.options import PretrainOptions, with_options
from d90.options.pretrain import HEAD, SPECIAL_TOKENS, PretrainFields, schedule
from d90.training.device import best_device
from d90.training.progress import Progress
from d90.training.recipe import bf16_is_fast
from d90.training.showing import ProgressOption, listener, shows_progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

__all__ = ["folders", "losses", "pretrain"]

MASKED = 0.3
CHUNK = 1000  # texts that are tokenized at once


def folders(folder: str | os.PathLike[str], steps: int, checkpoints: int) -> dict[int, Path]:
    """{step: the folder its checkpoint gets}, the earliest first."""
    return {step: Path(folder) / f"step-{step:0{len(str(steps))}}" for step in schedule(steps, checkpoints)}


def losses(folder: str | os.PathLike[str]) -> list[tuple[int, float | None]]:
    """(step, masked loss on the validation text) of each checkpoint that is there; None where there was no such text."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("step-*/pretraining.json"))
    ]
    return [(record["step"], record["validation_loss"]) for record in found]


@with_options
@shows_progress
def pretrain(
    text: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    validation: str | os.PathLike[str] | None = None,
    *,
    options: PretrainOptions = PretrainOptions(),
    progress: ProgressOption = None,
    **fields: Unpack[PretrainFields],
) -> list[Path]:
    """Pretrain, or go on where an interrupted run was; a finished one is left as it is.

    Example:
        >>> small = d90.PretrainOptions(layers=1, width=32, vocabulary=300, length=16, batch_size=8)
        >>> [folder.name for folder in d90.pretrain(text, "run", options=small, steps=2, checkpoints=2)]
        ['step-0', 'step-2']

    Args:
        text: a file with one text a line, plain or gzipped.
        folder: gets a model folder for each checkpoint, `step-0016` and so on; what decides the run is kept in its
            `pretraining.json`.
        validation: another such file, whose masked loss (nats a masked token) is written into each checkpoint's `pretraining.json`.
        options: architecture, steps and what is kept.
        progress: receives the events; by default bars in a terminal, lines in a notebook; False silences it.
        fields: single fields of the options, as keywords.

    Returns:
        The checkpoints' folders, the earliest first.

    Raises:
        InputError: no text in the file, too little of it for one batch, an option that cannot be, or a folder that holds
            another run.
    """
    progress = listener(progress)
    out, source = Path(folder), str(text)
    keep = folders(out, options.steps, options.checkpoints)
    paths = list(keep.values())
    _claim(out, source, options)
    if all((path / "model.safetensors").exists() for path in paths):
        progress.note(f"{out}: finished before, {len(paths)} checkpoints")
        return paths
    tokenizer = _tokenizer(out, source, options)
    texts = _packed(source, tokenizer, options)
    held = None if validation is None else _packed(str(validation), tokenizer, options)[:512]
    masking = _Masking(tokenizer, options.seed)
    _train(options, texts, _Checkpoints(keep, tokenizer, masking, held, options.batch_size, progress), out / "resume")
    shutil.rmtree(out / "resume", ignore_errors=True)
    return paths


def _claim(out: Path, text: str, options: PretrainOptions) -> None:
    """Write what is run into the folder, or check that it is the same."""
    record = out / "pretraining.json"
    asked = {"text": text, **asdict(options)}
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))["recipe"]
        other = {key: (found.get(key), asked[key]) for key in asked if found.get(key) != asked[key]}
        if other:
            changed = ", ".join(f"{key} {was!r}, now {now!r}" for key, (was, now) in other.items())
            raise InputError(f"{out} holds another run ({changed}); expected the same options, or a new folder")
        return
    _check_text(text)
    out.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("d90", "torch", "transformers", "tokenizers")}
    write_text(record, json.dumps({"recipe": asked, "versions": versions}, indent=1) + "\n")


def _check_text(path: str) -> None:
    if not Path(path).is_file():
        raise InputError(f"text '{path}' is not a file; expected one text a line, plain or .gz")


def _lines(path: str, limit: int | None) -> Iterator[str]:
    """The lines that hold text."""
    _check_text(path)
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


def _tokenizer(out: Path, text: str, options: PretrainOptions) -> PreTrainedTokenizerBase:
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
            _lines(text, options.limit),
            trainers.BpeTrainer(
                vocab_size=options.vocabulary, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            ),
        )  # fmt: skip
        ids = [(mark, learned.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
        learned.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ids)
        learned.save(str(out / "tokenizer.json"))
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_file=str(out / "tokenizer.json"), model_max_length=options.length,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    return tokenizer


def _packed(text: str, tokenizer: PreTrainedTokenizerBase, options: PretrainOptions) -> torch.Tensor:
    """Texts one after another, cut to rows of [CLS] ... [SEP]: int32 of shape (texts, length)."""
    fast: Tokenizer = tokenizer.backend_tokenizer
    pieces: list[torch.Tensor] = []
    waiting: list[str] = []
    sep = torch.tensor([tokenizer.sep_token_id], dtype=torch.int32)

    def flush() -> None:
        for encoding in fast.encode_batch(waiting, add_special_tokens=False):
            pieces.extend((torch.tensor(encoding.ids, dtype=torch.int32), sep))
        waiting.clear()

    for line in _lines(text, options.limit):
        waiting.append(line)
        if len(waiting) == CHUNK:
            flush()
    flush()
    tokens = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.int32)
    inner = options.length - 2
    count = len(tokens) // inner
    if count < options.batch_size:
        raise InputError(
            f"'{text}' has {len(tokens):,} tokens, {count} texts of {inner}; expected at least {options.batch_size}, a batch"
        )
    rows = tokens[: count * inner].view(count, inner)
    first = torch.full((count, 1), int(tokenizer.cls_token_id or 0), dtype=torch.int32)
    return torch.cat((first, rows, sep.expand(count, 1)), 1)


class _Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of tokens."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index].long()}


class _Masking:
    """Masks a batch by random numbers of its own, seeded by what is in it.

    Batches are fetched ahead of the step that takes them: masks from torch's global numbers would not be the same ones in a run
    that was interrupted, nor beside an evaluation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        from transformers import DataCollatorForLanguageModeling

        self.seed, self.collate = seed, DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)

    def __call__(self, examples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        rows = torch.stack([example["input_ids"] for example in examples])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(rows.numpy().tobytes(), self.seed))
            batch: dict[str, torch.Tensor] = self.collate(examples)
        return batch


@dataclass(frozen=True)
class _Checkpoints:
    """Writes a model's folder at the steps of the schedule, with its masked loss on the validation text.

    Attributes:
        folders: by step.
        held: rows of the validation text, where there is one.
    """

    folders: Mapping[int, Path]
    tokenizer: PreTrainedTokenizerBase
    masking: _Masking
    held: torch.Tensor | None
    batch_size: int
    progress: Progress

    def save(self, model: PreTrainedModel, step: int) -> None:
        """Whole or not at all; nothing at a step of which nothing is kept."""
        if step not in self.folders:
            return
        path = self.folders[step]
        part = path.with_name(path.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part)
        self.tokenizer.save_pretrained(part)
        loss = None if self.held is None else _loss(model, self.masking, self.held, self.batch_size)
        write_text(part / "pretraining.json", json.dumps({"step": step, "validation_loss": loss}) + "\n")
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
        self.progress.note(f"step {step}: {path.name}" + (f", masked loss {loss:.3f}" if loss is not None else ""))


def _train(options: PretrainOptions, texts: torch.Tensor, checkpoints: _Checkpoints, resume: Path) -> None:
    """Train with `transformers.Trainer`, which also keeps what an interrupted run needs to go on, in the folder `resume`."""
    from transformers import Trainer, set_seed
    from transformers.trainer_callback import PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint

    set_seed(options.seed)
    model = _model(options, checkpoints.tokenizer)
    title = f"pretraining {options.layers} x {options.width} on {len(texts):,} texts"
    trainer = Trainer(
        model=model,
        args=_arguments(options, resume),
        train_dataset=_Rows(texts),
        data_collator=checkpoints.masking,
        callbacks=[_callback(model, checkpoints, title, options.steps)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(resume)) if resume.is_dir() else None)


def _model(options: PretrainOptions, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"[{name.upper()}]") for name in ("pad", "cls", "sep")}
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=options.width, num_hidden_layers=options.layers,
        num_attention_heads=options.width // HEAD, intermediate_size=2 * options.width, max_position_embeddings=options.length,
        global_attn_every_n_layers=1, classifier_pooling="mean", sparse_prediction=True,
        initializer_range=0.02 * (768 / options.width) ** 0.5,  # 0.02 is for a width of 768: W x keeps its size
        bos_token_id=ids["cls_token_id"], eos_token_id=ids["sep_token_id"], **ids,
    )  # fmt: skip
    return ModernBertForMaskedLM(config)


def _arguments(options: PretrainOptions, resume: Path) -> TrainingArguments:
    from transformers import TrainingArguments

    steps = options.steps
    return TrainingArguments(
        output_dir=str(resume), max_steps=steps, per_device_train_batch_size=options.batch_size, seed=options.seed,
        learning_rate=options.lr, warmup_steps=max(1, round(0.06 * steps)), lr_scheduler_type="linear", weight_decay=0.01,
        bf16=bf16_is_fast(best_device()), use_cpu=best_device() == "cpu", save_steps=max(1, steps // 16), save_total_limit=1,
        logging_steps=max(1, steps // 100), report_to=[], disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip


def _callback(model: PreTrainedModel, checkpoints: _Checkpoints, title: str, steps: int) -> TrainerCallback:
    """Saves checkpoints, and tells of the steps between them."""
    from transformers import TrainerCallback

    class Keep(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            checkpoints.progress.trial_started(title, steps)
            if state.global_step == 0:
                checkpoints.save(model, 0)

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            checkpoints.save(model, state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if logs and "loss" in logs:
                checkpoints.progress.trial_step(state.global_step, float(logs["loss"]))

    return Keep()


def _loss(model: PreTrainedModel, masking: _Masking, held: torch.Tensor, batch_size: int) -> float:
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
