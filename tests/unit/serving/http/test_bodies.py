"""Bodies of chats and completions: what is refused before vLLM sees it, and with which bound."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from feedback.api.http_errors import ApiError
from feedback.privacy.identity import LOCAL_OWNER, check, load_or_create_secret
from serving.http.bodies import (
    MAX_BIASES,
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_TOOLS,
    MAX_VALUES,
    check_fields,
    count_choices,
    parse_body,
)
from serving.http.middleware import BODY_PATHS
from tests.support.door import CHAT, REQUESTS, chat, door, error_of

# Requests of public bug reports, with the code that refuses them; None for those that vLLM answers.
CASES = {
    "other_prompt": None,
    "parts": None,
    "same_prompt": None,
    "engine_error_stop_surrogate": "invalid_json",
    "engine_error_topk_2_70": "integer_out_of_range",
    "deep_json": "nested_too_deeply",
    "schema_self_ref": "constraint_too_complex",
    "structured_outputs_type": "invalid_type",
    "temp0_n2": None,
}


def test_every_case_has_its_answer() -> None:
    assert {file.stem for file in REQUESTS.iterdir()} == CASES.keys()


@pytest.mark.parametrize("name", CASES)
async def test_requests_of_bug_reports(tmp_path: Path, name: str) -> None:
    content = (REQUESTS / f"{name}.json").read_bytes()
    async with door(tmp_path) as http:
        headers = {"Content-Type": "application/json"}
        response = await http.post(CHAT, content=content, headers=headers)
    if CASES[name] is None:
        assert response.status_code == 200
        assert response.json()["asked"] == json.loads(content), "passed on as it was sent"
    else:
        assert response.status_code == 400
        assert error_of(response)["code"] == CASES[name]


@pytest.mark.parametrize("path", sorted(BODY_PATHS))
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"x":' + b"[" * 1500 + b"]" * 1500 + b"}", "nested_too_deeply"),
        (b'{"x":' + b'{"a":' * 1500 + b"1" + b"}" * 1501, "nested_too_deeply"),
        (b'{"x":"\\udc00"}', "invalid_json"),
        (b'{"x":"\xff"}', "invalid_json"),
        (b'{"x":NaN}', "invalid_json"),
        (b'{"x":' + b"9" * 5000 + b"}", "invalid_json"),
        ('{"x":1}'.encode("utf-16"), "invalid_json"),
        (b'{"x":[{"y":[18446744073709551616]}]}', "integer_out_of_range"),
        (b'{"x":-9223372036854775809}', "integer_out_of_range"),
        (b'{"x":[' + b"1," * MAX_VALUES + b"1]}", "too_many_values"),
    ],
)
async def test_no_route_of_vllm_gets_what_it_cannot_take(
    tmp_path: Path, path: str, content: bytes, code: str
) -> None:
    async with door(tmp_path) as http:
        response = await http.post(path, content=content)
    assert response.status_code == 400
    assert error_of(response)["code"] == code


async def test_bodies_of_every_route_of_vllm_are_bounded(tmp_path: Path) -> None:
    async with door(tmp_path, max_body_bytes=2048) as http:
        for path in BODY_PATHS:
            response = await http.post(path, content=b" " * 4096)
            assert (response.status_code, error_of(response)["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("structured_outputs", [], "invalid_type"),
        ("structured_outputs", "x", "invalid_type"),
        ("response_format", [], "invalid_type"),
        ("logit_bias", [1], "invalid_type"),
        ("messages", "hi", "invalid_type"),
        ("messages", ["hi"], "invalid_type"),
        ("tools", {"a": 1}, "invalid_type"),
        ("tools", [{}], "invalid_type"),
        ("tools", [{"function": {"name": 1}}], "invalid_type"),
        ("user", 1, "invalid_type"),
        ("user", "a" * 257, "string_above_max_length"),
        ("top_k", 2**31, "integer_out_of_range"),
        ("top_k", "1180591620717411303424", "invalid_type"),
        ("top_k", 1e30, "integer_out_of_range"),
        ("max_tokens", 2**33, "integer_out_of_range"),
        ("max_completion_tokens", -(2**31) - 1, "integer_out_of_range"),
        ("thinking_token_budget", 2**40, "integer_out_of_range"),
        ("seed", True, "invalid_type"),
        ("stop", ["a"] * 5, "array_above_max_length"),
        ("messages", [{}] * (MAX_MESSAGES + 1), "array_above_max_length"),
        ("messages", [{"content": ["a"] * (MAX_MESSAGES + 1)}], "array_above_max_length"),
        ("tools", [{}] * (MAX_TOOLS + 1), "array_above_max_length"),
        ("logit_bias", {str(i): 1 for i in range(MAX_BIASES + 1)}, "array_above_max_length"),
        ("stop_token_ids", [1] * (MAX_BIASES + 1), "array_above_max_length"),
        ("kv_transfer_params", {"prompt_token_ids": [1]}, "unsupported"),
    ],
)
def test_a_field_has_a_type_and_a_bound_which_the_error_names(
    field: str, value: Any, code: str
) -> None:
    with pytest.raises(ApiError) as refused:
        check_fields({field: value})
    error = refused.value
    assert (error.status, error.code) == (400, code)
    assert error.param is not None
    assert error.param.startswith(field)
    assert error.param.split("[")[0] in error.message


def test_ordinary_requests_pass() -> None:
    check_fields(
        chat(
            n=4,
            user="a" * 256,
            top_k=-1,
            seed=-(2**63),
            max_tokens=2**31 - 1,
            stop="end",
            logit_bias={"1": -100},
            tools=[{"type": "function", "function": {"name": "f"}}],
            structured_outputs=None,
            stream_options={"include_usage": True},
        )
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": [[1]] * 65, "n": 2}, "prompt"),
        ({"use_beam_search": True}, "use_beam_search"),
    ],
)
def test_choices_are_bounded_over_all_prompts(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        count_choices(body)
    assert refused.value.param == param


def test_the_largest_number_of_choices_passes() -> None:
    assert count_choices({"n": MAX_CHOICES, "prompt": [1, 2, 3]}) == MAX_CHOICES
    assert count_choices({"n": 2, "prompt": ["a"] * 64}) == 2


def test_the_largest_body_is_checked_in_a_moment() -> None:
    """The check runs on the event loop, where every other request waits for it."""
    content = json.dumps({"prompt": list(range(MAX_VALUES - 1))}).encode()
    started = time.thread_time()
    check_fields(parse_body(content))
    assert time.thread_time() - started < 0.5


async def test_a_response_has_an_id_that_is_signed_and_can_be_voted_on(tmp_path: Path) -> None:
    body = {"input": [{"role": "user", "content": "hi"}], "request_id": "mine", "user": "ann"}
    async with door(tmp_path) as http:
        response = await http.post("/v1/responses", json=body)
    answer = response.json()
    assert answer["id"].startswith("resp_")
    assert answer["asked"] == {**body, "request_id": answer["id"]}
    assert response.headers["x-request-id"] == answer["id"]
    secret = load_or_create_secret(tmp_path / "secret.json")
    assert check(secret, answer["id"], LOCAL_OWNER).choices == 1


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("background", True, "unsupported"),
        ("tools", [{"type": "web_search_preview"}], "unsupported"),
        ("tools", [{"type": "function", "name": 1}], "invalid_type"),
        ("tools", {}, "invalid_type"),
        ("input", 7, "invalid_type"),
        ("input", [{}] * (MAX_MESSAGES + 1), "array_above_max_length"),
        ("instructions", ["x"], "invalid_type"),
        ("text", "x", "invalid_type"),
        ("max_output_tokens", 2**31, "integer_out_of_range"),
        ("user", "a" * 257, "string_above_max_length"),
        ("kv_transfer_params", {"a": 1}, "unsupported"),
    ],
)
async def test_fields_of_responses_are_bounded(
    tmp_path: Path, field: str, value: Any, code: str
) -> None:
    async with door(tmp_path) as http:
        response = await http.post("/v1/responses", json={"input": "hi", field: value})
    assert (response.status_code, error_of(response)["code"]) == (400, code)


async def test_schemas_of_responses_are_bounded(tmp_path: Path) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        deep = {"type": "object", "properties": {"a": deep}}
    text = {"format": {"type": "json_schema", "name": "n", "schema": deep}}
    tool = {"type": "function", "name": "f", "parameters": deep}
    async with door(tmp_path) as http:
        for fields in ({"text": text}, {"tools": [tool]}):
            response = await http.post("/v1/responses", json={"input": "hi", **fields})
            assert response.status_code == 400
            assert "deep" in error_of(response)["message"]
