"""Reading and retracting feedback over HTTP."""

from collections.abc import Callable

import httpx
import pytest

from feedback.log.event_log import NewRecord
from feedback.log.sqlite_log import SqliteLog
from feedback.view.feedback_view import View
from tests.support.feedback_api import (
    RATING,
    body,
    client_of,
    metric_value,
    new_completion_id,
    stored_events,
)
from tests.support.feedback_samples import put, rating


async def test_events_are_read_listed_and_replaced(client: httpx.AsyncClient) -> None:
    one, other = new_completion_id(), new_completion_id()
    posts = [
        await client.post("/v1/feedback", json=sent)
        for sent in [
            body(one),
            body(other),
            body(one, {**RATING, "value": "down"}),
            body(one, {"kind": "comment", "choice": 1, "text": "hm"}),
        ]
    ]
    ids = [p.json()["id"] for p in posts]
    read = await client.get(f"/v1/feedback/{ids[0]}")
    assert read.json() == {**posts[0].json(), "superseded": True}
    listed = (await client.get("/v1/feedback", params={"completion_id": one})).json()
    assert (listed["object"], listed["has_more"]) == ("list", False)
    assert [(e["id"], e["superseded"]) for e in listed["data"]] == [
        (ids[0], True),
        (ids[2], False),
        (ids[3], False),
    ]
    page = (await client.get("/v1/feedback", params={"limit": 3})).json()
    assert ([e["id"] for e in page["data"]], page["has_more"]) == (ids[:3], True)
    rest = (await client.get("/v1/feedback", params={"limit": 3, "after": ids[2]})).json()
    assert ([e["id"] for e in rest["data"]], rest["has_more"]) == (ids[3:], False)


async def test_an_expired_completion_s_feedback_can_still_be_read(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    completion_id = new_completion_id(days_ago=40)
    put(log, rating("fb-old", completion_id=completion_id))
    listed = await client.get("/v1/feedback", params={"completion_id": completion_id})
    assert [e["id"] for e in listed.json()["data"]] == ["fb-old"]


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("limit=0", 400, "limit"),
        ("limit=101", 400, "limit"),
        ("limit=ten", 400, "limit"),
        ("limit=1e1", 400, "limit"),
        ("limit=9999999999999999999", 400, "limit"),
        ("limit=", 400, "limit"),
        ("completion=x", 400, "completion"),
        ("after=fb-none", 404, "after"),
        ("completion_id=chatcmpl-x", 404, "completion_id"),
    ],
)
async def test_bad_queries_are_refused(
    client: httpx.AsyncClient, query: str, status: int, param: str
) -> None:
    answer = await client.get(f"/v1/feedback?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_deleting_retracts_once_and_for_good(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    completion_id = new_completion_id()
    posted = (await client.post("/v1/feedback", json=body(completion_id, user="anne"))).json()
    before = metric_value("plaudit_feedback_total", kind="rating", outcome="retracted")
    for _ in range(2):
        deleted = await client.delete(f"/v1/feedback/{posted['id']}")
        assert deleted.status_code == 200
        assert deleted.json() == {
            "id": posted["id"],
            "object": "feedback.deleted",
            "deleted": True,
        }
    vote, retraction = stored_events(log)
    assert retraction.retraction.event_id == vote.event_id
    assert retraction.completion_id == completion_id, "so that it stays behind its event"
    assert (retraction.owner, retraction.subject) == (vote.owner, vote.subject)
    assert (await client.get(f"/v1/feedback/{posted['id']}")).status_code == 404
    assert (await client.get("/v1/feedback")).json()["data"] == []
    retracted = metric_value("plaudit_feedback_total", kind="rating", outcome="retracted")
    assert retracted == before + 1


async def test_another_owner_neither_reads_nor_deletes(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    view = new_view()
    async with client_of(log, view) as client:
        posted = (await client.post("/v1/feedback", json=body(new_completion_id()))).json()["id"]
    async with client_of(log, view, Authorization="Bearer sk-thief") as thief:
        answers = [
            await thief.get(f"/v1/feedback/{posted}"),
            await thief.delete(f"/v1/feedback/{posted}"),
            await thief.get("/v1/feedback/fb-none"),
            await thief.delete("/v1/feedback/fb-none"),
        ]
        assert (await thief.get("/v1/feedback")).json()["data"] == []
    assert {(a.status_code, a.text) for a in answers} == {(404, answers[2].text)}
    assert answers[0].json()["error"]["code"] == "feedback_not_found"
    assert len(stored_events(log)) == 1


async def test_a_record_of_a_foreign_producer_can_be_read(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    """Limits are for requests: what is in the log is shown, also with ids of its own."""
    log.append("feedback", [NewRecord("x", "t", b"")])
    put(log, rating("imported", completion_id="c" * 500))
    answer = await client.get("/v1/feedback/imported")
    assert (answer.status_code, answer.json()["policy_version"]) == (200, 0)
