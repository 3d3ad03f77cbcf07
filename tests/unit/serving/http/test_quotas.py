"""Daily quotas of keys: completions, tokens asked for, and bytes."""

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feedback.control.keys import KeyRing, token_digest
from feedback.privacy.identity import load_or_create_secret
from protos.plaudit.v1.policy_pb2 import KeyMade
from serving.context import RequestContext
from serving.engine.client import _count_tokens
from serving.http.access import Access
from serving.http.middleware import CompletionMiddleware
from serving.http.quotas import asked_tokens
from serving.http.usage import KINDS, Usage, usage_file
from tests.support.door import CHAT, chat, error_of

ID = "key-1"


class Door:
    """The middleware with one key, in front of an app that reads every body."""

    def __init__(self, home: Path, **quotas: int) -> None:
        secret = load_or_create_secret(home / "secret.json")
        made = KeyMade(id=ID, name="anna", role="user", digest=token_digest("t"), **quotas)
        keys = KeyRing().add_key(made, 0)
        self.usage = Usage(usage_file(home))
        app = FastAPI()

        async def read(request: Request) -> Response:
            await request.body()
            return JSONResponse({})

        app.add_route("/{path:path}", read, methods=["POST"])
        wrapped = CompletionMiddleware(
            app,
            secret=secret,
            access=Access(secret, lambda: keys, self.usage),
            max_body_bytes=4 << 20,
            live_version=lambda: 1,
            ready=lambda: True,
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(wrapped),
            base_url="http://127.0.0.1:8000",
            headers={"Authorization": "Bearer t"},
        )

    async def post(self, path: str = CHAT, **fields: Any) -> int:
        answer = await self.http.post(path, json=chat(**fields))
        if answer.status_code == 429:
            assert error_of(answer)["code"] == "insufficient_quota"
        return answer.status_code

    def used(self) -> tuple[int, ...]:
        return tuple(self.usage.used(ID, kind) for kind in KINDS)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Any]:
    doors: list[Door] = []

    def make(**quotas: int) -> Door:
        doors.append(Door(tmp_path, **quotas))
        return doors[-1]

    yield make
    for door in doors:
        await door.http.aclose()
        door.usage.close()


async def test_tokens_asked_for_are_choices_times_their_limit(opened: Any) -> None:
    door = opened(token_quota=100)
    assert await door.post(n=2, max_tokens=30) == 200
    assert await door.post(n=2, max_tokens=30) == 429
    assert await door.post(max_completion_tokens=40) == 200
    assert door.used() == (0, 100, 0)
    assert await door.post() == 429, "what the engine counts later may not begin at the quota"


async def test_bytes_count_on_every_route_that_takes_a_body(opened: Any) -> None:
    door = opened(byte_quota=10_000)
    for path in (CHAT, "/v1/completions", "/tokenize", "/v1/feedback"):
        body = {"messages": [{"role": "user", "content": " " * 2400}], "prompt": "x"}
        assert (await door.http.post(path, json=body)).status_code == 200
    assert 9600 < door.used()[2] < 10_000
    door.usage.add(ID, "bytes", 10_000)
    for path in (CHAT, "/v1/completions", "/tokenize", "/v1/feedback"):
        assert await door.post(path) == 429


async def test_blank_space_of_megabytes_is_refused_by_its_bytes(opened: Any) -> None:
    door = opened(byte_quota=1 << 20)
    assert await door.post(messages=[{"role": "user", "content": " " * (2 << 20)}]) == 429
    assert door.used() == (0, 0, 0)
    assert await door.post() == 200


async def test_a_refused_request_uses_no_quota(opened: Any) -> None:
    door = opened(quota=2, token_quota=100, byte_quota=10_000)
    answers = [await door.post(n=True), await door.post(messages="x"), await door.post(n=0)]
    assert answers == [400] * 3
    assert door.used() == (0, 0, 0)
    assert [await door.post(max_tokens=1) for _ in range(3)] == [200, 200, 429]
    assert door.used()[:2] == (2, 2)


async def test_kinds_without_a_quota_are_not_counted(opened: Any) -> None:
    door = opened(quota=5)
    assert await door.post(max_tokens=7) == 200
    assert door.used() == (1, 0, 0)


def test_the_rest_of_what_was_asked_for_is_counted_once_vllm_has_tokenised_it() -> None:
    counted: list[int] = []
    context = RequestContext("c", "o", "", None, asked_tokens=60, add_tokens=counted.append)
    params: Any = SimpleNamespace(n=2, max_tokens=30)
    _count_tokens(context, {"prompt_token_ids": [1, 2, 3]}, params)
    assert counted == [3]
    context = RequestContext("c", "o", "", None, add_tokens=counted.append)
    _count_tokens(context, {"prompt_token_ids": [1]}, SimpleNamespace(n=1, max_tokens=500))  # type: ignore[arg-type]
    assert counted == [3, 501]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (CHAT, {"max_tokens": 5}, 15),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, 21),
        (CHAT, {}, 0),
        (CHAT, {"max_tokens": None}, 0),
        ("/v1/completions", {"prompt": "x"}, 48),
        ("/v1/completions", {"prompt": ["x", "y"], "max_tokens": 4}, 24),
        ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 4}, 12),
    ],
)
def test_tokens_that_a_body_names(path: str, body: dict[str, Any], expected: int) -> None:
    assert asked_tokens(path, body, 3) == expected


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "usage.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "CREATE TABLE usage (day INTEGER NOT NULL, key_id TEXT NOT NULL, "
            "used INTEGER NOT NULL, PRIMARY KEY (day, key_id))"
        )
        db.execute("INSERT INTO usage VALUES (?, ?, 9)", (int(time.time() // 86_400), ID))
        db.commit()
    return path


def test_counts_of_earlier_releases_are_kept(old_file: Path) -> None:
    usage = Usage(old_file)
    assert [usage.used(ID, kind) for kind in KINDS] == [9, 0, 0]
    usage.close()
    usage = Usage(old_file)
    assert usage.used(ID) == 9
    usage.close()
