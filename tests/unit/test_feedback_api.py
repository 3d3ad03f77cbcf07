"""The feedback routes over HTTP, on a real log: every status of the design, and its body."""

import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response

from feedback.api import feedback_router
from feedback.identity import Secret, event_id, mint, owner_of
from feedback.keys import Caller
from feedback.log import LogRecord, LogUnavailable, NewRecord, Positions, Topic
from feedback.records import feedback_record
from feedback.schema import FeedbackRequest
from feedback.sqlite_log import SqliteLog
from feedback.translate import event_of
from feedback.view import View
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from tests.feedback_samples import completion, put, rating

SECRET = Secret("00000001", {"00000001": b"k" * 32}, b"i" * 32)
RATING = {"kind": "rating", "choice": 0, "value": "up"}
DAY = 24 * 3600


class Away(SqliteLog):
    """A log that answers nothing."""

    def __init__(self) -> None: ...

    def append(self, topic: Topic, records: Any) -> None:
        raise LogUnavailable("the broker is away")

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        raise LogUnavailable("the broker is away")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


@pytest.fixture
def new_view(tmp_path: Path) -> Iterator[Callable[[], View]]:
    views: list[View] = []

    def make() -> View:
        views.append(View(tmp_path / f"view{len(views)}.db"))
        return views[-1]

    yield make
    for view in views:
        view.close()


def client_of(log: SqliteLog, view: View, **headers: str) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(feedback_router(log, view, SECRET))
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://plaudit", headers=headers)


@pytest.fixture
async def client(log: SqliteLog, new_view: Callable[[], View]) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(log, new_view()) as opened:
        yield opened


def made(owner: str = "local", choices: int = 2, version: int = 3, days_ago: float = 0) -> str:
    return mint(SECRET, owner, choices, version, now=time.time() - days_ago * DAY)


def body(completion_id: str, feedback: Any = RATING, **fields: Any) -> dict[str, Any]:
    return {"completion_id": completion_id, "feedback": feedback, **fields}


def stored(log: SqliteLog) -> list[FeedbackEvent]:
    return [FeedbackEvent.FromString(r.value) for r in log.read("feedback", {})]


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


