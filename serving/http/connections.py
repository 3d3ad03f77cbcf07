"""Deadlines and limits of connections: uvicorn's HTTP protocol, which slow clients cannot hold.

uvicorn itself waits without end for the rest of a request. Here each phase of a connection has a
deadline, and there is a limit of connections per address and in all. At a limit the connection that
has waited longest for a request, or for the rest of one, gives way to the new one. So half-sent and
idle connections cannot keep others out; only if all are being answered is a new one refused.
"""

import asyncio
import ipaddress
import logging
import resource
from dataclasses import dataclass
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from feedback.api.http_errors import ApiError
from serving import metrics

logger = logging.getLogger("plaudit.serving")

MAX_HEAD_BYTES: Final = 64 << 10
_IPV6_PREFIX: Final = 64  # bits of an address that one client has to itself
_OTHER_FILES: Final = 1024  # that this process may have open beside its connections


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of connections; 0 connections mean no limit.

    Attributes:
        connections: Connections in all.
        per_address: Connections per client address, or per /64 network of IPv6.
        head_seconds: Longest time until the head of a request has arrived.
        body_seconds: Longest time until its body has arrived after the head.
        idle_seconds: Longest time between two requests of a connection.
        write_seconds: Longest time in which a client reads nothing of an answer.

    """

    connections: int = 1000
    per_address: int = 256
    head_seconds: float = 10
    body_seconds: float = 60
    idle_seconds: float = 65
    write_seconds: float = 30


class _Phase(Enum):
    """What a connection waits for: a request, the rest of its head or body, or the answer."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"


class _Group:
    """The open connections that share a limit, and those of them that wait, oldest first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.members: set[BoundedProtocol] = set()
        self.waiting: dict[BoundedProtocol, None] = {}

    @property
    def full(self) -> bool:
        return 0 < self.limit <= len(self.members)


class Connections:
    """The open connections of a server, by address and in all. Used on the event loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        """Start without connections."""
        self.limits = limits
        self._all = _Group(limits.connections)
        self._addresses: dict[str, _Group] = {}

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._all.members)

    def protocol(self) -> type[asyncio.Protocol]:
        """Return what `uvicorn.Config(http=...)` takes as the class of its protocols."""
        return cast(type[asyncio.Protocol], partial(BoundedProtocol, connections=self))

    def add(self, protocol: "BoundedProtocol") -> bool:
        """Add a connection, in place of one that waits where a limit is reached.

        Returns whether there was room.
        """
        address = self._addresses.setdefault(protocol.address, _Group(self.limits.per_address))
        for group in (address, self._all):
            if group.full:
                oldest = next(iter(group.waiting), None)
                if oldest is None:
                    self._drop_empty(protocol.address)
                    return False
                oldest.give_way()
        # Giving way may have removed the group.
        for group in (self._addresses.setdefault(protocol.address, address), self._all):
            group.members.add(protocol)
        metrics.CONNECTIONS.set(len(self))
        return True

    def remove(self, protocol: "BoundedProtocol") -> None:
        """Remove a connection, if it is there."""
        for group in self._groups(protocol):
            group.members.discard(protocol)
            group.waiting.pop(protocol, None)
        self._drop_empty(protocol.address)
        metrics.CONNECTIONS.set(len(self))

    def mark(self, protocol: "BoundedProtocol", *, waiting: bool) -> None:
        """Note that a connection has begun to wait for its client, or has ceased to."""
        for group in self._groups(protocol):
            group.waiting.pop(protocol, None)
            if waiting and protocol in group.members:
                group.waiting[protocol] = None

    def _groups(self, protocol: "BoundedProtocol") -> list[_Group]:
        group = self._addresses.get(protocol.address)
        return [self._all] if group is None else [self._all, group]

    def _drop_empty(self, address: str) -> None:
        group = self._addresses.get(address)
        if group is not None and not group.members:
            del self._addresses[address]


