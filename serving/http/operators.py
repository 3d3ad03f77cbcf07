"""The operators' routes: /v1/policies and /v1/audit. `serving.http.access` restricts them."""

import functools
import logging
from collections.abc import Callable
from typing import Annotated, Any, Final

from anyio import CapacityLimiter, Lock, to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feedback.api.http_errors import ApiError, handle_errors
from feedback.api.openapi import parameter
from feedback.api.requests import FEEDBACK_BODY_BYTES, parse_limit, read_body
from feedback.control.audit import AuditEntry
from feedback.control.history import History
from feedback.control.operations import NoSuchVersion, OperationRefused, Operations
from feedback.control.versions import Versions
from feedback.log.event_log import LogError
from protos.checkpoints.registry import Registry, RegistryUnavailable

logger = logging.getLogger("plaudit.serving")

_MAX_AUDIT_ENTRIES: Final = 1000
_DEFAULT_AUDIT_ENTRIES: Final = 100
_OPERATORS: Final = 2  # concurrent requests, since a remote log or registry may be slow


class _Reason(BaseModel):
    """The optional body of an operation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Annotated[str, Field(max_length=1000)] = ""


class OperatorsApi:
    """The handlers. They use the log and the registry in threads, never on the event loop."""

    def __init__(self, operations: Operations, history: History, registry: Registry) -> None:
        self._operations = operations
        self._history = history
        self._versions = Versions(registry)
        self._listing = Lock()  # `Versions` is for one thread
        self._threads = CapacityLimiter(_OPERATORS)

    async def _list_versions(self) -> dict[str, Any]:
        async with self._listing:
            return await to_thread.run_sync(self._read_versions, limiter=self._threads)

    def _read_versions(self) -> dict[str, Any]:
        self._history.poll()
        snapshot = self._history.snapshot()
        state = snapshot.state
        versions = self._versions.list_versions(snapshot)
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
        return JSONResponse(await self._list_versions())

    async def show(self, request: Request) -> Response:
        """Return one version."""
        number = request.path_params["version"]
        for version in (await self._list_versions())["data"]:
            if version["version"] == number:
                return JSONResponse({"object": "policy", **version})
        raise ApiError(404, "version_not_found", f"There is no version {number}.")

    async def activate(self, request: Request) -> Response:
        """Make a version live."""
        version = request.path_params["version"]
        return await self._run(request, functools.partial(self._operations.activate, version))

    async def rollback(self, request: Request) -> Response:
        """Make the previous version live again, and hold publishing."""
        return await self._run(request, self._operations.rollback)

    async def hold(self, request: Request) -> Response:
        """Hold publishing."""
        return await self._run(request, self._operations.hold)

    async def resume(self, request: Request) -> Response:
        """Resume publishing."""
        return await self._run(request, self._operations.resume)

    async def _run(self, request: Request, operation: Callable[[str, str], str]) -> Response:
        body = await read_body(request, FEEDBACK_BODY_BYTES)
        try:
            reason = _Reason.model_validate_json(body).reason if body.strip() else ""
        except ValidationError as error:
            message = 'The body must be empty, or {"reason": "…"}.'
            raise ApiError(400, "invalid_value", message, "reason") from error
        by = request.state.caller.name
        message = await to_thread.run_sync(operation, by, reason, limiter=self._threads)
        logger.info("%s (requested by %s)", message, by)
        return JSONResponse(await self._list_versions())

    async def audit(self, request: Request) -> Response:
        """Return who did what, newest first."""
        limit = parse_limit(request, _DEFAULT_AUDIT_ENTRIES, _MAX_AUDIT_ENTRIES)
        await to_thread.run_sync(self._history.poll, limiter=self._threads)
        entries = self._history.snapshot().audit_entries[::-1][:limit]
        return JSONResponse({"object": "list", "data": [_audit_entry_json(e) for e in entries]})


def _audit_entry_json(entry: AuditEntry) -> dict[str, Any]:
    return {
        "created": entry.created_ms / 1000,
        "by": entry.by,
        "action": entry.action,
        "version": entry.version or None,
        "text": entry.text,
    }


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _translate(error: Exception) -> ApiError | None:
    if isinstance(error, NoSuchVersion):
        return ApiError(404, "version_not_found", _sentence(error))
    if isinstance(error, OperationRefused):
        return ApiError(409, "not_possible", _sentence(error))
    if isinstance(error, LogError | RegistryUnavailable):
        logger.warning("Refused an operator's request: %s", error)
        return ApiError(503, "unavailable", _sentence(error))
    return None


def operators_router(operations: Operations, history: History, registry: Registry) -> APIRouter:
    """Return the routes under /v1/policies, and /v1/audit."""
    api = OperatorsApi(operations, history, registry)
    router = APIRouter(tags=["operators"])
    for method, path, handler, summary in (
        ("GET", "/v1/policies", api.list, "List versions"),
        ("POST", "/v1/policies/rollback", api.rollback, "Roll back"),
        ("POST", "/v1/policies/hold", api.hold, "Hold publishing"),
        ("POST", "/v1/policies/resume", api.resume, "Resume publishing"),
        ("GET", "/v1/policies/{version:int}", api.show, "Read a version"),
        ("POST", "/v1/policies/{version:int}/activate", api.activate, "Make a version live"),
        ("GET", "/v1/audit", api.audit, "Read the audit trail"),
    ):
        wrapped = handle_errors(handler, _translate)
        # Starlette's route also answers HEAD; FastAPI's route behind it only describes it.
        router.add_route(path, wrapped, methods=[method], include_in_schema=False)
        router.add_api_route(
            path,
            wrapped,
            methods=[method],
            response_model=None,
            summary=summary,
            openapi_extra=_describe(method, path),
        )
    return router


def _describe(method: str, path: str) -> dict[str, Any]:
    """Return what FastAPI cannot infer of a route, as OpenAPI fields."""
    extra: dict[str, Any] = {}
    if method == "POST":
        schema = _Reason.model_json_schema()
        extra["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    if "{version" in path:
        extra["parameters"] = [parameter("path", "version", "Number of the version.", "integer")]
    if path == "/v1/audit":
        text = f"Number of entries, 1 to {_MAX_AUDIT_ENTRIES}; {_DEFAULT_AUDIT_ENTRIES} by default."
        bounds = {"minimum": 1, "maximum": _MAX_AUDIT_ENTRIES}
        extra["parameters"] = [parameter("query", "limit", text, "integer", **bounds)]
    return extra
