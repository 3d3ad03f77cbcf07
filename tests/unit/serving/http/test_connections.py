"""Slow clients on a real uvicorn: deadlines of heads, bodies and answers, and limits."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serving.http.connections import ConnectionLimits, Connections
from tests.support.servers import free_port

LIMITS = ConnectionLimits(
    connections=20,
    per_address=8,
    head_seconds=0.5,
    body_seconds=1.0,
    idle_seconds=0.7,
    write_seconds=0.5,
)
HALF_BODY = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{"


@dataclass(frozen=True)
class Served:
    """A server on a thread.

    Attributes:
        port: Port that it listens on.
        connections: Its open connections.
        release: Ends the requests to `/wait`.

    """

    port: int
    connections: Connections
    release: threading.Event

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """Return a connection from a loopback address."""
        return socket.create_connection(("127.0.0.1", self.port), 10, (source, 0))

    def get(self, path: str = "/fast") -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)


def _app(release: threading.Event) -> FastAPI:
    app = FastAPI()

    @app.get("/fast")
    async def fast() -> str:
        return "here"

    @app.get("/wait")
    async def wait() -> str:
        while not release.is_set():
            await asyncio.sleep(0.01)
        return "there"

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    @app.post("/refuse")
    async def refuse() -> Response:
        return Response(status_code=401)

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0)
                yield b"x" * 65536

        return StreamingResponse(chunks())

    return app


@contextlib.contextmanager
def _serving(limits: ConnectionLimits) -> Iterator[Served]:
    connections, release = Connections(limits), threading.Event()
    config = uvicorn.Config(
        _app(release),
        port=free_port(),
        http=connections.protocol(),
        ws="none",
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Served(config.port, connections, release)
    finally:
        release.set()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with _serving(LIMITS) as server:
        yield server


def _all(connection: socket.socket) -> bytes:
    """Return what arrives until the server closes."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            content += chunk
    return content


def _answer(connection: socket.socket) -> bytes:
    """Return the next response, whole."""
    content = b""
    while b"\r\n\r\n" not in content:
        content += connection.recv(65536)
    head, _, body = content.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    while len(body) < int(length[1]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def _error(answer: bytes) -> tuple[int, str]:
    """Return status and code of an error, which must have OpenAI's shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


def _trickle(connection: socket.socket, content: bytes, seconds: float) -> None:
    """Send a byte every 0.1 s, for as long as the server takes them."""
    until = time.monotonic() + seconds
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in content:
            if time.monotonic() > until:
                break
            connection.sendall(bytes([byte]))
            time.sleep(0.1)


@pytest.mark.parametrize("sent", [b"GET /fast HT", b"GET /fast HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_half_sent_head_is_answered_408(served: Served, sent: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(sent)
        began = time.monotonic()
        assert _error(_all(connection)) == (408, "request_timeout")
        assert 0.3 < time.monotonic() - began < 2


def test_a_head_that_trickles_has_the_same_deadline(served: Served) -> None:
    with served.connect() as connection:
        began = time.monotonic()
        _trickle(connection, b"GET /fast HTTP/1.1\r\n" + b"X" * 100, 3)
        assert time.monotonic() - began < 2.5


def test_a_half_sent_body_is_answered_408(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(HALF_BODY)
        assert _error(_all(connection)) == (408, "request_timeout")


def test_a_body_that_nobody_reads_has_the_same_deadline(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(HALF_BODY.replace(b"/echo", b"/refuse"))
        began = time.monotonic()
        _trickle(connection, b" " * 5, 5)
        answer = _all(connection)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 401")
        assert time.monotonic() - began < 2.5


def test_a_silent_connection_is_closed_without_an_answer(served: Served) -> None:
    with served.connect() as connection:
        assert _all(connection) == b""


@pytest.mark.parametrize("kept_by", [b"", b"\r\n" * 100])
def test_an_idle_connection_is_closed(served: Served, kept_by: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n")
        assert _answer(connection).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        _trickle(connection, kept_by, 5)
        assert _all(connection) == b""
        assert time.monotonic() - began < 2.5


def test_several_requests_of_a_connection_each_have_their_deadlines(served: Served) -> None:
    with served.connect() as connection:
        for _ in range(3):
            time.sleep(0.3)
            connection.sendall(HALF_BODY)
            time.sleep(0.3)
            connection.sendall(b'"abcdefg"')
            assert _answer(connection).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_all_answered(served: Served) -> None:
    with served.connect() as connection:
        body = HALF_BODY + b'"abcdefg"'
        connection.sendall(body * 3)
        answer = _all(connection)
        assert answer.count(b"HTTP/1.1 200") == 3


def test_a_long_answer_has_no_deadline(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(1.5)
        served.release.set()
        assert _answer(connection).startswith(b"HTTP/1.1 200")
    served.release.clear()


def test_a_client_that_reads_nothing_loses_its_connection(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(1.5)
        assert len(served.connections) == 0


def test_a_head_without_end_is_answered_431(served: Served) -> None:
    with served.connect() as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"GET /fast HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (1 << 20))
        answer = _all(connection)
    assert not answer or _error(answer) == (431, "head_too_large")
    assert len(served.connections) == 0


@pytest.mark.parametrize("half", [b"", b"GET /fast HT", HALF_BODY])
def test_slow_clients_keep_nobody_out(half: bytes) -> None:
    slow = replace(LIMITS, head_seconds=60, body_seconds=60)
    with _serving(slow) as served, contextlib.ExitStack() as stack:
        sources = [f"127.0.0.{1 + n % 5}" for n in range(100)]
        for source in sources:
            stack.enter_context(served.connect(source)).sendall(half)
        for _ in range(10):
            assert served.get().status_code == 200
        assert len(served.connections) <= LIMITS.connections


def test_the_limit_of_an_address_leaves_room_for_others() -> None:
    with _serving(LIMITS) as served, contextlib.ExitStack() as stack:
        for _ in range(LIMITS.per_address):
            busy = stack.enter_context(served.connect("127.0.0.2"))
            busy.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.3)
        with served.connect("127.0.0.2") as one_more:
            assert _error(_all(one_more)) == (503, "too_many_connections")
        assert served.get().status_code == 200


def test_a_connection_over_the_limit_of_all_gets_503_if_all_are_answered() -> None:
    with _serving(replace(LIMITS, connections=4)) as served, contextlib.ExitStack() as stack:
        for n in range(4):
            busy = stack.enter_context(served.connect(f"127.0.0.{n + 2}"))
            busy.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.3)
        with served.connect() as one_more:
            assert _error(_all(one_more)) == (503, "too_many_connections")
        served.release.set()
        assert _answer(busy).startswith(b"HTTP/1.1 200")
        assert served.get().status_code == 200
