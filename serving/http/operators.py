"""The routes of operators: /v1/policies and /v1/audit. `serving.http.access` keeps others out."""

import functools
import logging
from collections.abc import Callable
from typing import Annotated, Any, Final

from anyio import CapacityLimiter, Lock, to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feedback.control.audit import AuditEntry
from feedback.control.history import History
from feedback.control.operations import NoSuchVersion, OperationRefused, Operations
from feedback.control.versions import Versions
from feedback.log.event_log import LogError
from protos.checkpoints.registry import Registry, RegistryUnavailable
from serving.http.middleware import error_response

logger = logging.getLogger("plaudit.serving")

_MAX_AUDIT_ENTRIES: Final = 1000
_DEFAULT_AUDIT_ENTRIES: Final = 100
_OPERATORS: Final = 2  # served at once, while a log or registry elsewhere may be slow


class _Reason(BaseModel):
    """The optional body of an operation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Annotated[str, Field(max_length=1000)] = ""


class OperatorsApi:
    """The handlers; all that touches the log or the registry runs in threads of its own."""

    def __init__(self, operations: Operations, history: History, registry: Registry) -> None:
        self._operations = operations
        self._history = history
        self._versions = Versions(registry)
        self._listing = Lock()  # `Versions` is for one thread
        self._threads = CapacityLimiter(_OPERATORS)

    async def listed(self) -> dict[str, Any]:
        """Return the policies as they are now."""
        async with self._listing:
            return await to_thread.run_sync(self._list, limiter=self._threads)

    def _list(self) -> dict[str, Any]:
        self._history.poll()
        told = self._history.snapshot()
        state = told.state
        versions = self._versions.list_versions(told)
        return {
            "object": "list",
            "data": [version.to_operator_json(state) for version in versions],
            "held": state.held,
            "live": state.live or None,
            "previous": state.previous or None,
            "on_trial": state.challenger or None,
        }

    async def list(self, _: Request) -> Response:
        """Return all versions."""
        return JSONResponse(await self.listed())

    async def show(self, request: Request) -> Response:
        """Return one version."""
        wanted = request.path_params["version"]
        for version in (await self.listed())["data"]:
            if version["version"] == wanted:
                return JSONResponse({"object": "policy", **version})
        return error_response(404, f"There is no version {wanted}.", None, "version_not_found")

    async def activate(self, request: Request) -> Response:
        """Make a version live."""
        version = request.path_params["version"]
        return await self._do(request, functools.partial(self._operations.activate, version))

    async def rollback(self, request: Request) -> Response:
        """Go back to the version before."""
        return await self._do(request, self._operations.rollback)

    async def hold(self, request: Request) -> Response:
        """Hold publishing."""
        return await self._do(request, self._operations.hold)

    async def resume(self, request: Request) -> Response:
        """Let publishing go on."""
        return await self._do(request, self._operations.resume)

    async def _do(self, request: Request, operation: Callable[[str, str], str]) -> Response:
        body = await request.body()
        try:
            reason = _Reason.model_validate_json(body).reason if body.strip() else ""
        except ValidationError:
            message = 'The body must be empty, or {"reason": "…"}.'
            return error_response(400, message, "reason", "invalid_value")
        by = request.state.caller.name
        said = await to_thread.run_sync(operation, by, reason, limiter=self._threads)
        logger.info("%s (asked by %s)", said, by)
        return JSONResponse(await self.listed())

    async def audit(self, request: Request) -> Response:
        """Say who did what, newest first."""
        given = request.query_params.get("limit", str(_DEFAULT_AUDIT_ENTRIES))
        if (
            not (given.isascii() and given.isdecimal())
            or not 1 <= int(given[:9]) <= _MAX_AUDIT_ENTRIES
        ):
            message = f"'limit' must be 1 to {_MAX_AUDIT_ENTRIES}."
            return error_response(400, message, "limit", "invalid_value")
        await to_thread.run_sync(self._history.poll, limiter=self._threads)
        deeds = self._history.snapshot().audit_entries[::-1][: int(given)]
        return JSONResponse({"object": "list", "data": [_deed(deed) for deed in deeds]})


def _deed(deed: AuditEntry) -> dict[str, Any]:
    return {
        "created": deed.created_ms / 1000,
        "by": deed.by,
        "action": deed.action,
        "version": deed.version or None,
        "text": deed.text,
    }


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _handle_errors(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def answering(request: Request) -> Response:
        try:
            response: Response = await handler(request)
        except NoSuchVersion as error:
            return error_response(404, _sentence(error), None, "version_not_found")
        except OperationRefused as error:
            return error_response(409, _sentence(error), None, "not_possible")
        except (LogError, RegistryUnavailable) as error:
            logger.warning("an operator is turned away: %s", error)
            return error_response(503, _sentence(error), None, "unavailable")
        return response

    return answering


def operators_router(operations: Operations, history: History, registry: Registry) -> APIRouter:
    """Return the routes."""
    api = OperatorsApi(operations, history, registry)
    router = APIRouter(tags=["operators"])
    for method, path, handler in (
        ("GET", "/v1/policies", api.list),
        ("POST", "/v1/policies/rollback", api.rollback),
        ("POST", "/v1/policies/hold", api.hold),
        ("POST", "/v1/policies/resume", api.resume),
        ("GET", "/v1/policies/{version:int}", api.show),
        ("POST", "/v1/policies/{version:int}/activate", api.activate),
        ("GET", "/v1/audit", api.audit),
    ):
        router.add_route(path, _handle_errors(handler), methods=[method])
    return router
