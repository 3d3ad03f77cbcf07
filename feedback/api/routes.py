"""The feedback routes: POST, GET and DELETE under /v1/feedback.

The routes read and check their bodies themselves, so that every error has OpenAI's shape
whatever the app around them does with errors. 201 means that the event is durable.
"""

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import anyio
from anyio import to_thread
from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from feedback.api.http_errors import ApiError, api_error_from_validation
from feedback.api.schema import (
    MAX_BODY_BYTES,
    MAX_IDEMPOTENCY_KEY,
    FeedbackDeleted,
    FeedbackList,
    FeedbackObject,
    FeedbackRequest,
)
from feedback.api.service import FeedbackService, needs_view
from feedback.api.translate import feedback_object
from feedback.control.keys import Caller
from feedback.log.event_log import EventLog, LogError
from feedback.log.events import feedback_kind
from feedback.log.group_commit import GroupCommit
from feedback.metrics import FEEDBACK, REJECTED
from feedback.privacy.identity import Secret, owner_of
from feedback.privacy.lineage import Lineage
from feedback.view.feedback_view import View, ViewError

logger = logging.getLogger(__name__)

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 100
RETRY_AFTER_SECONDS: Final = 2

Handler = Callable[[Any, Request], Awaitable[Response]]
T = TypeVar("T")


