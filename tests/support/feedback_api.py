"""HTTP clients of the feedback routes on a given log, and sample request bodies."""

import time
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from feedback.api.routes import feedback_router
from feedback.control.keys import Caller
from feedback.disk import DiskReserve
from feedback.log.event_log import LogRecord, LogUnavailable, Positions, Topic
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import Secret, create_completion_id, owner_of
from feedback.view.feedback_view import View
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent

SECRET = Secret("00000001", {"00000001": b"k" * 32}, b"i" * 32)
RATING = {"kind": "rating", "choice": 0, "value": "up"}
DAY = 24 * 3600


class UnavailableLog(SqliteLog):
    """A log whose every call fails, as during a broker outage."""

    def __init__(self) -> None: ...

    def append(self, topic: Topic, records: Any) -> None:
        raise LogUnavailable("the broker is away")

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        raise LogUnavailable("the broker is away")


def with_caller(app: ASGIApp, secret: Secret) -> ASGIApp:
    """Wrap `app` in a middleware that makes the owner of any bearer token an operator."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            token = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
            owner = owner_of(secret, token or None)
            scope.setdefault("state", {})["caller"] = Caller(owner, "operator", owner)
        await app(scope, receive, send)

    return wrapped


def client_of(
    log: SqliteLog, view: View, *, reserve: DiskReserve | None = None, **headers: str
) -> httpx.AsyncClient:
    """Return a client of the feedback routes on `log` and `view`, without a network."""
    app = FastAPI()
    app.include_router(feedback_router(log, view, SECRET, reserve=reserve))
    transport = httpx.ASGITransport(with_caller(app, SECRET))
    return httpx.AsyncClient(transport=transport, base_url="http://plaudit", headers=headers)


def new_completion_id(
    owner: str = "local", choices: int = 2, version: int = 3, days_ago: float = 0
) -> str:
    return create_completion_id(SECRET, owner, choices, version, now=time.time() - days_ago * DAY)


def body(completion_id: str, feedback: Any = RATING, **fields: Any) -> dict[str, Any]:
    return {"completion_id": completion_id, "feedback": feedback, **fields}


def stored_events(log: SqliteLog) -> list[FeedbackEvent]:
    return [FeedbackEvent.FromString(r.value) for r in log.read("feedback", {})]


def metric_value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0