class BoundedProtocol(HttpToolsProtocol):
    """One connection; see the module's docstring."""

    def __init__(self, config: Config, *args: Any, connections: Connections, **more: Any) -> None:
        """Initialise as uvicorn does, with the connections of the server."""
        super().__init__(config, *args, **more)
        self.address = ""
        self._connections = connections
        self._limits = connections.limits
        self._phase: _Phase | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request; refuse the connection if there is no room."""
        super().connection_made(transport)
        self.address = _network(self.client[0] if self.client else "")
        if not self._connections.add(self):
            self._end("no_room", _too_many_error())
            return
        self._enter(_Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its deadlines."""
        super().connection_lost(exc)
        self._connections.remove(self)
        for timer in (self._deadline, self._write_deadline):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and check the length of an unfinished head."""
        if self.transport.is_closing():
            return
        if self._phase is _Phase.IDLE:
            self._enter(_Phase.HEAD)  # also for empty lines, which begin no message
        self._head_bytes += len(data) if self._phase is _Phase.HEAD else 0
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._end("head_too_large", _head_error())

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Start the deadline of the body."""
        super().on_headers_complete()
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        self._update()

    def on_message_complete(self) -> None:
        """End the deadline of the body."""
        super().on_message_complete()
        self._in_body = False
        self._update()

    def on_response_complete(self) -> None:
        """Start waiting for the next request."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # the deadlines here include it
        self._update()

    def pause_writing(self) -> None:
        """Start the deadline for a client that does not read its answer."""
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self._limits.write_seconds, self._abort)

    def resume_writing(self) -> None:
        """End that deadline."""
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()

    def give_way(self) -> None:
        """Close this connection, which waits for its client, in favour of a new one."""
        self._end("gave_way", _too_many_error())

    def _update(self) -> None:
        """Enter the phase that follows from what has arrived and what is being answered."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if self.pipeline:  # reading is paused until the earlier request is answered
            self._enter(_Phase.ANSWER)
        elif self._in_body:
            self._enter(_Phase.BODY)
        elif answering:
            self._enter(_Phase.ANSWER)
        else:
            self._enter(_Phase.HEAD if self._in_head else _Phase.IDLE)

    def _enter(self, phase: _Phase) -> None:
        if phase is self._phase:
            return
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._connections.mark(self, waiting=phase is not _Phase.ANSWER)
        limits = self._limits
        seconds = {
            _Phase.IDLE: limits.idle_seconds,
            _Phase.HEAD: limits.head_seconds,
            _Phase.BODY: limits.body_seconds,
        }.get(phase)
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self._expire, phase, seconds)

    def _expire(self, phase: _Phase, seconds: float) -> None:
        if phase is _Phase.IDLE or (phase is _Phase.HEAD and not self._head_bytes):
            self._close()  # no request has begun
            return
        message = f"The {phase.value} of the request did not arrive within {seconds:g} s. Retry."
        self._end(f"{phase.value}_timeout", ApiError(408, "request_timeout", message))

    def _end(self, reason: str, error: ApiError) -> None:
        """Close the connection, with an answer unless one has begun or no request was begun."""
        metrics.CONNECTIONS_ENDED.labels(reason).inc()
        cycle = self.cycle if self._in_body else None
        new = self._phase is None  # refused; its request has not been read yet
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        if new or self._in_head or (cycle is not None and not cycle.response_started):
            self.transport.write(_raw_response(error))
        self._close()

    def _close(self) -> None:
        self._connections.remove(self)
        if self._deadline is not None:
            self._deadline.cancel()
        self.transport.close()
        if self.transport.get_write_buffer_size():  # close() waits until the client has read it
            self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def _abort(self) -> None:
        metrics.CONNECTIONS_ENDED.labels("read_timeout").inc()
        self.transport.abort()


def allow_open_files(connections: int) -> None:
    """Raise this process's limit of open files so that this many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        logger.warning(
            "This process may open %d files, too few for %d connections. Raise the limit "
            "(ulimit -Hn %d), or set PLAUDIT_SERVING_MAX_CONNECTIONS lower.",
            allowed,
            connections,
            wanted,
        )


def _network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a Unix socket
        return address
    if isinstance(parsed, ipaddress.IPv4Address) or parsed.ipv4_mapped:
        return str(getattr(parsed, "ipv4_mapped", None) or parsed)
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))


def _raw_response(error: ApiError) -> bytes:
    """Return a whole HTTP response, for where no app answers."""
    response = error.response()
    status = HTTPStatus(error.status)
    head = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), b"connection: close"]
    head += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*head, b"", bytes(response.body)])


def _too_many_error() -> ApiError:
    message = (
        "The server has too many connections, in all or from your address. Close those that you "
        "do not need, and try again."
    )
    return ApiError(503, "too_many_connections", message)


def _head_error() -> ApiError:
    message = f"The head of the request has more than {MAX_HEAD_BYTES} bytes. Send fewer headers."
    return ApiError(431, "head_too_large", message)
