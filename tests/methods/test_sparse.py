"""Sparse masks: against plain sorting, against gradients by hand, what is left out, what a file holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.methods import Applied, Context, Sparse, apply, counts, load, parse
from d90.methods.masks import eligible, scores, smallest
from d90.subspace import file as tune_file
from tests.methods.table import bert, context, gpt2, llama, loss_of, plain


def taken(model: nn.Module) -> dict[str, Tensor]:
    """The places that a mask chose, by the plain parameter's name."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "indices") and hasattr(module, "values"):
            found[name.replace("parametrizations.", "").removesuffix(".0")] = module.indices.long()
    return found


def by_sorting(model: nn.Module, k: int) -> dict[str, list[int]]:
    """PaFi's mask with numpy: one stable sort of everything."""
    named = eligible(Applied.of(model))
    names = np.concatenate([[i] * p.numel() for i, p in enumerate(named.values())])
    places = np.concatenate([np.arange(p.numel()) for p in named.values()])
    values = []
    padding = {id(m.weight): m.padding_idx for m in model.modules() if isinstance(m, nn.Embedding)}
    for p in named.values():
        value = p.detach().abs().numpy().copy()
        if padding.get(id(p)) is not None:
            value[padding[id(p)]] = np.inf
        values.append(value.reshape(-1))
    order = np.argsort(np.concatenate(values), kind="stable")[:k]
    keys = list(named)
    return {keys[i]: sorted(places[order[names[order] == i]].tolist()) for i in np.unique(names[order])}


@pytest.mark.parametrize("k", [1, 7, 500, 2000])
@pytest.mark.parametrize("make", [bert, gpt2, llama, plain])
def test_pafi_takes_what_a_stable_sort_would(make: type, k: int) -> None:
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 40).round() / 40)  # ties everywhere, zeros among them
    free = sum(int(torch.isfinite(s).sum()) for s in scores("magnitude", Applied.of(model), Context(), 1))
    k = min(k, free)
    expected = by_sorting(model, k)
    Sparse(k=k).apply(model)
    found = {name: places.tolist() for name, places in taken(model).items()}
    assert found == expected
    assert sum(map(len, found.values())) == k


def test_per_tensor_takes_its_share_of_each() -> None:
    model = bert()
    sizes = {name: p.numel() for name, p in eligible(Applied.of(model)).items()}
    free = sum(sizes.values()) - 16  # a padding row
    Sparse(fraction=0.25, per="tensor").apply(model)
    found = taken(model)
    assert sum(map(len, found.values())) == round(0.25 * free)
    for name, size in sizes.items():
        size -= 16 * (name == "bert.embeddings.word_embeddings.weight")
        assert abs(len(found.get(name, ())) - 0.25 * size) <= 1


def test_the_head_and_padding_rows_are_left_out() -> None:
    model = bert()
    Sparse(fraction=1.0).apply(model)
    found = taken(model)
    assert not any(name.startswith("classifier") for name in found)
    words = found["bert.embeddings.word_embeddings.weight"]
    assert words.min() == 16, "row 0 is padding"
    assert len(words) == 49 * 16
    assert model.classifier.weight.requires_grad


def test_fisher_is_the_mean_square_of_the_gradient() -> None:
    model = gpt2()
    model.eval()
    inputs = [torch.tensor([[3, 5, 7, 9]]), torch.tensor([[2, 2, 8, 1]])]

    def losses(count: int) -> Iterator[Tensor]:
        for ids in inputs[:count]:
            yield model(input_ids=ids, labels=ids).loss

    given = Context(losses=losses, fine_tune=lambda: None)
    model.requires_grad_(True)
    found = scores("fisher-least", Applied.of(model), given, 2)
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for ids in inputs:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        for place, p in zip(expected, model.parameters(), strict=True):
            if p.grad is not None:
                place += p.grad.square() / 2
    model.zero_grad()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.reshape(-1))
    most = scores("fisher", Applied.of(model), given, 2)
    assert all(torch.equal(a, -b) for a, b in zip(most, found, strict=True))


def test_change_keeps_the_largest_and_resets_the_rest() -> None:
    model = plain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = plain()
    given = context(tuned)
    assert given.fine_tune is not None
    given.fine_tune()
    change = torch.cat(
        [(p - before[n]).abs().reshape(-1) for n, p in tuned.named_parameters() if "classifier" not in n]
    )
    Sparse(mask="change", k=25).apply(model, context(model))
    found = taken(model)
    start, largest = 0, set(torch.topk(change, 25).indices.tolist())
    for name, parameter in plain().named_parameters():
        if "classifier" not in name:
            assert {start + i for i in found.get(name, torch.empty(0)).tolist()} <= largest
            start += parameter.numel()
    for name, module in model.named_modules():
        if hasattr(module, "parametrizations"):
            for key in module.parametrizations:
                assert torch.equal(getattr(module, key), before[f"{name}.{key}"])
    assert torch.equal(model.state_dict()["body.1.running_mean"], before["body.1.running_mean"])


