"""Instruction data: formats found by their columns, conversations rendered and masked, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from d90 import tasks
from d90.errors import InputError
from d90.models.model import Model
from d90.tasks.conversations import Conversation, Message
from d90.tasks.kinds import Instruction
from d90.tasks.rendering import Renderer, cut
from tests.reference.chat import TEMPLATES, chat_tokenizer

ASKED = {"role": "user", "content": "2+2?"}
ANSWERED = {"role": "assistant", "content": "4"}
MORE = [{"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "6"}]
SYSTEM = {"role": "system", "content": "Be brief."}

# of the conversation ASKED, ANSWERED, MORE: the text, and whether its tokens count
SMOL = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
QWEN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
LLAMA_ASK = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
BY_HAND: dict[str, list[tuple[str, bool]]] = {
    "chatml": [
        (SMOL + "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", False),
        ("4<|im_end|>\n", True),
        ("<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n", False),
        ("6<|im_end|>\n", True),
    ],
    "llama3": [
        ("<|begin_of_text|>" + LLAMA_ASK.format("2+2?"), False),
        ("4<|eot_id|>", True),
        (LLAMA_ASK.format("3+3?"), False),
        ("6<|eot_id|>", True),
    ],
    "mistral": [
        ("<s>[INST] 2+2? [/INST]", False),
        (" 4</s>", True),
        ("[INST] 3+3? [/INST]", False),
        (" 6</s>", True),
    ],
    "gemma": [
        ("<bos><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n", False),
        ("4<end_of_turn>\n", True),
        ("<start_of_turn>user\n3+3?<end_of_turn>\n<start_of_turn>model\n", False),
        ("6<end_of_turn>\n", True),
    ],
    "phi3": [
        ("<|user|>\n2+2?<|end|>\n<|assistant|>\n", False),
        ("4<|end|>\n", True),
        ("<|user|>\n3+3?<|end|>\n<|assistant|>\n", False),
        ("6<|end|>\n<|endoftext|>", True),
    ],
    "qwen": [
        (QWEN + "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", False),
        ("4<|im_end|>", True),
        ("\n<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n", False),
        ("6<|im_end|>", True),
        ("\n", False),
    ],
}  # fmt: skip
FAMILIES = pytest.mark.parametrize("family", TEMPLATES)


def _write(folder: Path, rows: Sequence[Any], name: str = "data.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)


def _rendered(tokenizer: Any, messages: Sequence[dict[str, str]], first: int = 0) -> list[tuple[int, bool]]:
    turns = tuple(Message(one["role"], one["content"]) for one in messages)
    found = Renderer(tokenizer, None, True, "m").render(Conversation(turns, first), 1)
    return list(zip(*found, strict=True))


@FAMILIES
def test_the_mask_of_a_conversation_is_the_one_written_by_hand(family: str) -> None:
    tokenizer = chat_tokenizer(family)
    wanted = [
        (token, counts)
        for text, counts in BY_HAND[family]
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]
    ]
    assert _rendered(tokenizer, [ASKED, ANSWERED, *MORE]) == wanted


@pytest.mark.filterwarnings("ignore")
@FAMILIES
@pytest.mark.slow
def test_masks_equal_those_of_trl_on_every_token_of_fifty_conversations(family: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = chat_tokenizer(family)
    marked = family == "qwen"  # trl masks every answer by generation markers, and without them what follows the prompt
    rows, ours = [], []
    for i in range(50):
        begin = [SYSTEM] if i % 3 == 0 and family not in ("mistral", "gemma") else []
        turns = [
            {"role": "user", "content": f"{i} + ü{i}?\n"},
            {"role": "assistant", "content": f"{2 * i} Ω " + "x" * (i % 5)},
        ]
        messages = [*begin, *turns, *(MORE if i % 2 else [])]
        last = len(messages) - 1
        rows.append({"messages": messages} if marked else {"prompt": messages[:last], "completion": messages[last:]})
        ours.append(_rendered(tokenizer, messages, 0 if marked else last))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    )
    options = trl.SFTConfig(
        str(tmp_path),
        report_to="none",
        use_cpu=True,
        bf16=False,
        max_length=None,
        assistant_only_loss=marked,
        eos_token=None,
    )
    trainer = trl.SFTTrainer(model, options, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    for row, mine in zip(trainer.train_dataset, ours, strict=True):
        if "labels" in row:
            mask = [label != -100 for label in row["labels"]]
        else:
            mask = [bool(counts) for counts in row["assistant_masks" if marked else "completion_mask"]]
        assert list(zip(row["input_ids"], mask, strict=True)) == mine


def test_a_plain_completion_follows_its_prompt_and_ends_with_eos() -> None:
    tokenizer = chat_tokenizer("llama3", chat_template=False)
    one = Conversation((Message("user", "name[X]"), Message("assistant", " X is.")), first=1, plain=True)
    ids, scored = Renderer(tokenizer, None, True, "m").render(one, 1)
    assert tokenizer.decode(ids) == "name[X] X is.<|eot_id|>"
    assert scored == [False] * 7 + [True] * 7


def test_what_looks_like_a_special_token_in_a_plain_completion_is_text() -> None:
    tokenizer = chat_tokenizer("mistral", chat_template=False)
    one = Conversation((Message("user", "a"), Message("assistant", "b</s>")), first=1, plain=True)
    ids, _ = Renderer(tokenizer, None, True, "m").render(one, 1)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert len(ids) == 7


def test_a_template_without_an_end_of_turn_gets_eos_behind_each_answer() -> None:
    tokenizer = chat_tokenizer("mistral")
    tokenizer.chat_template = (
        "{% for m in messages %}### {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:{% endif %}"
    )
    found = _rendered(tokenizer, [ASKED, ANSWERED, *MORE])
    text = tokenizer.decode([token for token, counts in found if counts])
    assert text == " 4\n</s> 6\n</s>"


def test_markers_that_leave_the_end_of_turn_out_get_it() -> None:
    tokenizer = chat_tokenizer("qwen")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "+ '<|im_end|>' }}\n        {%- endgeneration %}",
        "}}\n        {%- endgeneration %}\n        {{- '<|im_end|>' }}",
    )
    found = _rendered(tokenizer, [ASKED, ANSWERED, *MORE])
    assert tokenizer.decode([token for token, counts in found if counts]) == "4<|im_end|>6<|im_end|>"


FORMATS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "messages": ({"messages": [SYSTEM, ASKED, ANSWERED]}, {"messages": [["system", "Be brief."], ["user", "2+2?"], ["assistant", "4"]]}),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}], "system": "Be brief."},
        {"messages": [["system", "Be brief."], ["user", "2+2?"], ["assistant", "4"]]},
    ),
    "prompt and completion": (
        {"prompt": "2+2=", "completion": "4"},
        {"messages": [["user", "2+2="], ["assistant", "4"]], "first": 1, "plain": True},
    ),
    "prompt and completion of messages": (
        {"prompt": [ASKED, ANSWERED, MORE[0]], "completion": [MORE[1]]},
        {"messages": [["user", "2+2?"], ["assistant", "4"], ["user", "3+3?"], ["assistant", "6"]], "first": 3},
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "2+2", "output": "4"},
        {"messages": [["user", "Add.\n\n2+2"], ["assistant", "4"]], "first": 1},
    ),
    "alpaca without input": (
        {"instruction": "Add 2+2.", "input": "", "output": "4", "text": "all of it"},
        {"messages": [["user", "Add 2+2."], ["assistant", "4"]], "first": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_is_found_by_its_columns(form: str, tmp_path: Path) -> None:
    row, wanted = FORMATS[form]
    found = tasks.load(_write(tmp_path, [row] * 4))
    assert isinstance(found.kind, Instruction)
    assert [json.loads(text) for (text,) in found.train.inputs] == [wanted] * 3


def test_columns_are_named_and_csv_holds_messages_as_json(tmp_path: Path) -> None:
    (tmp_path / "e2e.csv").write_text("mr,ref\nname[X],X is.\nname[Y],Y is.\n")
    found = tasks.load(str(tmp_path / "e2e.csv"), prompt="mr", completion="ref")
    assert json.loads(found.train.inputs[0][0])["plain"] is True
    quoted = json.dumps([ASKED, ANSWERED]).replace('"', '""')
    (tmp_path / "chat.csv").write_text(f'messages\n"{quoted}"\n"{quoted}"\n')
    found = tasks.load(str(tmp_path / "chat.csv"))
    assert json.loads(found.train.inputs[0][0]) == {"messages": [["user", "2+2?"], ["assistant", "4"]]}


def test_a_template_makes_turns_of_strings_and_another_task(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    data = _write(tmp_path, [{"prompt": "a", "completion": "b"}] * 4)
    plain, chat = tasks.load(data), tasks.load(data, chat_template=str(tmp_path / "t.jinja"))
    assert "plain" not in json.loads(chat.train.inputs[0][0])
    assert len({plain.fingerprint, chat.fingerprint, tasks.load(data, loss_on="all").fingerprint}) == 3


def test_the_kind_comes_back_from_what_a_tune_keeps() -> None:
    kind = Instruction(template="{{ messages }}", everything=True)
    assert Instruction().restored(json.loads(json.dumps(kind.record))) == kind
    assert Instruction().record == {}
    assert Instruction().restored({}) == Instruction()


def test_truncation_keeps_the_last_answer_and_counts(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer("mistral")
    rows = [{"messages": [ASKED, ANSWERED, *MORE]}, {"messages": [{"role": "user", "content": "1?"}, ANSWERED]}]
    kind = Instruction()
    inputs = [(_one(row["messages"]),) for row in rows]
    found = kind.tokens(tokenizer, inputs, 22, True, "m")
    assert found.truncated == 1
    assert tokenizer.decode(found.ids[0]) == "[INST] 3+3? [/INST] 6</s>"
    assert tokenizer.decode([t for t, c in zip(found.ids[0], found.scored[0], strict=True) if c]) == " 6</s>"


def test_an_answer_longer_than_the_model_keeps_its_beginning() -> None:
    tokenizer = chat_tokenizer("mistral")
    whole = Renderer(tokenizer, None, True, "m").render(
        Conversation((Message("user", "a"), Message("assistant", "b" * 50))), 1
    )
    kept = cut(whole, 30, 1, "m")
    assert kept.ids == whole.ids[:30]
    assert any(kept.scored)


def test_loss_on_all_counts_every_token() -> None:
    found = Instruction(everything=True).tokens(chat_tokenizer("chatml"), [(_one([ASKED, ANSWERED]),)], None, True, "m")
    assert all(found.scored[0])


def _one(messages: Sequence[dict[str, str]]) -> str:
    return Conversation(tuple(Message(one["role"], one["content"]) for one in messages)).to_json()


REFUSED: dict[str, tuple[list[Any], str]] = {
    "no answer": ([{"messages": [ASKED]}], "line 1: no assistant turn"),
    "empty answer": ([{"messages": [ASKED, {"role": "assistant", "content": "  "}]}], "line 1: the answer (turn 2) is empty"),
    "empty completion": ([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}], "line 2: the answer"),
    "unknown role": ([{"messages": [ASKED, {"role": "bot", "content": "4"}]}], "turn 2 has the role 'bot'"),
    "tool call": (
        [{"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}]}],
        "turn 2 calls a tool",
    ),
    "tool answer": ([{"messages": [ASKED, {"role": "tool", "content": "4"}, ANSWERED]}], "turn 2 calls a tool"),
    "tools offered": ([{"messages": [ASKED, ANSWERED], "tools": [{"name": "f"}]}], "line 1: it offers tools"),
    "mixed formats": (
        [{"messages": [ASKED, ANSWERED]}, {"prompt": "a", "completion": "b"}],
        "line 2: no 'messages', and is of another format (prompt, completion)",
    ),
    "an image": (
        [{"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWERED]}], "turn 1 holds a part of type 'image'",
    ),
    "no list": ([{"messages": "hello"}], "column 'messages' holds a str"),
    "no turn": ([{"messages": []}], "column 'messages' holds no turn"),
    "half a pair": ([{"prompt": "a", "completion": "\ud83d"}], "line 1: half a surrogate pair"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_row_is_refused_in_one_line_with_its_place(case: str, tmp_path: Path) -> None:
    rows, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        tasks.load(_write(tmp_path, rows + rows[:1]), kind="instruction")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def _encode(
    tokenizer: Any, messages: Sequence[dict[str, str]], longest: int | None = None, plain: bool = False
) -> None:
    good = Conversation((Message("user", "a"), Message("assistant", "b")), 1, plain).to_json()
    turns = tuple(Message(one["role"], one["content"]) for one in messages)
    bad = Conversation(turns, 1 if plain else 0, plain).to_json()
    Instruction().tokens(tokenizer, [(good,), (bad,)], longest, True, "m")


def test_a_template_that_refuses_or_rewrites_is_reported_with_the_example() -> None:
    with pytest.raises(
        InputError, match=r"example 2: the chat template of 'm' refuses .*user, user, assistant.*alternate"
    ):
        _encode(chat_tokenizer("mistral"), [ASKED, ASKED, ANSWERED])
    with pytest.raises(InputError, match=r"example 2: .*System role not supported"):
        _encode(chat_tokenizer("gemma"), [SYSTEM, ASKED, ANSWERED])
    rewriting = chat_tokenizer("chatml")
    rewriting.chat_template = (
        "{{ messages | length }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    with pytest.raises(InputError, match=r"example 1: the chat template of 'm' renders turn 2 otherwise"):
        _encode(rewriting, [ASKED, ANSWERED, *MORE])


def test_what_a_tokenizer_lacks_is_reported() -> None:
    with pytest.raises(InputError, match=r"no chat template.*--chat-template FILE.*--prompt and --completion"):
        _encode(chat_tokenizer("mistral", chat_template=False), [ASKED, ANSWERED])
    endless = chat_tokenizer("mistral", chat_template=False)
    endless.eos_token = None
    with pytest.raises(InputError, match=r"no eos token"):
        _encode(endless, [ASKED, ANSWERED], plain=True)


def test_a_prompt_longer_than_the_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"example 2: its prompt has 115 tokens and 'm' takes 64"):
        _encode(chat_tokenizer("mistral"), [{"role": "user", "content": "x" * 99}, ANSWERED], longest=64)


def test_a_vocabulary_larger_than_the_embedding_is_refused() -> None:
    import torch

    from d90.models.encoding import encode

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(200, 2)

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.embedding

    model = Model("small", Small(), chat_tokenizer("chatml"), vocabulary=200)
    with pytest.raises(InputError, match=r"its embedding has 200 rows"):
        encode(model, [(_one([ASKED, ANSWERED]),)], Instruction())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss_on": "prompts"}, "unknown loss_on 'prompts': expected one of completions, all"),
        ({"chat_template": "missing.jinja"}, "no such file: 'missing.jinja'"),
        ({"prompt": "question"}, "no column 'question'"),
        ({"text": "prompt", "kind": "instruction"}, "got a text column for instruction data"),
        (
            {"metric": "accuracy"},
            "got metric 'accuracy' for instruction data, expected loss, exact, contains, bleu, chrf, rouge1, rouge2, rougeL or script:FILE",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        tasks.load(_write(tmp_path, [{"prompt": "a", "completion": "b"}] * 3), **options)
    assert words in str(caught.value)
