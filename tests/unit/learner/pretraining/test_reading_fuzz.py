"""Any file of demonstrations or text is read, or refused with a sentence."""

import contextlib
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from learner.data.packing import encode_conversation
from learner.data.tokenizer import train_tokenizer
from learner.errors import LearnerError
from learner.pretraining.documents import documents
from learner.pretraining.sft import conversations
from tests.support.fuzzing import MESSAGES, TEXTS, VALUES, budget, jsonl, objects

DEMONSTRATIONS = st.one_of(
    objects(messages=MESSAGES),
    objects(messages=MESSAGES, tools=TEXTS | st.lists(VALUES, max_size=2)),
    objects(
        conversations=st.lists(
            objects(**{"from": st.sampled_from(["human", "gpt"]), "value": TEXTS}), max_size=3
        )
    ),
    objects(prompt=TEXTS | MESSAGES, completion=TEXTS | MESSAGES),
    objects(instruction=TEXTS, input=TEXTS, output=TEXTS),
    VALUES,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["Hello."], vocabulary=300, context=64)


@budget(100)
@given(content=jsonl(DEMONSTRATIONS), name=st.sampled_from(["in.jsonl", "in.json"]))
def test_any_file_of_demonstrations_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: PreTrainedTokenizerFast,
    content: bytes,
    name: str,
) -> None:
    file = tmp_path_factory.mktemp("data") / name
    file.write_bytes(content)
    with contextlib.suppress(LearnerError):
        for found in islice(conversations(file, tokenizer, 0), 3):
            encode_conversation(found.messages, tokenizer, found.tools)


@budget(100)
@given(
    content=jsonl(objects(text=TEXTS)) | st.binary(max_size=40),
    name=st.sampled_from(["in.jsonl", "in.json", "in.txt"]),
)
def test_any_file_of_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    file = tmp_path_factory.mktemp("data") / name
    file.write_bytes(content)
    with contextlib.suppress(LearnerError):
        for text in documents([file], 0, repeat=False):
            text.encode()
