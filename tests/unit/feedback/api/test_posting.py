"""Posting feedback over HTTP, on a real log: every status of the design, and its body."""

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from feedback.api.routes import feedback_router
from feedback.control.keys import Caller
from feedback.log.sqlite_log import SqliteLog
from feedback.view.feedback_view import View
from tests.support.feedback_api import (
    RATING,
    SECRET,
    body,
    client_of,
    metric_value,
    new_completion_id,
    stored_events,
)
from tests.support.feedback_samples import completion, put


async def test_201_says_what_was_taken_and_it_is_in_the_log(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    completion_id = new_completion_id()
    before = metric_value("plaudit_feedback_total", kind="rating", outcome="accepted")
    answer = await client.post("/v1/feedback", json=body(completion_id, user="anne"))
    assert answer.status_code == 201
    [event] = stored_events(log)
    assert answer.json() == {
        "id": event.event_id,
        "object": "feedback",
        "created": event.created_ms // 1000,
        "completion_id": completion_id,
        "policy_version": 3,
        "feedback": RATING,
        "learned_in": None,
    }
    assert (event.owner, len(event.subject), event.target) == (
        "local",
        24,
        f"rating:{completion_id}/0",
    )
    assert abs(event.created_ms / 1000 - time.time()) < 60
    assert log.read("feedback", {})[0].key == event.event_id
    assert metric_value("plaudit_feedback_total", kind="rating", outcome="accepted") == before + 1


def error_cases() -> dict[str, tuple[Any, dict[str, str], int, str | None, str]]:
    """Name: body, headers, status, param, code."""
    good, foreign = new_completion_id(), new_completion_id(owner="somebody else")
    left = {"kind": "comparison", "left": 0, "verdict": "left"}

    def elsewhere(completion_id: str) -> dict[str, Any]:
        return body(good, {**left, "right": {"completion_id": completion_id, "choice": 0}})

    return {
        "not JSON": ("{", {}, 400, None, "invalid_json"),
        "unknown field": (body(good, vote=1), {}, 400, "vote", "unknown_field"),
        "bad value": (
            body(good, {**RATING, "value": "meh"}),
            {},
            400,
            "feedback.value",
            "invalid_value",
        ),
        "no such choice": (
            body(good, {**RATING, "choice": 2}),
            {},
            400,
            "feedback.choice",
            "choice_not_found",
        ),
        "no such choice in a group": (
            body(good, {"kind": "ranking", "groups": [[0], [7, 1]]}),
            {},
            400,
            "feedback.groups[1][0]",
            "choice_not_found",
        ),
        "no such choice elsewhere": (
            body(good, {**left, "right": {"completion_id": new_completion_id(), "choice": 2}}),
            {},
            400,
            "feedback.right.choice",
            "choice_not_found",
        ),
        "no such choice shown": (
            body(good, shown=[0, 2]),
            {},
            400,
            "shown[1]",
            "choice_not_found",
        ),
        "nothing to vote on": (
            body(new_completion_id(choices=0)),
            {},
            400,
            "feedback.choice",
            "choice_not_found",
        ),
        "empty key": (body(good), {"Idempotency-Key": ""}, 400, "Idempotency-Key", "invalid_value"),
        "long key": (
            body(good),
            {"Idempotency-Key": "k" * 256},
            400,
            "Idempotency-Key",
            "invalid_value",
        ),
        "made up": (body("chatcmpl-made-up"), {}, 404, "completion_id", "completion_not_found"),
        "altered": (body(good[:-1] + "!"), {}, 404, "completion_id", "completion_not_found"),
        "somebody else's": (body(foreign), {}, 404, "completion_id", "completion_not_found"),
        "somebody else's, expired": (
            body(new_completion_id(owner="somebody else", days_ago=40)),
            {},
            404,
            "completion_id",
            "completion_not_found",
        ),
        "somebody else's on the right": (
            elsewhere(foreign),
            {},
            404,
            "feedback.right.completion_id",
            "completion_not_found",
        ),
        "expired": (
            body(new_completion_id(days_ago=30.1)),
            {},
            410,
            "completion_id",
            "completion_expired",
        ),
        "expired on the right": (
            elsewhere(new_completion_id(days_ago=31)),
            {},
            410,
            "feedback.right.completion_id",
            "completion_expired",
        ),
        "too long": (body(good, reason="x" * 300_000), {}, 413, None, "body_too_large"),
    }


@pytest.mark.parametrize("name", error_cases())
async def test_errors_have_openai_s_shape_and_nothing_is_written(
    client: httpx.AsyncClient, log: SqliteLog, name: str
) -> None:
    content, headers, status, param, code = error_cases()[name]
    before = metric_value("plaudit_feedback_rejected_total", reason=code)
    text = content if isinstance(content, str) else json.dumps(content)
    answer = await client.post("/v1/feedback", content=text, headers=headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert answer.json() == {"error": error}
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert len(error["message"]) > 20
    assert stored_events(log) == []
    assert metric_value("plaudit_feedback_rejected_total", reason=code) == before + 1


async def test_forged_and_other_owners_ids_give_the_same_error(client: httpx.AsyncClient) -> None:
    ids = [
        "chatcmpl-made-up",
        new_completion_id(owner="o"),
        new_completion_id(owner="o", days_ago=99),
        new_completion_id()[:-2] + "AA",
    ]
    answers = [await client.post("/v1/feedback", json=body(i)) for i in ids]
    assert {(a.status_code, a.text) for a in answers} == {(404, answers[0].text)}


async def test_a_body_without_a_length_is_measured_as_it_comes(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 65_536

    answer = await client.post("/v1/feedback", content=chunks())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert sent == 5
    assert stored_events(log) == []


async def test_an_answer_and_its_regeneration_can_be_compared(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    one, again, other = new_completion_id(), new_completion_id(), new_completion_id()
    put(log, completion(one), completion(again), completion(other, question="Who?"))

    def across(right: str) -> dict[str, Any]:
        candidate = {"completion_id": right, "choice": 1}
        comparison = {"kind": "comparison", "left": 0, "right": candidate, "verdict": "right"}
        return body(one, comparison, shown=[candidate, 0])

    accepted = await client.post("/v1/feedback", json=across(again))
    assert accepted.status_code == 201
    assert accepted.json()["feedback"] == across(again)["feedback"]
    unseen = await client.post("/v1/feedback", json=across(new_completion_id()))
    assert unseen.status_code == 201, "its record may be on its way; its id certifies the owner"
    refused = await client.post("/v1/feedback", json=across(other))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "different_messages")
    assert len(stored_events(log)) == 2


async def test_the_caller_is_the_middleware_s_not_the_header_s(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    app = FastAPI()
    app.include_router(feedback_router(log, new_view(), SECRET))

    @app.middleware("http")
    async def owner(request: Request, call_next: Callable[[Request], Any]) -> Response:
        request.state.caller = Caller("set by the middleware", "user", "anna")
        response: Response = await call_next(request)
        return response

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://plaudit") as client:
        sent = body(new_completion_id("set by the middleware"))
        answer = await client.post(
            "/v1/feedback", json=sent, headers={"Authorization": "Bearer sk-1"}
        )
    assert answer.status_code == 201
    assert stored_events(log)[0].owner == "set by the middleware"


async def test_without_a_caller_the_routes_are_a_programming_error(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    app = FastAPI()
    app.include_router(feedback_router(log, new_view(), SECRET))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://plaudit") as client:
        for method, path in (("GET", ""), ("POST", ""), ("GET", "/fb-1"), ("DELETE", "/fb-1")):
            with pytest.raises(RuntimeError, match="caller"):
                await client.request(method, f"/v1/feedback{path}", json=body(new_completion_id()))
    assert not stored_events(log)


async def test_openai_s_client_understands_the_errors(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    async with client_of(log, new_view()) as http:
        client = openai.AsyncOpenAI(
            api_key="sk-1", base_url="http://plaudit/v1", http_client=http, max_retries=0
        )
        with pytest.raises(openai.NotFoundError) as caught:
            await client.post("/feedback", body=body("chatcmpl-x"), cast_to=object)
    assert caught.value.code == "completion_not_found"
    assert caught.value.param == "completion_id"


async def test_the_routes_are_described_with_their_bodies(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    post = schema["paths"]["/v1/feedback"]["post"]
    body_schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert set(body_schema["required"]) == {"completion_id", "feedback"}
    references = [one["$ref"] for one in body_schema["properties"]["feedback"]["oneOf"]]
    names = {reference.removeprefix("#/components/schemas/") for reference in references}
    assert len(names) == 6
    assert names <= set(schema["components"]["schemas"])
    assert "201" in post["responses"]
