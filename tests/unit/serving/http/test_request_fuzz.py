"""Random bodies: what passes the checks here, vLLM's own validation refuses or takes.

It may raise what its server answers with 400, and nothing else.
"""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from feedback.api.http_errors import ApiError
from serving.http.bodies import check_fields, count_choices, parse_body
from serving.http.schema_bounds import check_constraints
from tests.support.door import CHAT, door, error_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
# Names that occur within the fields, so that values get past the first check.
_SCHEMA = ("type", "json_schema", "schema", "json", "$ref", "properties", "pattern", "regex")
_TAG = ("structures", "triggers", "format", "choice", "grammar", "structural_tag")
_MESSAGE = ("role", "content", "text", "user", "assistant", "tool", "tool_calls")
_TOOL = ("function", "name", "parameters")
WORDS = st.sampled_from((*_SCHEMA, *_TAG, *_MESSAGE, *_TOOL))
SHAPED = st.recursive(
    VALUES | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


def fields_of(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(sorted(model.model_fields))
    return st.dictionaries(names, SHAPED, max_size=5)


@pytest.fixture(scope="module")
def models() -> list[type[BaseModel]]:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest

    return [ChatCompletionRequest, CompletionRequest, TokenizeChatRequest]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_vllm_s_validation_only_raises_what_it_answers_with_400(
    models: list[type[BaseModel]], data: st.DataObject
) -> None:
    from vllm.exceptions import VLLMError

    model = data.draw(st.sampled_from(models))
    body = data.draw(fields_of(model))
    if model.__name__ != "CompletionRequest":
        body.setdefault("messages", [{"role": "user", "content": "hi"}])
    answered_400 = (ApiError, ValueError, TypeError, OverflowError, NotImplementedError, VLLMError)
    with contextlib.suppress(*answered_400):
        check_fields(body)
        check_constraints(body)
        count_choices(body)
        model.model_validate(body)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_an_object_or_a_400(content: bytes) -> None:
    with contextlib.suppress(ApiError):
        assert isinstance(parse_body(content), dict)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(host=st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12))
async def test_any_host_gets_an_answer(tmp_path: Path, host: str) -> None:
    async with door(tmp_path) as http:
        response = await http.post(CHAT, json={}, headers={"Host": host.encode("latin-1")})
    assert response.status_code in (200, 400, 403)
    if response.status_code != 200:
        error_of(response)
