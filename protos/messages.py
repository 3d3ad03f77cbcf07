"""The messages of a chat in a completion record: a text for readers, and all else losslessly.

A message that is more than a role and a text (tool calls, a tool's result, a name, reasoning,
content in parts) keeps the rest as JSON beside the text.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from protos.plaudit.v1.completion_pb2 import CompletionRecord, Message

# Fields of a chat request that its chat template reads, beside the messages.
_TEMPLATE_FIELDS: Final = (
    *("tools", "tool_choice", "documents", "chat_template", "chat_template_kwargs"),
    *("reasoning_effort", "add_generation_prompt", "continue_final_message"),
)


def build_message(role: str, text: str, sent: Mapping[str, Any] | None = None) -> Message:
    """Return a message of a record.

    Args:
        role: Role of the author.
        text: Text of the content.
        sent: The message as the client sent it; None if it is role and text alone.

    """
    message = Message(role=role, content=text)
    if sent is None:
        return message
    content = sent.get("content")
    if content != text:
        message.content_json = _dump(content)
    others = {key: value for key, value in sent.items() if key not in ("role", "content")}
    if others:
        message.others_json = _dump(others)
    return message


def whole_message(message: Message) -> dict[str, Any]:
    """Return a message as the client sent it."""
    content = json.loads(message.content_json) if message.content_json else message.content
    others = json.loads(message.others_json) if message.others_json else {}
    return {"role": message.role, "content": content, **others}


def template_json(request: Mapping[str, Any]) -> str:
    """Return what a request gives to the chat template beside the messages; empty if nothing."""
    given = {name: request[name] for name in _TEMPLATE_FIELDS if request.get(name) is not None}
    return _dump(given) if given else ""


def template_fields(record: CompletionRecord) -> dict[str, Any]:
    """Return what the chat template was given beside the messages, such as tools."""
    fields: dict[str, Any] = json.loads(record.template_json) if record.template_json else {}
    return fields


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
