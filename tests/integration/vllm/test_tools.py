"""Calls of tools, where a parser is set: recorded and voted on, as chats and as responses."""

import json
from typing import Any, Final

import pytest
from openai.types.responses import FunctionToolParam

from tests.support.servers import Plaudit

PARAMETERS: Final[dict[str, object]] = {
    "type": "object",
    "properties": {"day": {"enum": ["today"]}},
    "required": ["day"],
    "additionalProperties": False,
}
TOOL: Final[FunctionToolParam] = {
    "type": "function",
    "name": "tide",
    "description": "Return when the tide is high.",
    "parameters": PARAMETERS,
    "strict": True,
}
UP: Final = {"kind": "rating", "choice": 0, "value": "up"}


def check_voted(plaudit: Plaudit, answer: Any, tokens: int) -> None:
    (choice,) = plaudit.records()[answer.id].choices
    assert len(choice.token_ids) == tokens
    assert "today" in choice.text
    voted = plaudit.vote(answer.id, UP)
    assert voted.status_code == 201, voted.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_calls_a_tool(adapter_server: Plaudit, stream: bool) -> None:
    request: Any = {
        "model": "plaudit",
        "input": "When is high tide?",
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "tide"},
        "max_output_tokens": 200,
    }
    client = adapter_server.openai()
    if stream:
        *_, last = client.responses.create(**request, stream=True)
        response = last.response
    else:
        response = client.responses.create(**request)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "tide"
    assert json.loads(call.arguments) == {"day": "today"}
    check_voted(adapter_server, response, response.usage.output_tokens)


def test_a_chat_calls_a_tool(adapter_server: Plaudit) -> None:
    function = {key: value for key, value in TOOL.items() if key != "type"}
    answer: Any = adapter_server.openai().chat.completions.create(
        model="plaudit",
        messages=[{"role": "user", "content": "When is high tide?"}],
        tools=[{"type": "function", "function": function}],  # type: ignore[list-item]
        tool_choice={"type": "function", "function": {"name": "tide"}},
        max_tokens=200,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "tide"
    assert json.loads(call.function.arguments) == {"day": "today"}
    check_voted(adapter_server, answer, answer.usage.completion_tokens)
