"""Conversations of a file: what is read, and what is refused before training."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from learner.data.packing import IGNORED, encode_conversation
from learner.data.tokenizer import train_tokenizer
from learner.errors import DataUnusable, ModelUnusable
from learner.pretraining.sft import conversations
from tests.support import tool_chats

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "a\u2028b"}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["Hello."], vocabulary=300, context=64)


def write(folder: Path, *rows: list[Any]) -> Path:
    file = folder / "chat.jsonl"
    lines = [json.dumps({"messages": row}, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_conversations_repeat_without_end(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "parts"}]}
    file = write(tmp_path, [USER, ANSWER], [parts, ANSWER])
    first, second, third = islice(conversations(file, tokenizer, 0), 3)
    assert first == third == ([USER, ANSWER], None)
    assert second.messages == [{"role": "user", "content": "parts"}, ANSWER]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER], "id": 3},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a\u2028b"}]},
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": "hi", "completion": "a\u2028b"},
        {"instruction": "hi", "input": "", "output": "a\u2028b"},
        {"messages": [{**USER, "name": None, "tool_calls": None}, ANSWER], "tools": "[]"},
    ],
)
def test_shapes_of_published_data_are_read(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, row: dict[str, Any]
) -> None:
    (tmp_path / "chat.jsonl").write_text(json.dumps(row))
    (tmp_path / "chat.json").write_text(json.dumps([row]))
    for name in ("chat.jsonl", "chat.json"):
        found = next(conversations(tmp_path / name, tokenizer, 0))
        assert found == ([USER, ANSWER], None)


def test_tool_calls_are_learned_as_the_chat_template_writes_them(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["Hello."], vocabulary=300, context=64)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tool_chats.SPECIALS)})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = tool_chats.QWEN
    messages = [*tool_chats.MESSAGES, {"role": "assistant", "content": "At one."}]
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": messages, "tools": tool_chats.TOOLS}))
    found = next(conversations(file, tokenizer, 0))
    assert found == (messages, tool_chats.TOOLS)
    ids, labels = encode_conversation(found.messages, tokenizer, found.tools)
    learned = tokenizer.decode([label for label in labels if label != IGNORED])
    call = '<tool_call>\ntide{"day": "today"}\n</tool_call><|im_end|>'
    assert learned == f"{call}At five past noon.<|im_end|>At one.<|im_end|>"
    assert '"name": "tide"' in tokenizer.decode(ids), "the prompt has the tools"


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "messages: must not be empty"),
        ([USER], "no message has the role 'assistant'"),
        ([ANSWER, USER, ANSWER], "the first message is the assistant's"),
        ([USER, {"role": "assistant", "content": " \n"}], "an answer of the assistant is empty"),
        ([USER, {"role": "tool", "content": "42"}, ANSWER], r"chat template refuses.*roles system"),
        ([USER, {"role": "assistant", "content": None}], r"messages\[1\]: content: must be text"),
        ([USER, {"role": "assistant", "content": "\ud83d"}], "surrogate pair"),
        ([{"role": 1, "content": "hi"}, ANSWER], r"messages\[0\].role: must be text"),
    ],
)
def test_conversations_that_cannot_be_learned_are_refused_before_the_first(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, messages: list[Any], problem: str
) -> None:
    file = tmp_path / "chat.jsonl"
    rows = [json.dumps({"messages": row}) for row in ([USER, ANSWER], messages)]
    file.write_text("\n".join(rows))
    with pytest.raises(DataUnusable, match=f"chat.jsonl, line 2: .*{problem}"):
        next(conversations(file, tokenizer, 0))


def test_a_tokenizer_without_a_template_is_an_error_of_the_model(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["Hello."], vocabulary=300, context=64)
    tokenizer.chat_template = None
    with pytest.raises(ModelUnusable, match="no chat template"):
        next(conversations(write(tmp_path, [USER, ANSWER]), tokenizer, 0))
