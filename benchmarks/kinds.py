"""Data and base models for the studies of kinds of task in docs/results/kinds.md.

    python benchmarks/kinds.py images DATA OUT    # MNIST as PNG: OUT/base (a ViT of 0.2 million weights trained on it), OUT/corrupted
    python benchmarks/kinds.py e2e DATA OUT       # OUT/base (a T5 of 0.8 million weights trained on one half of the attributes), OUT/rest
    python benchmarks/kinds.py qqp DATA OUT       # OUT/pairs: equal questions, 2,000 of them to be found among as many

DATA holds mnist/ (idx files), e2e/ and qqp/ (jsonl.gz). The commands that then measure stand in the page.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

import d90
from d90.integrations.merge import merge
from d90.tasks.images import read_idx

FIRST = {"name", "food", "priceRange", "customer rating", "familyFriendly"}  # of E2E's attributes: the base knows these


def rows(data: Path, part: str) -> list[dict[str, Any]]:
    with gzip.open(data / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(folder: Path, part: str, found: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def base(start: Path, task: Path, out: Path, **options: Any) -> None:
    """Train all weights of a model on a task, and leave it as a folder."""
    run = d90.train(str(start), str(task), "full", evaluations=2, precision="fp32", **options)
    print(
        f"base: {run.task.metric} {run.score:.4f} after {run.outcome.steps} steps, {run.outcome.seconds:.0f} s",
        flush=True,
    )
    run.save(out.with_suffix(".d90"))
    run.release()
    merge(out.with_suffix(".d90"), out)


def images(data: Path, out: Path) -> None:
    import transformers as t
    from PIL import Image

    for part, prefix, count, skip in (("train", "train", 6000, 0), ("validation", "t10k", 1000, 0)):
        pixels = read_idx(data / "mnist" / f"{prefix}-images-idx3-ubyte.gz", 3)
        labels = read_idx(data / "mnist" / f"{prefix}-labels-idx1-ubyte.gz", 1).tolist()
        generator = torch.Generator().manual_seed(len(pixels))
        for i in range(skip, skip + 2 * count):
            image, corrupted = pixels[i].float(), i >= count
            if corrupted:  # on its side, white on black turned round, half the contrast, noise
                image = 60 + (255 - image.rot90()) / 2 + 25 * torch.randn(image.shape, generator=generator)
            where = out / ("corrupted" if corrupted else "plain") / part / str(labels[i])
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.clamp(0, 255).to(torch.uint8).numpy()).save(where / f"{i}.png")
    torch.manual_seed(0)
    config = t.ViTConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, image_size=28, patch_size=7, num_labels=10,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    t.ViTForImageClassification(config).save_pretrained(out / "start")
    settings = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 28, "width": 28}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
    }  # fmt: skip
    (out / "start" / "preprocessor_config.json").write_text(json.dumps(settings))
    base(out / "start", out / "plain", out / "base", epochs=12, batch_size=64, lr=1e-3)


def e2e(data: Path, out: Path) -> None:
    import transformers as t
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    texts = []
    for part in ("train", "validation"):
        found = [{"source": row["mr"], "target": row["ref"]} for row in rows(data / "e2e", part)]
        texts += [text for row in found for text in row.values()] if part == "train" else []
        known = [row for row in found if set(re.findall(r"([A-Za-z ]+)\[", row["source"].replace(", ", ","))) <= FIRST]
        mine = {row["source"] for row in known}
        write(out / "first", part, known)
        write(out / "rest", part, [row for row in found if row["source"] not in mine])
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    marks = ["<pad>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=1200, special_tokens=marks, show_progress=False, initial_alphabet=alphabet),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )
    torch.manual_seed(0)
    config = t.T5Config(
        vocab_size=1200, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_decoder_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    t.T5ForConditionalGeneration(config).save_pretrained(out / "start")
    fast.save_pretrained(out / "start")
    base(
        out / "start",
        out / "first",
        out / "base",
        epochs=4,
        batch_size=32,
        lr=3e-3,
        max_length=96,
        validation_limit=300,
    )


def qqp(data: Path, out: Path) -> None:
    seen: set[str] = set()
    pairs = []
    for row in (row for part in ("train", "validation", "test") for row in rows(data / "qqp", part)):
        # a question stands once in all splits: else its pair would be found at another place, or had been trained on
        if row["label"] == 1 and row["q1"] not in seen and row["q2"] not in seen:
            seen |= {row["q1"], row["q2"]}
            pairs.append({"anchor": row["text_a"], "positive": row["text_b"]})
    for part, found in (("train", pairs[:4000]), ("validation", pairs[-2000:])):
        write(out / "pairs", part, found)
        print(f"{part}: {len(found):,} pairs", flush=True)


if __name__ == "__main__":
    what, data, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    {"images": images, "e2e": e2e, "qqp": qqp}[what](data, out)
