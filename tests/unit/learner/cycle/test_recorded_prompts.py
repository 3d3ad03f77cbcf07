"""A chat with tools is learned from with the very tokens that the model was prompted with."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from feedback.ledger.store import Ledger
from feedback.log.records import completion_record, feedback_record
from feedback.log.sqlite_log import SqliteLog
from learner.cycle.inputs import _split_prompts
from learner.data.preferences import preference_examples
from learner.data.tokenizer import encode_answer, train_tokenizer
from learner.settings import LearnerSettings, RewardSettings
from protos.messages import template_fields, template_json, whole_message
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from serving.context import RequestContext
from serving.engine.recorder import CompletionRecordBuilder, message_texts
from tests.support import tool_chats
from tests.support.feedback_samples import comparison
from tests.support.outputs import output, output_choice, params

SETTINGS = LearnerSettings(reward=RewardSettings(held_out_share=1e-9))
BODY: dict[str, Any] = {"messages": tool_chats.MESSAGES, "tools": tool_chats.TOOLS}


@pytest.fixture(scope="module", params=[tool_chats.QWEN, tool_chats.LLAMA], ids=["qwen", "llama"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    texts = [json.dumps(BODY)]
    made = train_tokenizer(texts, vocabulary=340, context=2048)
    made.add_special_tokens({"additional_special_tokens": list(tool_chats.SPECIALS)})
    made.chat_template = request.param
    return made


def prompted(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the tokens that vLLM prompts the model with."""
    text = tokenizer.apply_chat_template(
        tool_chats.MESSAGES, tools=tool_chats.TOOLS, tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def recorded(
    tokenizer: PreTrainedTokenizerFast, prompt: list[int], answers: list[list[int]]
) -> CompletionRecord:
    """Return the record of answers as the server builds it."""
    context = RequestContext(
        "c1",
        "local",
        "",
        message_texts(tool_chats.MESSAGES),
        sent=tool_chats.MESSAGES,
        template_json=template_json(BODY),
    )
    builder = CompletionRecordBuilder(context, params(n=2), "m")
    parts = [output_choice(i, tokenizer.decode(ids), ids, "stop") for i, ids in enumerate(answers)]
    builder.add_output(output(True, *parts, prompt_token_ids=prompt), 1)
    return builder.finish(aborted=False)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.db")
    yield found
    found.close()


def test_a_chat_with_a_tool_call_is_learned_from_as_it_was_prompted(
    tokenizer: PreTrainedTokenizerFast, ledger: Ledger, tmp_path: Path
) -> None:
    prompt = prompted(tokenizer)
    end = tokenizer.eos_token_id
    call = [*tokenizer.encode('<tool_call>tide{"day": "tomorrow"}</tool_call>'), end]
    thought = [*tokenizer.encode("<think>The tide is later.</think>At one."), end]
    record = recorded(tokenizer, prompt, [call, thought])
    assert [whole_message(m) for m in record.messages] == tool_chats.MESSAGES
    assert template_fields(record) == {"tools": tool_chats.TOOLS}
    log = SqliteLog(tmp_path / "log.db")
    log.append("completions", [completion_record(record)])
    log.append("feedback", [feedback_record(comparison("e1", ("c1", 0), ("c1", 1)))])
    while ledger.follow(log):
        pass
    prompts, _ = _split_prompts(ledger.prompts(9), SETTINGS, b"", len(tokenizer))
    assert prompts == [prompt], "PPO's prompts are those that the model was prompted with"
    (example,) = preference_examples(
        ledger.effective_events(), lambda text: encode_answer(tokenizer, text), context=2048
    )
    assert example.sequences == ((*prompt, *call), (*prompt, *thought))
    assert example.lengths == (len(call), len(thought))
    log.close()


def test_the_same_texts_with_other_tools_are_another_prompt(
    tokenizer: PreTrainedTokenizerFast, ledger: Ledger, tmp_path: Path
) -> None:
    prompt = prompted(tokenizer)
    log = SqliteLog(tmp_path / "log.db")
    with_tools = recorded(tokenizer, prompt, [[5], [6]])
    without = recorded(tokenizer, prompt[:-1], [[5], [6]])
    without.completion_id, without.template_json = "c2", ""
    log.append("completions", [completion_record(r) for r in (with_tools, without)])
    while ledger.follow(log):
        pass
    found, _ = _split_prompts(ledger.prompts(9), SETTINGS, b"", len(tokenizer))
    assert sorted(found, key=len) == [prompt[:-1], prompt]
    log.close()