def test_gradients_are_those_of_the_whole_at_the_mask() -> None:
    whole = gpt2()
    whole.eval()
    loss_of(whole).backward()
    grads = {name: p.grad for name, p in whole.named_parameters()}
    model = gpt2()
    model.eval()
    Sparse(fraction=0.3).apply(model)
    loss_of(model).backward()
    found = taken(model)
    assert found
    for name, module in model.named_modules():
        if name.endswith(".0") and hasattr(module, "values"):
            plain_name = name.replace("parametrizations.", "").removesuffix(".0")
            grad = grads[plain_name]
            assert grad is not None
            torch.testing.assert_close(module.values.grad, grad.reshape(-1)[found[plain_name]])


def test_tied_weights_stay_tied() -> None:
    model = gpt2()
    applied_method = apply(parse("sparse:fraction=1.0"), model)
    assert len([n for n, _ in model.named_parameters() if "wte" in n and n.endswith("values")]) == 1
    with torch.no_grad():
        for p in applied_method.trained.parameters():
            p.add_(0.5)
    assert torch.equal(model.transformer.wte.weight, model.lm_head.weight)
    applied_method.merge()
    assert model.transformer.wte.weight is model.lm_head.weight
    torch.testing.assert_close(model.lm_head.weight, gpt2().lm_head.weight + 0.5)


@pytest.mark.parametrize("space", ["", "@d=20"])
def test_a_file_holds_indices_only_where_data_chose_them(space: str, tmp_path: Path) -> None:
    for mask, wanted in (("magnitude", 0), ("random", 0), ("fisher", 60), ("change", 60)):
        model = plain()
        spec = parse(f"sparse:mask={mask},k=60{space}")
        applied_method = apply(spec, model, 1, context(model))
        applied_method.save(tmp_path / "t.d90")
        tensors = tune_file.read(tmp_path / "t.d90")[1]
        places = {name: t for name, t in tensors.items() if name.endswith("indices")}
        assert sum(t.numel() for t in places.values()) == wanted
        head = 33
        assert counts(spec, applied_method.applied).stored == (20 if space else 60 + head) + wanted
        again = plain()
        load(spec, tmp_path / "t.d90", again, 1)
        assert {n: p.tolist() for n, p in taken(again).items()} == {n: p.tolist() for n, p in taken(model).items()}
        if wanted:
            name = next(iter(places))
            header = tune_file.read(tmp_path / "t.d90")[0]
            for wrong in (places[name].flip(0), places[name] + 10**6):
                tune_file.write(tmp_path / "w.d90", header, tensors | {name: wrong})
                with pytest.raises(InputError, match="is no list of places in it"):
                    load(spec, tmp_path / "w.d90", plain(), 1)


def test_random_masks_follow_the_seed_alone() -> None:
    def places(seed: int) -> dict[str, list[int]]:
        model = plain()
        Sparse(mask="random", k=40).apply(model, Context(seed))
        return {name: found.tolist() for name, found in taken(model).items()}

    assert places(1) == places(1) != places(2)


def test_smallest_breaks_ties_by_position_over_tensors() -> None:
    found = smallest([torch.tensor([2.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, torch.inf])], 3)
    assert [f.tolist() for f in found] == [[1, 2], [1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparse:mask=big", "unknown mask of sparse 'big'"),
        ("sparse:k=5,fraction=0.1", "expected one of the two"),
        ("pafi:fraction=0", "0 < fraction <= 1"),
        ("pafi:fraction=1.5", "0 < fraction <= 1"),
        ("pafi:k=0", "expected at least 1"),
        ("pafi:mask=random", "unknown option of method 'pafi' 'mask'"),
        ("sparse:per=layer", "unknown per of sparse"),
        ("sparse:mask=fisher,batches=0", "got batches=0"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


@pytest.mark.parametrize("mask", ["fisher", "fisher-least", "change"])
def test_a_mask_that_needs_data_says_so(mask: str) -> None:
    with pytest.raises(InputError, match=f"mask={mask} looks at the training data and there is none"):
        Sparse(mask=mask, k=5).apply(plain())


def test_pafi_is_short_for_sparse() -> None:
    assert str(parse("pafi:fraction=0.01@d=5")).startswith("sparse:mask=magnitude,fraction=0.01,per=global@d=5")
    assert isinstance(parse("pafi").method, Sparse)
