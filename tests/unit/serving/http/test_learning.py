"""The learning stream on a real uvicorn: many listeners, and a stop that does not wait for them."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request

from feedback.control.history import History
from feedback.control.key_operations import make_key, revoke_key
from feedback.control.learning import Learning
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from feedback.view.feedback_view import View
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Published
from serving.http.learning import LearningFeed, learning_router
from tests.support.servers import free_port


async def test_a_stream_ends_when_its_key_is_revoked_or_keys_become_needed(tmp_path: Path) -> None:
    log, view = SqliteLog(tmp_path / "log.db"), View(tmp_path / "view.db")
    history, registry = History(log), FolderRegistry(tmp_path / "registry")
    feed = LearningFeed(Learning(history, registry, view), lambda: False)

    def is_authorized(token: str) -> bool:
        return not history.keys.required or history.keys.find(token) is not None

    router = learning_router(feed, registry, is_authorized)
    (route,) = [r for r in router.routes if getattr(r, "path", "").endswith("/events")]

    async def opened(token: str) -> Any:
        headers = [(b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": "GET", "path": route.path, "headers": headers}
        response = await route.endpoint(Request(scope))
        stream = response.body_iterator
        assert "event: learning" in await anext(stream)
        return stream

    keyless = await opened("")
    _, token = make_key(log, history.keys, "user", by="test", name="anna")
    history.poll()
    with pytest.raises(StopAsyncIteration):
        await anext(keyless)
    keyed = await opened(token)
    revoke_key(log, history.keys, "anna", by="test")
    history.poll()
    with pytest.raises(StopAsyncIteration):
        await anext(keyed)
    view.close()
    log.close()


def test_a_stop_ends_the_streams_at_once(tmp_path: Path) -> None:
    log, view = SqliteLog(tmp_path / "log.db"), View(tmp_path / "view.db")
    append_policy_event(log, Published(version=1))
    history, registry = History(log), FolderRegistry(tmp_path / "registry")
    history.poll()
    app, port = FastAPI(), free_port()
    feed = LearningFeed(Learning(history, registry, view), lambda: server.should_exit)
    app.include_router(learning_router(feed, registry, lambda _: True))
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=10
    )
    server = uvicorn.Server(config)
    serving = threading.Thread(target=server.run)
    serving.start()
    heard: list[int] = []

    def listen() -> None:
        url = f"http://127.0.0.1:{port}/v1/learning/events"
        with httpx.stream("GET", url, timeout=30) as stream:
            data = (line for line in stream.iter_lines() if line.startswith("data: "))
            heard.extend(json.loads(line.removeprefix("data: "))["live"] for line in data)

    try:
        while not server.started:
            time.sleep(0.01)
        listeners = [threading.Thread(target=listen) for _ in range(5)]
        for listener in listeners:
            listener.start()
        while len(heard) < 5:
            time.sleep(0.01)
    finally:
        began = time.monotonic()
        server.should_exit = True
        serving.join()
        took = time.monotonic() - began
    for listener in listeners:
        listener.join()
    view.close()
    log.close()
    assert heard == [1] * 5
    assert took < 3, "it would be 10 s if the listeners were waited for"
