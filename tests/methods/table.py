"""One table of methods on models, for the contract that every method keeps. A new method joins by a line a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from d90.methods import Context
from tests.reference.models import Normed

VOCABULARY = 50
INPUTS = torch.randint(1, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0], [1] * 7])
LABELS = torch.tensor([0, 1, 2, 1])


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(vocab_size=VOCABULARY, num_labels=3, max_position_embeddings=24, **sizes)
    )
    return biased(model)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForSequenceClassification(
        LlamaConfig(vocab_size=VOCABULARY, num_labels=3, pad_token_id=0, num_key_value_heads=1, **sizes)
    )


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    torch.manual_seed(0)
    return biased(GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **sizes)))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Normed()


def biased(model: nn.Module) -> nn.Module:
    """Biases that are not all zero, as a pretrained model's are."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.05)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {"bert": bert, "llama": llama, "gpt2": gpt2, "plain": plain}

Chosen = Callable[[str], bool]


@dataclass(frozen=True)
class Row:
    """A method on a model: what moves, by names (None: told apart by the contract alone), or the error that it is."""

    method: str
    model: str
    moves: Chosen | None = None
    error: str = ""


ROWS = [
    *(Row("full", model, lambda name: True) for model in MODELS),
    Row("top:n=1", "bert", lambda name: name.startswith(("bert.encoder.layer.1.", "bert.pooler.", "classifier."))),
    Row("top", "bert", lambda name: not name.startswith("bert.embeddings.")),
    Row("top", "llama", lambda name: name.startswith(("model.layers.1.", "model.layers.2.", "model.norm.", "score."))),
    Row("top:n=1", "gpt2", lambda name: name.startswith(("transformer.h.1.", "transformer.ln_f."))),
    Row("top:n=1", "plain", error="looked for a ModuleList of blocks and this model has none"),
    Row("top:n=4", "llama", error=r"n=4, expected 1 \.\.\. 3, the blocks this model has \(block \(members of model.l"),
    Row("top:n=0", "bert", error=r"got n=0, expected 1 \.\.\. 2"),
    Row("bitfit", "bert", lambda name: name.endswith(".bias") or name.startswith("classifier.")),
    Row("bitfit", "gpt2", lambda name: name.endswith(".bias")),
    Row("bitfit", "plain", lambda name: name.endswith(".bias") or name.startswith("classifier.")),
    Row("bitfit", "llama", error="looked for parameters called 'bias' and this model has none.*it has weight"),
    Row("lora:r=2", "bert", lambda name: "lora_" in name or name.startswith("classifier.")),
    Row("lora:r=3,alpha=6,targets=qkvo/mlp,init=paper", "llama", lambda name: "lora_" in name or "score" in name),
    Row("lora:targets=qkv", "gpt2", lambda name: "lora_" in name),
    Row("lora:targets=q", "gpt2", error="'q' is ambiguous"),
    Row("lora:r=17", "bert", error=r"got r=17, but '.*query' has 16 inputs.*r of at most 16"),
    Row("lora", "plain", error="looked for the blocks of a transformer"),
    Row("peft:type=loha,r=2", "bert", lambda name: "hada_" in name or name.startswith("classifier.")),
    Row("peft:type=ia3,targets=qkv/mlp", "gpt2", lambda name: "ia3" in name),
    Row("peft:type=lora,r=2,use_dora=true", "llama", lambda name: "lora_" in name or "score" in name),
    Row("peft", "plain", error="looked for the blocks of a transformer"),
    Row("pafi:fraction=0.2", "bert", lambda name: name.endswith("0.values") or name.startswith("classifier.")),
    Row("sparse:k=40,per=tensor", "gpt2", lambda name: name.endswith("0.values")),
    Row("sparse:mask=fisher,k=60", "llama", lambda name: name.endswith("0.values") or "score" in name),
    Row("sparse:mask=change,fraction=0.1", "bert", lambda name: name.endswith("0.values") or "classifier" in name),
    Row("sparse:mask=fisher-least,fraction=0.7", "gpt2", lambda name: name.endswith("0.values")),
    Row("pafi", "gpt2", lambda name: name.endswith("0.values")),
    Row("pafi:fraction=0.1,per=tensor", "llama", lambda name: name.endswith("0.values") or "score" in name),
    Row("pafi:k=50", "plain", lambda name: name.endswith("0.values") or name.startswith("classifier.")),
    Row("sparse:mask=random,k=30", "plain", lambda name: name.endswith("0.values") or "classifier" in name),
    Row("pafi:k=99999999", "bert", error=r"got k=99999999, expected 1 \.\.\. \d+, the weights a mask may choose"),
    Row("hiwi:r=4", "bert", lambda name: ".parametrizations.bias.0" in name or name.startswith("classifier.")),
    Row("hiwi:on=weight,r=2,nonlinearity=relu", "llama", lambda name: ".weight.0." in name or "score" in name),
    Row("hiwi:r=3,targets=all,nonlinearity=none", "gpt2", lambda name: ".parametrizations.bias.0" in name),
    Row(
        "hiwi", "llama", error="looked for parameters called 'bias' in the 9 matrices of targets=mlp, and none has one"
    ),
    Row("hiwi", "plain", error="looked for the blocks of a transformer"),
    Row("pafi:fraction=0.5+lora", "bert", error="both change"),
    Row("hiwi+lora:r=2", "bert", lambda name: ".bias.0." in name or "lora_" in name or name.startswith("classifier.")),
    Row("adapter:r=3", "bert", lambda name: "_adapter." in name or name.startswith("classifier.")),
    Row("adapter:kind=lin,r=4", "gpt2", lambda name: ".mlp.c_proj_adapter." in name),
    Row(
        "adapter:kind=pfeiffer,reduction=4,nonlinearity=tanh",
        "llama",
        lambda name: "adapter" in name or "score" in name,
    ),
    Row("adapter:r=17", "bert", error=r"got r=17, but the sublayers .* give 16 numbers.*expected r of 1 \.\.\. 16"),
    Row("adapter:reduction=17", "llama", error="got reduction=17, but the sublayers"),
    Row("adapter", "plain", error="looked for the blocks of a transformer"),
    Row(
        "lora:r=2,targets=qkvo+adapter:r=2",
        "bert",
        lambda name: "lora_" in name or "adapter" in name or "classifier." in name,
    ),
    Row("preembed:prefix=2,infix=2", "bert", lambda name: name == "bert.preembed.vectors" or "classifier" in name),
    Row("preembed:prefix=3,infix=1", "gpt2", lambda name: name == "transformer.preembed.vectors"),
    Row("preembed:prefix=0,infix=2", "llama", lambda name: name == "model.preembed.vectors" or "score" in name),
    Row("preembed:prefix=20,infix=4", "bert", error=r"got 24 trained positions, and the model takes 24 in all"),
    Row("preembed", "plain", error="looked for a transformer of Hugging Face.*has Normed, Sequential, Linear"),
    Row("prelayer:prefix=2,infix=1", "bert", lambda name: "prelayer.vectors" in name or "classifier" in name),
    Row("prelayer:prefix=2", "gpt2", lambda name: "prelayer.vectors" in name),
    Row("prelayer:prefix=1,infix=2", "llama", lambda name: "prelayer.vectors" in name or "score" in name),
    Row("prelayer:prefix=24", "gpt2", error=r"got 24 trained positions, and the model takes 24 in all"),
    Row("prelayer", "plain", error="looked for a transformer of Hugging Face.*has Normed, Sequential, Linear"),
    Row("lora:r=2+preembed:prefix=3", "llama", lambda name: "lora_" in name or "preembed" in name or "score" in name),
    Row("prelayer:prefix=2+lora:r=2,targets=all", "gpt2", lambda name: "lora_" in name or "prelayer" in name),
    Row("preembed+prelayer", "bert", error="would lengthen texts that another method lengthens"),
    Row("lora:r=2+bitfit", "bert", lambda name: "lora_" in name or "classifier." in name or name.endswith("bias")),
    Row("lora:r=2+top", "bert", error="both change 'bert.encoder.layer.0.attention.self.query.weight'"),
    Row("full+bitfit", "bert", error="'full' and 'bitfit' both change 'bert.embeddings.LayerNorm.bias'"),
    Row("top+full", "gpt2", error="'top:n=2' and 'full' both change 'transformer.h.0.ln_1.weight'"),
]
APPLY = [row for row in ROWS if not row.error]
SPACES = [
    "",
    "@d=18",
    "@d=18,structure=said,layer=block",
    "@d=18,projection=onehot,head=outside,scale=relative,seed=5",
]