def _handle_errors(handler: Handler) -> Callable[[Any, Request], Awaitable[Response]]:
    @functools.wraps(handler)
    async def answering(self: Any, request: Request) -> Response:
        try:
            return await handler(self, request)
        except ApiError as error:
            refused = error
        except (LogError, ViewError) as error:
            logger.warning("feedback is turned away: %s", error)
            refused = ApiError(
                503,
                "log_unavailable",
                f"Feedback cannot be stored or read just now. Try again in "
                f"{RETRY_AFTER_SECONDS} s, with the same Idempotency-Key so that it counts once.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        REJECTED.labels(refused.code).inc()
        return refused.response()

    return answering


class FeedbackApi:
    """The handlers. The log and the view are used in threads, never on the event loop."""

    def __init__(
        self, service: FeedbackService, owner_of_bearer: Callable[[str | None], str], clients: int
    ) -> None:
        self._service = service
        self._owner_of_bearer = owner_of_bearer
        self._limiter = anyio.CapacityLimiter(clients)
        self._accepting = GroupCommit(service.accept)

    @_handle_errors
    async def create(self, request: Request) -> Response:
        """Take one opinion: 201 once it is durable, 200 if it was already."""
        caller = self._caller(request)
        owner = caller.owner
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY:
            message = f"'Idempotency-Key' must have 1 to {MAX_IDEMPOTENCY_KEY} characters."
            raise ApiError(400, "invalid_value", message, "Idempotency-Key")
        try:
            body = FeedbackRequest.model_validate_json(await _body(request))
        except ValidationError as error:
            raise api_error_from_validation(error) from error
        if body.source == "annotator" and not caller.may("annotator"):
            raise _annotator_forbidden_error()
        if needs_view(body):
            event = await self._blocking(self._service.event_for, body, owner, key)
        else:
            event = self._service.event_for(body, owner, key)
        first = await self._accepting.put(event)
        if first.body_digest != event.body_digest:
            raise _key_reused_error()
        new = first is event
        FEEDBACK.labels(feedback_kind(event), "accepted" if new else "duplicate").inc()
        if new:
            return JSONResponse(feedback_object(first), 201)
        return JSONResponse(await self._blocking(self._service.repeated, first))

    @_handle_errors
    async def page(self, request: Request) -> Response:
        """List the caller's opinions, oldest first."""
        query = _query(request)
        limit = _limit(query.get("limit"))
        seen, more = await self._blocking(
            self._service.page,
            self._caller(request).owner,
            query.get("completion_id"),
            query.get("after"),
            limit,
        )
        data = self._service.to_objects(seen)
        return JSONResponse({"object": "list", "data": data, "has_more": more})

    @_handle_errors
    async def read(self, request: Request) -> Response:
        """Return one of the caller's opinions."""
        wanted = request.path_params["feedback_id"]
        seen = await self._blocking(self._service.get, self._caller(request).owner, wanted)
        return JSONResponse(self._service.to_objects([seen])[0])

    @_handle_errors
    async def delete(self, request: Request) -> Response:
        """Take one of the caller's opinions back; doing so again changes nothing."""
        wanted = request.path_params["feedback_id"]
        event, stood = await self._blocking(
            self._service.retract, self._caller(request).owner, wanted
        )
        if stood:
            FEEDBACK.labels(feedback_kind(event), "retracted").inc()
        return JSONResponse(FeedbackDeleted(id=wanted).model_dump())

    def _caller(self, request: Request) -> Caller:
        caller = getattr(request.state, "caller", None)
        if isinstance(caller, Caller):
            return caller
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        owner = self._owner_of_bearer(token.strip() if scheme.lower() == "bearer" else None)
        return Caller(owner, "operator", owner)

    async def _blocking(self, function: Callable[..., T], *arguments: object) -> T:
        return await to_thread.run_sync(function, *arguments, limiter=self._limiter)


def _key_reused_error() -> ApiError:
    return ApiError(
        409,
        "idempotency_key_reused",
        "This Idempotency-Key was used with another body. Send the first body again, or use a "
        "new key.",
        "Idempotency-Key",
    )


def _annotator_forbidden_error() -> ApiError:
    message = "A key of role 'user' may not give feedback as an annotator: leave 'source' out."
    return ApiError(403, "role_not_allowed", message, "source")


async def _body(request: Request) -> bytes:
    body = bytearray()
    declared = request.headers.get("content-length", "")
    too_long = declared.isdecimal() and int(declared) > MAX_BODY_BYTES
    if not too_long:
        async for chunk in request.stream():
            body += chunk
            if too_long := len(body) > MAX_BODY_BYTES:
                break
    if too_long:
        message = f"The body is longer than {MAX_BODY_BYTES // 1024} KiB. Send less text."
        raise ApiError(413, "body_too_large", message)
    return bytes(body)


def _query(request: Request) -> Mapping[str, str]:
    for name in request.query_params:
        if name not in {"completion_id", "after", "limit"}:
            message = f"'{name}' is no parameter here; there are completion_id, after and limit."
            raise ApiError(400, "unknown_field", message, name)
    return request.query_params


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_PAGE
    if not (given.isascii() and given.isdecimal()) or not 1 <= int(given[:9]) <= MAX_PAGE:
        raise ApiError(400, "invalid_value", f"'limit' must be 1 to {MAX_PAGE}.", "limit")
    return int(given)


def _request_body() -> dict[str, Any]:
    schema = FeedbackRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)  # FastAPI writes these for the responses
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def feedback_router(
    log: EventLog,
    view: View,
    secret: Secret,
    *,
    owner_of_bearer: Callable[[str | None], str] | None = None,
    lineage: Callable[[], Lineage] = Lineage,
    clients: int = 64,
) -> APIRouter:
    """Return the routes POST and GET /v1/feedback, and GET and DELETE /v1/feedback/{id}.

    Whom a request comes from is `request.state.caller` where a middleware has set it.

    Args:
        log: Where feedback goes.
        view: This replica's view; the routes make it follow when they need it up to date.
        secret: The installation's secret.
        owner_of_bearer: Gives the owner for a bearer token (None: there is none) where no
            middleware did; by default the owner of that API key, whatever the key. Such
            a caller may do everything.
        lineage: Gives what is known of which version learned from what; nothing by default.
        clients: How many requests may be at the log at once; more wait.

    """
    api = FeedbackApi(
        FeedbackService(log, view, secret, lineage),
        owner_of_bearer or functools.partial(owner_of, secret),
        clients,
    )
    router = APIRouter(tags=["feedback"])

    def route(path: str, method: str, handler: Any, status: int, model: Any, **more: Any) -> None:
        router.add_api_route(
            path,
            handler,
            methods=[method],
            status_code=status,
            response_model=None,
            responses={status: {"model": model}},
            **more,
        )

    # Starlette's own route takes the votes, a fifth faster; FastAPI's behind it describes them.
    router.add_route("/v1/feedback", api.create, methods=["POST"], include_in_schema=False)
    body = _request_body()
    route("/v1/feedback", "POST", api.create, 201, FeedbackObject, openapi_extra=body)
    route("/v1/feedback", "GET", api.page, 200, FeedbackList)
    route("/v1/feedback/{feedback_id}", "GET", api.read, 200, FeedbackObject)
    route("/v1/feedback/{feedback_id}", "DELETE", api.delete, 200, FeedbackDeleted)
    return router
