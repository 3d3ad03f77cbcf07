"""Conversations of a file: what is read, and what is refused before training."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from learner.data.tokenizer import train_tokenizer
from learner.errors import DataUnusable, ModelUnusable
from learner.pretraining.sft import conversations

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
    assert first == third == [USER, ANSWER]
    assert second == [{"role": "user", "content": "parts"}, ANSWER]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "messages: must not be empty"),
        ([USER], "no message has the role 'assistant'"),
        ([ANSWER, USER, ANSWER], "the first message is the assistant's"),
        ([USER, {"role": "assistant", "content": " \n"}], "an answer of the assistant is empty"),
        ([USER, {"role": "tool", "content": "42"}, ANSWER], r"chat template refuses.*roles system"),
        ([USER, {"role": "assistant", "content": None}], r"messages\[1\].content: must be text"),
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