def loss_of(model: nn.Module) -> Tensor:
    if isinstance(model, Normed):
        return nn.functional.cross_entropy(model(torch.linspace(-2, 2, 24).reshape(4, 6)), LABELS)
    labels = INPUTS.masked_fill(MASK == 0, -100) if "LMHead" in type(model).__name__ else LABELS
    return model(input_ids=INPUTS, attention_mask=MASK, labels=labels).loss


def outputs_of(model: nn.Module) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        x = torch.linspace(-1, 1, 12).reshape(2, 6)
        out = model(x) if isinstance(model, Normed) else model(input_ids=INPUTS, attention_mask=MASK).logits
    for module, mode in modes:
        module.training = mode
    return out


def checkpoint_layers(model: Any) -> None:
    """Activation checkpointing in the library's sense; older ones call it otherwise, and default to reentrant."""
    kwargs = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(kwargs)
    else:
        model.gradient_checkpointing_enable(kwargs)


def context(model: nn.Module) -> Context:
    """What a training run would give a method that looks at the data."""

    def losses(count: int) -> Iterator[Tensor]:
        for _ in range(count):
            yield loss_of(model)

    def fine_tune() -> None:
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
        optimizer.zero_grad()

    return Context(seed=3, losses=losses, fine_tune=fine_tune)
