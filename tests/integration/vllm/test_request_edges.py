"""Requests at the edges of what vLLM takes, on real vLLM: each gets OpenAI's answer."""

import concurrent.futures
import json
import time
from typing import Any

import httpx
import pytest

from feedback.log.records import messages_hash
from protos.messages import whole_message
from tests.support.door import CHAT, REQUESTS, chat, error_of
from tests.support.servers import Plaudit


def send_case(plaudit: Plaudit, name: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {plaudit.key}", "Content-Type": "application/json"}
    content = (REQUESTS / f"{name}.json").read_bytes()
    return httpx.post(plaudit.url + CHAT, content=content, headers=headers, timeout=60)


@pytest.mark.parametrize("file", sorted(REQUESTS.iterdir()), ids=lambda file: file.stem)
def test_requests_of_bug_reports(plaudit: Plaudit, file: Any) -> None:
    answered = {"parts", "same_prompt", "other_prompt", "temp0_n2"}
    response = send_case(plaudit, file.stem)
    if file.stem in answered:
        assert response.status_code == 200, response.text
    else:
        assert response.status_code == 400
        error_of(response)


def test_parts_are_recorded_as_vllm_joins_them(plaudit: Plaudit) -> None:
    cases = ("parts", "same_prompt", "other_prompt")
    ids = [send_case(plaudit, name).json()["id"] for name in cases]
    records = plaudit.records()
    parts, same, other = (records[each] for each in ids)
    assert [(m.role, m.content) for m in parts.messages] == [("user", "What is\ntea?")]
    assert [whole_message(m) for m in parts.messages] == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "tea?"}],
        }
    ]
    assert messages_hash(parts) == messages_hash(same), "the same prompt"
    assert parts.prompt_token_ids == same.prompt_token_ids
    assert parts.messages != other.messages
    assert parts.prompt_token_ids != other.prompt_token_ids


def test_greedy_choices_are_the_same(plaudit: Plaudit) -> None:
    answer = send_case(plaudit, "temp0_n2").json()
    first, second = answer["choices"]
    assert first["message"] == second["message"]
    record = plaudit.records()[answer["id"]]
    assert list(record.choices[0].token_ids) == list(record.choices[1].token_ids)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"top_p": 2}, "invalid_value"),
        ({"messages": [{"role": "user"}], "temperature": "hot"}, "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "invalid_value"),
        ({"response_format": {"type": {}}}, "invalid_value"),
        ({"structured_outputs": {}}, "invalid_value"),
        ({"structured_outputs": {"json": {"type": "nothing"}}}, "invalid_value"),
        ({"structured_outputs": {"regex": "("}}, "invalid_value"),
        ({"structured_outputs": {"json": "{"}}, "invalid_json"),
        ({"tools": [{"function": {"name": "f"}}], "tool_choice": "auto"}, "invalid_value"),
        ({"model": "other"}, "model_not_found"),
        ({"logit_bias": {"999999": 1}}, "invalid_value"),
    ],
)
def test_vllm_s_errors_have_our_shape(plaudit: Plaudit, body: dict[str, Any], code: str) -> None:
    response = plaudit.post(CHAT, chat(**body))
    assert response.status_code in (400, 404), response.text
    assert error_of(response)["code"] == code
    assert response.headers["x-request-id"]


def test_an_error_within_a_stream_has_our_shape(plaudit: Plaudit) -> None:
    bad = {"structured_outputs": {"json": {"type": "nothing"}}}
    response = plaudit.post(CHAT, chat(stream=True, **bad))
    assert response.status_code == 200, "the stream has begun"
    line = next(line for line in response.text.splitlines() if "error" in line)
    assert json.loads(line.removeprefix("data: "))["error"]["code"] == "invalid_value"


def test_a_schema_constrains_the_answer(plaudit: Plaudit) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answers = [
        plaudit.post(CHAT, chat(response_format=named, max_tokens=60, n=n)).json() for n in (1, 2)
    ]
    choices = [choice for answer in answers for choice in answer["choices"]]
    assert all(choice["message"]["content"].lstrip().startswith("{") for choice in choices)
    whole = [c["message"]["content"] for c in choices if c["finish_reason"] == "stop"]
    assert [json.loads(content)["a"] for content in whole] == ["x"] * len(whole)


def test_the_largest_schema_does_not_stop_others(plaudit: Plaudit) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for level in range(15):
        others = {f"p{level}_{i}": {"type": "string"} for i in range(60)}
        schema = {"type": "object", "properties": {**others, "next": schema}}
    body = chat(structured_outputs={"json": schema}, max_tokens=1)
    seconds = [0.0]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sent = pool.submit(plaudit.post, CHAT, body)
        while not sent.done():
            started = time.monotonic()
            httpx.get(f"{plaudit.url}/livez", timeout=30)
            seconds.append(time.monotonic() - started)
            time.sleep(0.02)
    assert sent.result().status_code in (200, 400)
    assert len(seconds) > 1
    assert max(seconds) < 5, "the event loop was held"


def test_the_documentation_has_every_route(plaudit: Plaudit) -> None:
    schema = httpx.get(f"{plaudit.url}/openapi.json", timeout=60).json()
    for path in (CHAT, "/v1/completions", "/v1/feedback", "/v1/models", "/tokenize", "/livez"):
        assert path in schema["paths"]
    assert "max_completion_tokens" in json.dumps(schema["components"]["schemas"])
    assert "text/event-stream" in schema["paths"][CHAT]["post"]["responses"]["200"]["content"]
    assert httpx.get(f"{plaudit.url}/docs", timeout=60).status_code == 200


def test_models_show_no_folder(plaudit: Plaudit) -> None:
    model = plaudit.openai().models.retrieve("plaudit")
    assert model.id == "plaudit"
    assert str(plaudit.home) not in model.model_dump_json()
    with pytest.raises(Exception, match="404"):
        plaudit.openai().models.retrieve("other")


def test_a_host_that_is_none_gets_a_400(plaudit: Plaudit) -> None:
    for path in ("/livez", "/readyz", "/v1/models", "/metrics/"):
        response = httpx.get(plaudit.url + path, headers={"Host": "["}, timeout=30)
        assert response.status_code == 400, path
