"""Messages come back from a record as they were sent, and template fields with them."""

from typing import Any

import pytest

from protos.messages import build_message, template_fields, template_json, whole_message
from protos.plaudit.v1.completion_pb2 import CompletionRecord, Message

CALL = {"id": "call-1", "type": "function", "function": {"name": "tide", "arguments": '{"d": 1}'}}


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ({"role": "user", "content": "Hi"}, "Hi"),
        ({"role": "user", "content": " Hi\u2028"}, "Hi"),
        ({"role": "user", "content": "Hi", "name": "anna"}, "Hi"),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, ""),
        ({"role": "assistant", "content": "4.", "reasoning": "2 + 2"}, "4."),
        ({"role": "tool", "content": "12:05", "tool_call_id": "call-1"}, "12:05"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}, "a"),
    ],
)
def test_a_message_comes_back_whole(sent: dict[str, Any], text: str) -> None:
    message = build_message(sent["role"], text, sent)
    assert (message.role, message.content) == (sent["role"], text)
    assert whole_message(message) == sent
    assert whole_message(Message.FromString(message.SerializeToString())) == sent


def test_a_plain_message_is_recorded_as_before() -> None:
    plain = Message(role="user", content="Hi")
    assert build_message("user", "Hi", {"role": "user", "content": "Hi"}) == plain
    assert whole_message(plain) == {"role": "user", "content": "Hi"}


def test_what_the_chat_template_was_given_comes_back() -> None:
    given = {"tools": [{"type": "function"}], "chat_template_kwargs": {"enable_thinking": False}}
    request = {"messages": [], "temperature": 0.5, "documents": None, **given}
    assert template_fields(CompletionRecord(template_json=template_json(request))) == given
    assert template_json({"messages": []}) == ""
    assert template_fields(CompletionRecord()) == {}
