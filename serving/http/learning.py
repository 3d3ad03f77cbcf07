"""The routes under /v1/learning: the state of the learning loop, its changes, and reports.

A snapshot is computed at most twice a second, however many clients ask for it.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from feedback.api.http_errors import ApiError, handle_errors
from feedback.api.openapi import parameter
from feedback.control.learning import Learning
from feedback.control.versions import CHART, REPORT
from feedback.log.event_log import LogError
from feedback.view.feedback_view import ViewError
from protos.checkpoints.registry import CheckpointInvalid, Registry, RegistryUnavailable
from serving.http.access import bearer_token

logger = logging.getLogger("plaudit.serving")

SNAPSHOT_SECONDS: Final = 0.5
HEARTBEAT_SECONDS: Final = 15.0
_MAX_VERSION: Final = 2**31
_READERS: Final = 2  # concurrent reads of reports, since a remote registry may be slow
_VERSION: Final = parameter("path", "version", "Number of the version.", "integer")


class LearningFeed:
    """Shares snapshots among clients. For one event loop."""

    def __init__(self, learning: Learning, stopping: Callable[[], bool]) -> None:
        """Take snapshots from `learning`; end streams once `stopping` returns True."""
        self._learning = learning
        self._stopping = stopping
        self._refreshing = asyncio.Lock()
        self._latest = ""
        self._refreshed = -SNAPSHOT_SECONDS

    async def latest(self) -> str:
        """Return a snapshot at most `SNAPSHOT_SECONDS` old, as JSON.

        Raises:
            ViewError: The view cannot be read.

        """
        async with self._refreshing:
            if time.monotonic() - self._refreshed >= SNAPSHOT_SECONDS:
                self._latest = await to_thread.run_sync(self._snapshot)
                self._refreshed = time.monotonic()
        return self._latest

    def _snapshot(self) -> str:
        return json.dumps(self._learning.snapshot(), separators=(",", ":"), allow_nan=False)

    async def events(self, is_authorized: Callable[[], bool]) -> AsyncIterator[str]:
        """Yield server-sent events: a snapshot at once, and again whenever it has changed.

        Args:
            is_authorized: Returns whether the client may still listen.

        """
        sent, last_sent = "", time.monotonic()
        while not self._stopping() and is_authorized():
            try:
                latest = await self.latest()
            except ViewError as error:
                logger.warning("Ending a stream of the learning loop's state: %s", error)
                return
            if latest != sent:
                sent, last_sent = latest, time.monotonic()
                yield f"event: learning\ndata: {latest}\n\n"
            elif time.monotonic() - last_sent >= HEARTBEAT_SECONDS:
                last_sent = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(SNAPSHOT_SECONDS)


class LearningApi:
    """The handlers."""

    def __init__(
        self, feed: LearningFeed, registry: Registry, is_authorized: Callable[[str], bool]
    ) -> None:
        self._feed = feed
        self._registry = registry
        self._is_authorized = is_authorized
        self._readers = CapacityLimiter(_READERS)

    async def snapshot(self, _: Request) -> Response:
        """Return the current state of the learning loop."""
        return Response(await self._feed.latest(), media_type="application/json")

    async def events(self, request: Request) -> Response:
        """Stream the state of the learning loop as server-sent events.

        The stream ends when the API key that it was opened with is no longer valid.
        """

        token = bearer_token(request.headers)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            self._feed.events(lambda: self._is_authorized(token)),
            media_type="text/event-stream",
            headers=headers,
        )

    async def report(self, request: Request) -> Response:
        """Return the report of the learning cycle that made a version."""
        return await self._file(request, REPORT, "application/json")

    async def chart(self, request: Request) -> Response:
        """Return the chart of a version's report, as SVG."""
        return await self._file(request, CHART, "image/svg+xml")

    async def _file(self, request: Request, name: str, media_type: str) -> Response:
        version = min(request.path_params["version"], _MAX_VERSION)
        data = await to_thread.run_sync(self._registry.read, version, name, limiter=self._readers)
        headers = {"Cache-Control": "private, max-age=3600"}  # a version's files never change
        return Response(data, media_type=media_type, headers=headers)


def _view_error(error: Exception) -> ApiError | None:
    if not isinstance(error, ViewError | LogError):
        return None
    logger.warning("Cannot read the state of the learning loop: %s", error)
    message = "The state of the learning loop cannot be read at the moment. Try again."
    return ApiError(503, "no_view", message)


def _report_error(error: Exception) -> ApiError | None:
    if isinstance(error, CheckpointInvalid):
        return ApiError(404, "no_report", f"There is no such report: {error}.")
    if isinstance(error, RegistryUnavailable):
        return ApiError(503, "registry_unavailable", str(error))
    return None


def learning_router(
    feed: LearningFeed, registry: Registry, is_authorized: Callable[[str], bool]
) -> APIRouter:
    """Return the routes under /v1/learning.

    Args:
        feed: The snapshots.
        registry: The registry that reports are read from.
        is_authorized: Returns whether a client with this token may still listen; a stream ends
            when it may not.

    """
    api = LearningApi(feed, registry, is_authorized)
    router = APIRouter(tags=["learning"])
    report = "/v1/learning/reports/{version:int}"
    for path, handler, summary, media_type in (
        ("/v1/learning", api.snapshot, "Read the loop's state", "application/json"),
        ("/v1/learning/events", api.events, "Follow the loop's state", "text/event-stream"),
        (report, api.report, "Read a version's report", "application/json"),
        (f"{report}/chart.svg", api.chart, "Read a report's chart", "image/svg+xml"),
    ):
        router.add_api_route(
            path,
            handle_errors(handler, _report_error if path.startswith(report) else _view_error),
            methods=["GET"],
            response_class=Response,
            responses={200: {"content": {media_type: {}}}},
            summary=summary,
            openapi_extra={"parameters": [_VERSION]} if path.startswith(report) else None,
        )
    return router
