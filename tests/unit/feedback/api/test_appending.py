"""Votes that arrive while others are appended, or while the log is away."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from feedback.disk import DiskReserve
from feedback.log.event_log import LogUnavailable, Topic
from feedback.log.events import feedback_kind
from feedback.log.sqlite_log import SqliteLog
from feedback.view.feedback_view import View
from tests.support.feedback_api import (
    UnavailableLog,
    body,
    client_of,
    new_completion_id,
    stored_events,
)


async def test_503_while_the_log_is_away(new_view: Callable[[], View]) -> None:
    async with client_of(UnavailableLog(), new_view()) as client:
        answers = [
            await client.post("/v1/feedback", json=body(new_completion_id())),
            await client.post(
                "/v1/feedback", json=body(new_completion_id()), headers={"Idempotency-Key": "k"}
            ),
            await client.get("/v1/feedback"),
            await client.get("/v1/feedback/fb-1"),
            await client.delete("/v1/feedback/fb-1"),
        ]
    for answer in answers:
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "log_unavailable")
        assert "Try again" in error["message"]


async def test_503_while_the_disk_is_almost_full_and_what_is_stored_stays_readable(
    log: SqliteLog, new_view: Callable[[], View], tmp_path: Path
) -> None:
    view, voted = new_view(), new_completion_id()
    async with client_of(log, view, reserve=DiskReserve(tmp_path, 1)) as client:
        first = await client.post("/v1/feedback", json=body(voted))
        assert first.status_code == 201
    reserve = DiskReserve(tmp_path, shutil.disk_usage(tmp_path).total + 1)
    async with client_of(log, view, reserve=reserve) as client:
        answer = await client.post("/v1/feedback", json=body(voted))
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "disk_low")
        assert "an operator has to free some space" in error["message"]
        assert (await client.get(f"/v1/feedback/{first.json()['id']}")).status_code == 200
        assert (await client.delete(f"/v1/feedback/{first.json()['id']}")).status_code == 200
    assert [feedback_kind(e) for e in stored_events(log)] == ["rating", "retraction"]


class Slow(SqliteLog):
    """Passes appends on, or fails them, on demand."""

    def __init__(self, log: SqliteLog) -> None:
        self.log = log
        self.sizes: list[int] = []
        self.release = threading.Event()
        self.error: Exception | None = None

    def append(self, topic: Topic, records: Any) -> None:
        self.sizes.append(len(records))
        assert self.release.wait(20)
        if self.error is not None:
            raise self.error
        self.log.append(topic, records)


async def _post_while_one_is_under_way(
    slow: Slow, view: View, bodies: list[dict[str, Any]]
) -> list[httpx.Response]:
    answers: list[httpx.Response] = []
    async with client_of(slow, view) as client, anyio.create_task_group() as group:

        async def post(sent: dict[str, Any]) -> None:
            answers.append(await client.post("/v1/feedback", json=sent))

        group.start_soon(post, bodies[0])
        while not slow.sizes:
            await anyio.sleep(0.001)
        for sent in bodies[1:]:
            group.start_soon(post, sent)
        await anyio.sleep(0.1)
        assert not answers
        slow.release.set()
    return answers


async def test_what_comes_while_one_is_appended_shares_the_next_append(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    slow = Slow(log)
    answers = await _post_while_one_is_under_way(
        slow, new_view(), [body(new_completion_id()) for _ in range(65)]
    )
    assert [answer.status_code for answer in answers] == [201] * 65
    assert slow.sizes == [1, 64]
    assert len({event.event_id for event in stored_events(log)}) == 65


async def test_when_an_append_fails_nobody_behind_it_waits_for_another(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    slow = Slow(log)
    slow.error = LogUnavailable("the broker is away")
    answers = await _post_while_one_is_under_way(slow, new_view(), [body(new_completion_id())] * 9)
    assert [answer.status_code for answer in answers] == [503] * 9
    assert slow.sizes == [1]


async def test_more_than_the_buffer_takes_is_a_503_at_once(
    log: SqliteLog, new_view: Callable[[], View], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.log.group_commit.MAX_WAITING", 3)
    slow = Slow(log)
    async with client_of(slow, new_view()) as client, anyio.create_task_group() as group:
        statuses: list[int] = []

        async def post() -> None:
            statuses.append(
                (await client.post("/v1/feedback", json=body(new_completion_id()))).status_code
            )

        group.start_soon(post)
        while not slow.sizes:
            await anyio.sleep(0.001)
        for _ in range(5):
            group.start_soon(post)
        while len(statuses) < 2:
            await anyio.sleep(0.001)
        assert statuses == [503, 503]
        slow.release.set()
    assert statuses == [503, 503, 201, 201, 201, 201]
