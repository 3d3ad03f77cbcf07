"""The routes under /v1/learning: how the loop is doing, once or as it changes, and reports.

A snapshot is computed at most twice a second, however many look at it.
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

from feedback.control.keys import KeyRing
from feedback.control.learning import Learning
from feedback.control.versions import CHART, REPORT
from feedback.log.event_log import LogError
from feedback.view.feedback_view import ViewError
from protos.checkpoints.registry import CheckpointInvalid, Registry, RegistryUnavailable
from serving.http.access import bearer_of
from serving.http.middleware import error_response

logger = logging.getLogger("plaudit.serving")

SNAPSHOT_SECONDS: Final = 0.5
HEARTBEAT_SECONDS: Final = 15.0
_NO_VERSION: Final = 2**31
_READERS: Final = 2  # reports read at once, while a registry elsewhere may be slow


class LearningFeed:
    """Shares snapshots among those who listen. For one event loop."""

    def __init__(self, learning: Learning, stopping: Callable[[], bool]) -> None:
        """Take snapshots from `learning`; end streams once `stopping` says so."""
        self._learning = learning
        self._stopping = stopping
        self._taking = asyncio.Lock()
        self._latest = ""
        self._taken = -SNAPSHOT_SECONDS

    async def latest(self) -> str:
        """Return a snapshot that is fresh enough, as JSON.

        Raises:
            ViewError: It cannot be taken.

        """
        async with self._taking:
            if time.monotonic() - self._taken >= SNAPSHOT_SECONDS:
                self._latest = await to_thread.run_sync(self._snapshot)
                self._taken = time.monotonic()
        return self._latest

    def _snapshot(self) -> str:
        return json.dumps(self._learning.snapshot(), separators=(",", ":"), allow_nan=False)

    async def events(self, welcome: Callable[[], bool]) -> AsyncIterator[str]:
        """Yield server-sent events: a snapshot at once and whenever it has changed.

        Args:
            welcome: Whether whoever listens still may.

        """
        sent, said = "", time.monotonic()
        while not self._stopping() and welcome():
            try:
                latest = await self.latest()
            except ViewError as error:
                logger.warning("the learning stream ends: %s", error)
                return
            if latest != sent:
                sent, said = latest, time.monotonic()
                yield f"event: learning\ndata: {latest}\n\n"
            elif time.monotonic() - said >= HEARTBEAT_SECONDS:
                said = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(SNAPSHOT_SECONDS)


def learning_router(
    feed: LearningFeed, registry: Registry, keys: Callable[[], KeyRing]
) -> APIRouter:
    """Return the routes; a stream ends when the key that it was opened with is revoked."""
    router = APIRouter(tags=["learning"])
    readers = CapacityLimiter(_READERS)

    @router.get("/v1/learning")
    async def snapshot() -> Response:
        try:
            return Response(await feed.latest(), media_type="application/json")
        except (ViewError, LogError) as error:
            logger.warning("no snapshot: %s", error)
            return error_response(503, "The loop cannot be looked at just now.", None, "no_view")

    @router.get("/v1/learning/events")
    async def events(request: Request) -> Response:
        def welcome() -> bool:
            ring = keys()
            return not ring.required or ring.find(bearer_of(request.headers)) is not None

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            feed.events(welcome), media_type="text/event-stream", headers=headers
        )

    async def file(request: Request, name: str, media_type: str) -> Response:
        version = min(request.path_params["version"], _NO_VERSION)
        try:
            data = await to_thread.run_sync(registry.read, version, name, limiter=readers)
        except CheckpointInvalid as error:
            return error_response(404, f"There is no such report: {error}.", None, "no_report")
        except RegistryUnavailable as error:
            return error_response(503, str(error), None, "registry_unavailable")
        headers = {"Cache-Control": "private, max-age=3600"}  # a version's files never change
        return Response(data, media_type=media_type, headers=headers)

    @router.get("/v1/learning/reports/{version:int}")
    async def report(request: Request) -> Response:
        return await file(request, REPORT, "application/json")

    @router.get("/v1/learning/reports/{version:int}/chart.svg")
    async def chart(request: Request) -> Response:
        return await file(request, CHART, "image/svg+xml")

    return router