async def test_201_says_what_was_taken_and_it_is_in_the_log(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    completion_id = made()
    before = counted("plaudit_feedback_total", kind="rating", outcome="accepted")
    answer = await client.post("/v1/feedback", json=body(completion_id, user="anne"))
    assert answer.status_code == 201
    [event] = stored(log)
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
    assert counted("plaudit_feedback_total", kind="rating", outcome="accepted") == before + 1


def error_cases() -> dict[str, tuple[Any, dict[str, str], int, str | None, str]]:
    """Name: body, headers, status, param, code."""
    good, foreign = made(), made(owner="somebody else")
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
            body(good, {**left, "right": {"completion_id": made(), "choice": 2}}),
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
            body(made(choices=0)),
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
            body(made(owner="somebody else", days_ago=40)),
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
        "expired": (body(made(days_ago=30.1)), {}, 410, "completion_id", "completion_expired"),
        "expired on the right": (
            elsewhere(made(days_ago=31)),
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
    before = counted("plaudit_feedback_rejected_total", reason=code)
    text = content if isinstance(content, str) else json.dumps(content)
    answer = await client.post("/v1/feedback", content=text, headers=headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert answer.json() == {"error": error}
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert len(error["message"]) > 20
    assert stored(log) == []
    assert counted("plaudit_feedback_rejected_total", reason=code) == before + 1


async def test_forged_and_somebody_else_s_are_told_alike(client: httpx.AsyncClient) -> None:
    ids = ["chatcmpl-made-up", made(owner="o"), made(owner="o", days_ago=99), made()[:-2] + "AA"]
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
    assert stored(log) == []


async def test_503_while_the_log_is_away(new_view: Callable[[], View]) -> None:
    async with client_of(Away(), new_view()) as client:
        answers = [
            await client.post("/v1/feedback", json=body(made())),
            await client.post("/v1/feedback", json=body(made()), headers={"Idempotency-Key": "k"}),
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


async def test_the_same_key_and_body_give_the_first_answer(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    key, sent = {"Idempotency-Key": "k1"}, body(made(), user="anne")
    first = await client.post("/v1/feedback", json=sent, headers=key)
    before = counted("plaudit_feedback_total", kind="rating", outcome="duplicate")
    again = await client.post("/v1/feedback", content=json.dumps(sent, indent=4), headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert len(stored(log)) == 1
    assert counted("plaudit_feedback_total", kind="rating", outcome="duplicate") == before + 1


@pytest.mark.parametrize("change", [{"user": "b"}, {"feedback": {**RATING, "value": "down"}}])
async def test_the_same_key_with_another_body_is_409(
    client: httpx.AsyncClient, log: SqliteLog, change: dict[str, Any]
) -> None:
    key, sent = {"Idempotency-Key": "k1"}, body(made(), user="a")
    await client.post("/v1/feedback", json=sent, headers=key)
    refused = await client.post("/v1/feedback", json={**sent, **change}, headers=key)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "idempotency_key_reused"
    assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert len(stored(log)) == 1


async def test_racing_posts_with_one_key_are_one_event(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    sent, answers = body(made()), []

    async def post() -> None:
        answer = await client.post("/v1/feedback", json=sent, headers={"Idempotency-Key": "k"})
        answers.append(answer)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(post)
    assert sorted(a.status_code for a in answers) == [200] * 19 + [201]
    assert {a.text for a in answers} == {answers[0].text}
    assert len(stored(log)) == 1


async def test_a_key_used_on_another_replica_is_known_here(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    key, sent = {"Idempotency-Key": "k"}, body(made())
    async with client_of(log, new_view()) as one, client_of(log, new_view()) as other:
        first = await one.post("/v1/feedback", json=sent, headers=key)
        again = await other.post("/v1/feedback", json=sent, headers=key)
        refused = await other.post("/v1/feedback", json=body(made()), headers=key)
    assert (first.status_code, again.status_code, refused.status_code) == (201, 200, 409)
    assert again.json() == first.json()
    assert len(stored(log)) == 1


@pytest.mark.parametrize(("their_value", "status"), [("up", 200), ("down", 409)])
async def test_of_two_replicas_racing_events_the_log_s_first_is_answered(
    tmp_path: Path, new_view: Callable[[], View], their_value: str, status: int
) -> None:
    completion_id = made()
    theirs = FeedbackRequest.model_validate(body(completion_id, {**RATING, "value": their_value}))
    event = event_of(
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
            sent = body(made(owner_of(SECRET, api_key)))
            answers.append(await client.post("/v1/feedback", json=sent, headers=key))
    assert [a.status_code for a in answers] == [201, 201]
    assert answers[0].json()["id"] != answers[1].json()["id"]


async def test_events_are_read_listed_and_replaced(client: httpx.AsyncClient) -> None:
    one, other = made(), made()
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
    completion_id = made(days_ago=40)
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
        ("after=fb-none", 400, "after"),
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
    completion_id = made()
    posted = (await client.post("/v1/feedback", json=body(completion_id, user="anne"))).json()
    before = counted("plaudit_feedback_total", kind="rating", outcome="retracted")
    for _ in range(2):
        deleted = await client.delete(f"/v1/feedback/{posted['id']}")
        assert deleted.status_code == 200
        assert deleted.json() == {
            "id": posted["id"],
            "object": "feedback.deleted",
            "deleted": True,
        }
    vote, retraction = stored(log)
    assert retraction.retraction.event_id == vote.event_id
    assert retraction.completion_id == completion_id, "so that it stays behind its event"
    assert (retraction.owner, retraction.subject) == (vote.owner, vote.subject)
    assert (await client.get(f"/v1/feedback/{posted['id']}")).status_code == 404
    assert (await client.get("/v1/feedback")).json()["data"] == []
    retracted = counted("plaudit_feedback_total", kind="rating", outcome="retracted")
    assert retracted == before + 1


async def test_a_repeated_key_after_deleting_is_still_the_first_answer(
    client: httpx.AsyncClient,
) -> None:
    key, sent = {"Idempotency-Key": "k"}, body(made())
    first = await client.post("/v1/feedback", json=sent, headers=key)
    await client.delete(f"/v1/feedback/{first.json()['id']}")
    again = await client.post("/v1/feedback", json=sent, headers=key)
    assert (again.status_code, again.json()) == (200, first.json())


async def test_another_owner_neither_reads_nor_deletes(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    view = new_view()
    async with client_of(log, view) as client:
        posted = (await client.post("/v1/feedback", json=body(made()))).json()["id"]
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
    assert len(stored(log)) == 1


async def test_an_answer_and_its_regeneration_can_be_compared(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    one, again, other = made(), made(), made()
    put(log, completion(one), completion(again), completion(other, question="Who?"))

    def across(right: str) -> dict[str, Any]:
        candidate = {"completion_id": right, "choice": 1}
        opinion = {"kind": "comparison", "left": 0, "right": candidate, "verdict": "right"}
        return body(one, opinion, shown=[candidate, 0])

    accepted = await client.post("/v1/feedback", json=across(again))
    assert accepted.status_code == 201
    assert accepted.json()["feedback"] == across(again)["feedback"]
    unseen = await client.post("/v1/feedback", json=across(made()))
    assert unseen.status_code == 201, "its record may be on its way; its id certifies the owner"
    refused = await client.post("/v1/feedback", json=across(other))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "different_messages")
    assert len(stored(log)) == 2


async def test_a_middleware_s_caller_comes_before_the_header(
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
        sent = body(made("set by the middleware"))
        answer = await client.post(
            "/v1/feedback", json=sent, headers={"Authorization": "Bearer sk-1"}
        )
    assert answer.status_code == 201
    assert stored(log)[0].owner == "set by the middleware"


class Slow(SqliteLog):
    """Lets appends through, or fails them, when it is told to."""

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
        slow, new_view(), [body(made()) for _ in range(65)]
    )
    assert [answer.status_code for answer in answers] == [201] * 65
    assert slow.sizes == [1, 64]
    assert len({event.event_id for event in stored(log)}) == 65


async def test_when_an_append_fails_nobody_behind_it_waits_for_another(
    log: SqliteLog, new_view: Callable[[], View]
) -> None:
    slow = Slow(log)
    slow.error = LogUnavailable("the broker is away")
    answers = await _post_while_one_is_under_way(slow, new_view(), [body(made())] * 9)
    assert [answer.status_code for answer in answers] == [503] * 9
    assert slow.sizes == [1]


async def test_more_than_the_buffer_takes_is_a_503_at_once(
    log: SqliteLog, new_view: Callable[[], View], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.group_commit.MAX_WAITING", 3)
    slow = Slow(log)
    async with client_of(slow, new_view()) as client, anyio.create_task_group() as group:
        statuses: list[int] = []

        async def post() -> None:
            statuses.append((await client.post("/v1/feedback", json=body(made()))).status_code)

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


async def test_a_record_of_a_foreign_producer_can_be_read(
    client: httpx.AsyncClient, log: SqliteLog
) -> None:
    """Limits are for requests: what is in the log is shown, also with ids of its own."""
    log.append("feedback", [NewRecord("x", "t", b"")])
    put(log, rating("imported", completion_id="c" * 500))
    answer = await client.get("/v1/feedback/imported")
    assert (answer.status_code, answer.json()["policy_version"]) == (200, 0)
