"""OpenAI's Responses API on a running server: recorded and voted on like chats."""

from typing import Any

import pytest
from openai import BadRequestError

from protos.plaudit.v1.completion_pb2 import CompletionRecord
from tests.support.servers import Plaudit

UP = {"kind": "rating", "choice": 0, "value": "up"}
PARTS = [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]


def record_of(plaudit: Plaudit, response_id: str) -> CompletionRecord:
    records = map(CompletionRecord.FromString, plaudit.read_all("completions"))
    (found,) = [record for record in records if record.completion_id == response_id]
    return found


def check_recorded(plaudit: Plaudit, response: Any, text: str) -> CompletionRecord:
    record = record_of(plaudit, response.id)
    (choice,) = record.choices
    assert choice.text == text
    assert len(choice.token_ids) == response.usage.output_tokens
    assert len(record.prompt_token_ids) == response.usage.input_tokens
    voted = plaudit.vote(response.id, UP, user="ann")
    assert voted.status_code == 201, voted.text
    assert voted.json()["completion_id"] == response.id
    return record


def test_a_response_is_recorded_as_vllm_read_it_and_takes_votes(plaudit: Plaudit) -> None:
    response = plaudit.openai().responses.create(
        model="plaudit",
        instructions="Be brief.",
        input=[{"role": "user", "content": PARTS}],  # type: ignore[list-item,misc]
        max_output_tokens=8,
        user="ann",
    )
    assert response.id.startswith("resp_")
    record = check_recorded(plaudit, response, response.output_text)
    assert [(m.role, m.content) for m in record.messages] == [
        ("system", "Be brief."),
        ("user", "one\ntwo"),
    ]
    assert record.subject


def test_a_streamed_response_is_recorded(plaudit: Plaudit) -> None:
    events = list(
        plaudit.openai().responses.create(
            model="plaudit", input="Hello", max_output_tokens=8, stream=True
        )
    )
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    last: Any = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    check_recorded(plaudit, last.response, text)


def test_what_is_not_served_is_refused(plaudit: Plaudit) -> None:
    client = plaudit.openai()
    with pytest.raises(BadRequestError, match="leave out 'background'"):
        client.responses.create(model="plaudit", input="Hello", background=True)
    with pytest.raises(BadRequestError, match="runs no tools"):
        client.responses.create(model="plaudit", input="Hello", tools=[{"type": "web_search"}])
