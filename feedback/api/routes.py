"""The feedback routes: POST, GET and DELETE under /v1/feedback.

The handlers read and validate bodies themselves, so that every error has OpenAI's shape whatever
the surrounding app does with errors. Status 201 means that the event is durable.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import anyio
from anyio import to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feedback.api.http_errors import ApiError, Handler, api_error_from_validation, handle_errors
from feedback.api.openapi import parameter
from feedback.api.requests import FEEDBACK_BODY_BYTES, parse_limit, read_body
from feedback.api.schema import (
    MAX_IDEMPOTENCY_KEY,
    FeedbackDeleted,
    FeedbackList,
    FeedbackObject,
    FeedbackRequest,
)
from feedback.api.service import FeedbackService, needs_view
from feedback.api.translate import feedback_object
from feedback.control.keys import Caller
from feedback.disk import DiskLow, DiskReserve
from feedback.log.event_log import EventLog, LogError
from feedback.log.events import feedback_kind
from feedback.log.group_commit import GroupCommit
from feedback.metrics import FEEDBACK, REJECTED
from feedback.privacy.identity import Secret
from feedback.privacy.lineage import Lineage
from feedback.view.feedback_view import View, ViewError

logger = logging.getLogger(__name__)

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 100
RETRY_AFTER_SECONDS: Final = 2
DISK_RETRY_SECONDS: Final = 60

_QUERY_PARAMETERS: Final = {
    "completion_id": "Return only the feedback on this completion.",
    "after": "Return the feedback after the one with this id.",
    "limit": f"Number of objects in a page, 1 to {MAX_PAGE}; {DEFAULT_PAGE} by default.",
}

T = TypeVar("T")


class FeedbackApi:
    """The handlers. They use the log and the view in threads, never on the event loop."""

    def __init__(self, service: FeedbackService, clients: int) -> None:
        """Serve `service`, with at most `clients` requests at the log at once."""
        self._service = service
        self._limiter = anyio.CapacityLimiter(clients)
        self._group_commit = GroupCommit(service.accept)

    async def create(self, request: Request) -> Response:
        """Record feedback: 201 once it is durable, 200 if it was already.

        A request may be repeated with the same `Idempotency-Key`; it then counts once.
        """
        caller = _caller(request)
        key = _idempotency_key(request)
        try:
            content = await read_body(request, FEEDBACK_BODY_BYTES)
            body = FeedbackRequest.model_validate_json(content)
        except ValidationError as error:
            raise api_error_from_validation(error) from error
        if body.source == "annotator" and not caller.may("annotator"):
            raise _annotator_forbidden_error()
        if needs_view(body):
            event = await self._blocking(self._service.build_event, body, caller.owner, key)
        else:
            event = self._service.build_event(body, caller.owner, key)
        first = await self._group_commit.put(event)
        if first.body_digest != event.body_digest:
            raise _key_reused_error()
        new = first is event
        FEEDBACK.labels(feedback_kind(event), "accepted" if new else "duplicate").inc()
        if new:
            return JSONResponse(feedback_object(first), 201)
        return JSONResponse(await self._blocking(self._service.replay_response, first))

    async def page(self, request: Request) -> Response:
        """List the caller's feedback, oldest first."""
        query = _query(request)
        limit = parse_limit(request, DEFAULT_PAGE, MAX_PAGE)
        events, more = await self._blocking(
            self._service.page,
            _caller(request).owner,
            query.get("completion_id"),
            query.get("after"),
            limit,
        )
        data = self._service.to_objects(events)
        return JSONResponse({"object": "list", "data": data, "has_more": more})

    async def read(self, request: Request) -> Response:
        """Return one piece of the caller's feedback."""
        event_id = request.path_params["feedback_id"]
        event = await self._blocking(self._service.get, _caller(request).owner, event_id)
        return JSONResponse(self._service.to_objects([event])[0])

    async def delete(self, request: Request) -> Response:
        """Retract one piece of the caller's feedback; repeating the request changes nothing."""
        event_id = request.path_params["feedback_id"]
        event, was_effective = await self._blocking(
            self._service.retract, _caller(request).owner, event_id
        )
        if was_effective:
            FEEDBACK.labels(feedback_kind(event), "retracted").inc()
        return JSONResponse(FeedbackDeleted(id=event_id).model_dump())

    async def _blocking(self, function: Callable[..., T], *arguments: object) -> T:
        return await to_thread.run_sync(function, *arguments, limiter=self._limiter)


