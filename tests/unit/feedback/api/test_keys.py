"""Idempotency keys: a vote counts once, whatever is sent twice and wherever."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from feedback.api.schema import FeedbackRequest
from feedback.api.translate import event_from_request
from feedback.log.event_log import Topic
from feedback.log.records import feedback_record
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import event_id, owner_of
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


async def test_the_same_key_and_body_give_the_first_answer(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    key, sent = {"Idempotency-Key": "k1"}, body(new_completion_id(), user="anne")
    first = await client.post("/v1/feedback", json=sent, headers=key)
    before = metric_value("plaudit_feedback_total", kind="rating", outcome="duplicate")
    again = await client.post("/v1/feedback", content=json.dumps(sent, indent=4), headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert len(stored_events(log)) == 1
    assert metric_value("plaudit_feedback_total", kind="rating", outcome="duplicate") == before + 1


@pytest.mark.parametrize("change", [{"user": "b"}, {"feedback": {**RATING, "value": "down"}}])
async def test_the_same_key_with_another_body_is_409(
    client: httpx.AsyncClient, log: SqliteLog, change: dict[str, Any]
) -> None:
    key, sent = {"Idempotency-Key": "k1"}, body(new_completion_id(), user="a")
    await client.post("/v1/feedback", json=sent, headers=key)
    refused = await client.post("/v1/feedback", json={**sent, **change}, headers=key)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "idempotency_key_reused"
    assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert len(stored_events(log)) == 1


async def test_racing_posts_with_one_key_are_one_event(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    sent, answers = body(new_completion_id()), []

    async def post() -> None:
        answer = await client.post("/v1/feedback", json=sent, headers={"Idempotency-Key": "k"})
        answers.append(answer)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(post)
    assert sorted(a.status_code for a in answers) == [200] * 19 + [201]
    assert {a.text for a in answers} == {answers[0].text}
    assert len(stored_events(log)) == 1


async def test_a_key_used_on_another_replica_is_known_here(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    key, sent = {"Idempotency-Key": "k"}, body(new_completion_id())
    async with client_of(log, new_view()) as one, client_of(log, new_view()) as other:
        first = await one.post("/v1/feedback", json=sent, headers=key)
        again = await other.post("/v1/feedback", json=sent, headers=key)
        refused = await other.post("/v1/feedback", json=body(new_completion_id()), headers=key)
    assert (first.status_code, again.status_code, refused.status_code) == (201, 200, 409)
    assert again.json() == first.json()
    assert len(stored_events(log)) == 1


@pytest.mark.parametrize(("their_value", "status"), [("up", 200), ("down", 409)])
async def test_of_two_replicas_racing_events_the_log_s_first_is_answered(
    tmp_path: Path, new_view: Callable[[], View], their_value: str, status: int
) -> None:
    completion_id = new_completion_id()
    theirs = FeedbackRequest.model_validate(body(completion_id, {**RATING, "value": their_value}))
    event = event_from_request(
        theirs, event_id=event_id(SECRET, "local", "k"), owner="local", subject="", created_ms=5000
    )

    class Overtaken(SqliteLog):
        def append(self, topic: Topic, records: Any) -> None:
            super().append(topic, [feedback_record(event)])
            super().append(topic, records)

    log = Overtaken(tmp_path / "raced.db")
    async with client_of(log, new_view()) as client:
        answer = await client.post(
            "/v1/feedback", json=body(completion_id), headers={"Idempotency-Key": "k"}
        )
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["created"] == 5
    log.close()


async def test_keys_are_the_owner_s_own(log: SqliteLog, new_view: Callable[[], View]) -> None:
    view, key = new_view(), {"Idempotency-Key": "k"}
    answers = []
    for api_key in ("sk-1", "sk-2"):
        async with client_of(log, view, Authorization=f"Bearer {api_key}") as client:
            sent = body(new_completion_id(owner_of(SECRET, api_key)))
            answers.append(await client.post("/v1/feedback", json=sent, headers=key))
    assert [a.status_code for a in answers] == [201, 201]
    assert answers[0].json()["id"] != answers[1].json()["id"]


async def test_a_repeated_key_after_deleting_is_still_the_first_answer(
    client: httpx.AsyncClient,
) -> None:
    key, sent = {"Idempotency-Key": "k"}, body(new_completion_id())
    first = await client.post("/v1/feedback", json=sent, headers=key)
    await client.delete(f"/v1/feedback/{first.json()['id']}")
    again = await client.post("/v1/feedback", json=sent, headers=key)
    assert (again.status_code, again.json()) == (200, first.json())
