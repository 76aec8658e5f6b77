"""Methods: over one table of methods and models, what moves, what is saved, and what is given back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from d90 import tune
from d90.errors import InputError
from d90.methods import METHODS, Direct, Space, Spec, Trainable, give_back, parse, put_back, snapshot
from d90.subspace import STRUCTURES, Subspace
from tests.reference.models import Normed

VOCABULARY = 50
INPUTS = torch.randint(1, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, num_labels=3, **sizes))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForSequenceClassification(
        LlamaConfig(vocab_size=VOCABULARY, num_labels=3, pad_token_id=0, num_key_value_heads=1, **sizes)
    )


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 2}
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **sizes))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Normed()


MODELS: dict[str, Callable[[], nn.Module]] = {"bert": bert, "llama": llama, "gpt2": gpt2, "plain": plain}

# What each method moves, written down by the names' beginnings or ends; a text is the error where it cannot apply.
Chosen = Callable[[str], bool]
TABLE: dict[tuple[str, str], Chosen | str] = {
    **{("full", model): lambda name: True for model in MODELS},
    ("top:n=1", "bert"): lambda name: name.startswith(("bert.encoder.layer.1.", "bert.pooler.", "classifier.")),
    ("top", "bert"): lambda name: not name.startswith("bert.embeddings."),
    ("top:n=2", "llama"): lambda name: name.startswith(("model.layers.1.", "model.layers.2.", "model.norm.", "score.")),
    ("top:n=1", "gpt2"): lambda name: name.startswith(("transformer.h.1.", "transformer.ln_f.")),
    ("top:n=1", "plain"): "looked for a ModuleList of blocks and this model has none",
    (
        "top:n=4",
        "llama",
    ): r"got n=4, expected 1 \.\.\. 3, the blocks this model has \(block \(members of model.layers\)\)",
    ("top:n=0", "bert"): r"got n=0, expected 1 \.\.\. 2",
    ("bitfit", "bert"): lambda name: name.endswith(".bias") or name.startswith("classifier."),
    ("bitfit", "gpt2"): lambda name: name.endswith(".bias"),
    ("bitfit", "plain"): lambda name: name.endswith(".bias") or name.startswith("classifier."),
    ("bitfit", "llama"): "looked for parameters called 'bias' and this model has none.*it has weight",
}
APPLY = [(method, model) for (method, model), chosen in TABLE.items() if not isinstance(chosen, str)]
SPACES = [
    "",
    "@d=18",
    "@d=18,structure=said,layer=block",
    "@d=18,projection=onehot,head=outside,scale=relative,seed=5",
]


def loss_of(model: nn.Module) -> Tensor:
    if isinstance(model, Normed):
        return nn.functional.cross_entropy(model(torch.linspace(-2, 2, 24).reshape(4, 6)), LABELS)
    labels = INPUTS if "LMHead" in type(model).__name__ else LABELS
    return model(input_ids=INPUTS, labels=labels).loss


def outputs_of(model: nn.Module) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        x = torch.linspace(-1, 1, 12).reshape(2, 6)
        out = model(x) if isinstance(model, Normed) else model(input_ids=INPUTS).logits
    for module, mode in modes:
        module.training = mode
    return out


def lay(spec: Spec, model: nn.Module) -> Trainable:
    return spec.space.lay(model, 3) if spec.space else Direct(model)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def train(spec: Spec, trained: Trainable, steps: int = 12) -> list[float]:
    optimizer = torch.optim.Adam(list(trained.parameters()), lr=0.01)
    losses = []
    trained.model.eval()  # no dropout; BatchNorm's statistics move in the test that is about them
    for _ in range(steps):
        loss = loss_of(trained.model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    trained.flush()
    return losses


# --- what moves -------------------------------------------------------------------------------------------------------


def test_the_table_has_every_method_on_every_model() -> None:
    assert {(method.partition(":")[0], model) for method, model in TABLE} == {(m, n) for m in METHODS for n in MODELS}


@pytest.mark.parametrize(("method", "model"), TABLE)
def test_select_chooses_and_gives_the_flags_back(method: str, model: str) -> None:
    module, chosen = MODELS[model](), TABLE[method, model]
    frozen = next(name for name, _ in reversed(list(module.named_parameters())) if "weight" in name)
    module.get_parameter(frozen).requires_grad_(False)  # what the user froze stays frozen
    before = {name: p.requires_grad for name, p in module.named_parameters()}
    weights = values(module)
    if isinstance(chosen, str):
        with pytest.raises(InputError, match=chosen):
            parse(method).method.select(module)
        assert before == {name: p.requires_grad for name, p in module.named_parameters()}
        return
    flags = parse(method).method.select(module)
    assert flags == before
    moved = {name for name, p in module.named_parameters() if p.requires_grad}
    assert moved == {name for name in before if chosen(name) and name != frozen}
    give_back(module, flags)
    assert before == {name: p.requires_grad for name, p in module.named_parameters()}
    assert all(torch.equal(weights[name], tensor) for name, tensor in module.state_dict().items())


def test_a_method_that_moves_only_frozen_weights_is_refused() -> None:
    for name in METHODS:
        module = bert().requires_grad_(False)
        with pytest.raises(InputError, match=rf"method '{name}.*' moves nothing.*requires_grad=False"):
            parse(name).method.select(module)


# --- training, files, release -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("method", "model"), APPLY)
def test_a_method_from_start_to_release(method: str, model: str, space: str, tmp_path: Path) -> None:
    module, spec = MODELS[model](), parse(method + space)
    untouched, outputs = values(module), outputs_of(module)
    flags = spec.method.select(module)
    moved = {name for name, p in module.named_parameters() if p.requires_grad}
    trained = lay(spec, module)
    assert torch.equal(outputs_of(module), outputs)

    losses = train(spec, trained)
    assert losses[-1] < losses[0]
    tuned, weights = outputs_of(module), values(module)
    assert not torch.equal(tuned, outputs)
    names = dict(module.named_parameters())
    assert all(torch.equal(untouched[name], p) for name, p in names.items() if name not in moved)
    assert sum(not torch.equal(untouched[name], names[name]) for name in moved) > 0.9 * len(moved)
    if isinstance(trained, Subspace):
        numbers = [p.numel() for p in trained.parameters()]
        assert numbers[0] == 18

    trained.save(tmp_path / "t.d90", "r")
    header, tensors = tune.read(tmp_path / "t.d90")
    assert sum(t.numel() for name, t in tensors.items() if not name.startswith("buffer:")) == sum(
        p.numel() for p in trained.parameters()
    )
    assert header.structure in (("direct",) if not space else STRUCTURES)

    trained.release()
    give_back(module, flags)
    assert all(torch.equal(untouched[name], tensor) for name, tensor in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert all(p.requires_grad for p in module.parameters())

    fresh = MODELS[model]()
    spec.method.select(fresh)
    if space:
        Subspace.load(tmp_path / "t.d90", fresh)
    else:
        Direct(fresh).restore(tmp_path / "t.d90")
    assert all(torch.equal(weights[name], tensor) for name, tensor in fresh.state_dict().items())
    assert torch.equal(outputs_of(fresh), tuned)


def test_direct_gives_back_gradients_and_running_statistics() -> None:
    module = plain()
    loss_of(module).backward()
    grad = module.classifier.weight.grad
    assert grad is not None
    value, untouched = grad.clone(), values(module)
    direct = Direct(module)
    assert module.classifier.weight.grad is None
    module.train()
    optimizer = torch.optim.SGD(direct.parameters(), lr=0.1)
    loss_of(module).backward()
    optimizer.step()
    assert not torch.equal(module.body[1].running_mean, untouched["body.1.running_mean"])
    assert direct.release() is module
    assert module.classifier.weight.grad is grad
    assert torch.equal(grad, value)
    assert all(torch.equal(untouched[name], tensor) for name, tensor in module.state_dict().items())
    assert sum(p.numel() for p in module.parameters()) == direct.D


@pytest.mark.parametrize("space", ["", "@d=20", "@d=20,head=outside"])
def test_a_snapshot_can_be_put_back(space: str) -> None:
    module = plain()
    trained = lay(parse("full" + space), module)

    def step(lr: float) -> None:
        module.train()
        optimizer = torch.optim.SGD(list(trained.parameters()), lr=lr)
        optimizer.zero_grad()
        loss_of(module).backward()
        optimizer.step()
        trained.flush()

    step(0.1)
    best, saved = values(module), snapshot(trained)
    step(0.5)
    assert not torch.equal(values(module)["classifier.weight"], best["classifier.weight"])
    put_back(trained, saved)
    assert all(torch.equal(best[name], tensor) for name, tensor in module.state_dict().items())


def test_direct_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    module = plain()
    direct = Direct(module)
    train(parse("full"), direct, 2)
    direct.save(tmp_path / "t.d90")
    space = Subspace(plain(), 9)
    space.save(tmp_path / "s.d90")
    other = plain()
    with torch.no_grad():
        other.body[0].weight[0, 0] += 1  # type: ignore[index,union-attr]
    fewer = plain()
    parse("bitfit").method.select(fewer)
    for model, file, message in (
        (other, "t.d90", "another base model: fingerprint [0-9a-f]{16}, this one has [0-9a-f]{16}"),
        (fewer, "t.d90", "does not hold the .* tensors that this method trains"),
        (plain(), "s.d90", "does not hold the"),
        (bert(), "t.d90", "does not hold the"),
    ):
        before = values(model)
        with pytest.raises(InputError, match=message):
            Direct(model).restore(tmp_path / file)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(InputError, match="not the tune of a subspace"):
        Subspace.load(tmp_path / "t.d90", plain())


# --- the grammar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("full", "full"),
        ("  bitfit ", "bitfit"),
        ("top", "top:n=2"),
        ("top:n=3", "top:n=3"),
        ("full@d=1000", "full@d=1000,structure=did,projection=fastfood,scale=tensor,layer=block,head=inside"),
        (
            "top:n=1@structure=said, d=7,seed=18446744073709551615,projection=fastfood:gaussian",
            "top:n=1@d=7,structure=said,projection=fastfood:gaussian,scale=tensor,layer=block,head=inside,"
            "seed=18446744073709551615",
        ),
        ("full@scale=relative", "full@structure=did,projection=fastfood,scale=relative,layer=block,head=inside"),
    ],
)
def test_parse_gives_the_canonical_text(text: str, canonical: str) -> None:
    spec = parse(text)
    assert str(spec) == canonical
    again = parse(canonical)
    assert str(again) == canonical
    assert again.space == spec.space


def test_at_adds_changes_and_takes_off_a_subspace() -> None:
    spec = parse("top:n=1")
    assert str(spec.at(50, structure="said")) == str(parse("top:n=1@d=50,structure=said"))
    assert spec.at(50, structure="said").at(60).space == Space(60, "said")
    assert str(spec.at(50).at(None)) == "top:n=1"
    assert spec.space is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown method ''"),
        ("ful", r"unknown method 'ful'.*Did you mean 'full'.*d90 methods"),
        ("full:n=2", r"unknown option of method 'full' 'n'.*takes none"),
        ("top:m=2", r"unknown option of method 'top' 'm': expected one of n"),
        ("top:n=two", r"got n=two, expected a int"),
        ("top:n", r"got 'n', expected key=value"),
        ("top:n=", r"got 'n=', expected key=value"),
        ("full@d=many", r"got d=many, expected a int"),
        ("full@d=1.5", r"got d=1.5, expected a int"),
        ("full@dim=5", r"unknown subspace option 'dim'.*expected one of d, structure"),
        ("full@d", r"got 'd', expected key=value"),
        ("full+bitfit", r"'\+' joins a method"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


def test_a_subspace_without_its_dimension_is_refused_when_it_is_laid() -> None:
    space = parse("full@structure=said").space
    assert space is not None
    with pytest.raises(InputError, match=r"needs its dimension: expected d=.*full@d=1000"):
        space.lay(plain(), 0)


def test_the_run_gives_the_seed_unless_the_method_names_one() -> None:
    seeds = []
    for text in ("full@d=9", "full@d=9,seed=0"):
        space = parse(text).space
        assert space is not None
        seeds.append(space.lay(plain(), 77).seed)
    assert seeds == [77, 0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_described(name: str) -> None:
    kind = METHODS[name]
    assert kind.name == name
    assert kind.summary
    assert kind.__doc__
    assert str(parse(name).method).partition(":")[0] == name
    assert copy.deepcopy(kind()).values == {key: default for key, (_, default) in kind.options.items()}