def _caller(request: Request) -> Caller:
    """Return the caller that a middleware has set.

    Raises:
        RuntimeError: The router is mounted without such a middleware.

    """
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Caller):
        raise RuntimeError("no middleware has set request.state.caller to a Caller")
    return caller


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY:
        message = f"'Idempotency-Key' must have 1 to {MAX_IDEMPOTENCY_KEY} characters."
        raise ApiError(400, "invalid_value", message, "Idempotency-Key")
    return key


def _query(request: Request) -> Mapping[str, str]:
    for name in request.query_params:
        if name not in _QUERY_PARAMETERS:
            message = f"'{name}' is not a parameter: use completion_id, after and limit."
            raise ApiError(400, "unknown_field", message, name)
    return request.query_params


def _translate(error: Exception) -> ApiError | None:
    if not isinstance(error, LogError | ViewError | DiskLow):
        return None
    logger.warning("Feedback could not be stored or read: %s", error)
    if isinstance(error, DiskLow):
        return ApiError(
            503,
            "disk_low",
            "Feedback cannot be stored: the server's disk is almost full. Try again later; an "
            "operator has to free some space.",
            headers={"Retry-After": str(DISK_RETRY_SECONDS)},
        )
    return ApiError(
        503,
        "log_unavailable",
        f"Feedback cannot be stored or read at the moment. Try again in {RETRY_AFTER_SECONDS} s, "
        "with the same Idempotency-Key so that it counts once.",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _count_refusal(error: ApiError) -> None:
    REJECTED.labels(error.code).inc()


def _handle(handler: Handler) -> Handler:
    return handle_errors(handler, _translate, _count_refusal)


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


def _post_description() -> dict[str, Any]:
    """Return what FastAPI cannot infer of `create`, as OpenAPI fields."""
    schema = FeedbackRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)  # FastAPI writes these for the responses
    key = "Makes a repeated request count once. Use a new key for every vote."
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "parameters": [
            parameter("header", "Idempotency-Key", key, minLength=1, maxLength=MAX_IDEMPOTENCY_KEY)
        ],
    }


_PAGE_PARAMETERS: Final = {
    "parameters": [
        parameter("query", name, text, "integer", minimum=1, maximum=MAX_PAGE)
        if name == "limit"
        else parameter("query", name, text)
        for name, text in _QUERY_PARAMETERS.items()
    ]
}
_ID_PARAMETER: Final = {"parameters": [parameter("path", "feedback_id", "Id of the feedback.")]}


def feedback_router(
    log: EventLog,
    view: View,
    secret: Secret,
    *,
    lineage: Callable[[], Lineage] = Lineage,
    reserve: DiskReserve | None = None,
    clients: int = 64,
) -> APIRouter:
    """Return the routes POST and GET /v1/feedback, and GET and DELETE /v1/feedback/{id}.

    A middleware must set `request.state.caller` to the `Caller` of every request.

    Args:
        log: The event log that feedback is appended to.
        view: This replica's view; the routes update it when they need its latest state.
        secret: The installation's secret.
        lineage: Returns which versions learned from which feedback; empty by default.
        reserve: Space that new feedback leaves free on the disk; None for none.
        clients: Number of requests that may use the log at once; more wait.

    """
    api = FeedbackApi(FeedbackService(log, view, secret, lineage, reserve=reserve), clients)
    router = APIRouter(tags=["feedback"])
    create = _handle(api.create)
    # Starlette's plain route takes the votes, which is a fifth faster; FastAPI's route behind it
    # only describes them.
    router.add_route("/v1/feedback", create, methods=["POST"], include_in_schema=False)
    one = "/v1/feedback/{feedback_id}"
    for method, path, handler, model, summary, extra in (
        ("POST", "/v1/feedback", create, FeedbackObject, "Give feedback", _post_description()),
        ("GET", "/v1/feedback", _handle(api.page), FeedbackList, "List feedback", _PAGE_PARAMETERS),
        ("GET", one, _handle(api.read), FeedbackObject, "Read feedback", _ID_PARAMETER),
        ("DELETE", one, _handle(api.delete), FeedbackDeleted, "Retract feedback", _ID_PARAMETER),
    ):
        _add_route(router, method, path, handler, model, summary, extra)
    return router


def _add_route(
    router: APIRouter,
    method: str,
    path: str,
    handler: Handler,
    model: type[BaseModel],
    summary: str,
    extra: dict[str, Any],
) -> None:
    status = 201 if method == "POST" else 200
    router.add_api_route(
        path,
        handler,
        methods=[method],
        status_code=status,
        response_model=None,
        responses={status: {"model": model}},
        summary=summary,
        openapi_extra=extra,
    )
