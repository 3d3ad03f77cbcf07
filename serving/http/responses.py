"""What every response has: `x-request-id`, and errors of one shape, whoever raised them.

vLLM, FastAPI and Starlette each have their own form of errors. A response with an error status
that is not in ours (`ApiError.response`) is replaced by one that is, with the same message.
"""

import contextlib
import json
import secrets
from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Message, Send

from feedback.api.http_errors import ApiError

MAX_ERROR_BYTES: Final = 1 << 20
_CODES: Final = {
    400: "invalid_value",
    404: "not_found",
    405: "method_not_allowed",
    415: "unsupported_media_type",
    422: "invalid_value",
    429: "rate_limit_exceeded",
    500: "internal_error",
    501: "unsupported",
    503: "unavailable",
}
_MESSAGES: Final = {
    404: "There is no such route. The routes are listed at /docs.",
    405: "This route does not take this method. The routes are listed at /docs.",
    500: "The server failed to answer this request; its log says why.",
}


class RequestId:
    """The id that a request's response is sent with; that of its completion, if it has one."""

    def __init__(self) -> None:
        """Start with a random id."""
        self.value = f"req_{secrets.token_hex(12)}"


def shape_responses(send: Send, request_id: RequestId) -> Send:
    """Return a `send` that adds `x-request-id` and gives errors their shape."""
    started: Message | None = None  # of an error whose body is being collected
    body = bytearray()

    async def sending(message: Message) -> None:
        nonlocal started
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            MutableHeaders(scope=message)["x-request-id"] = request_id.value
            if message["status"] >= 400:
                started = message
                return
        elif started is not None and message["type"] == "http.response.body":
            body.extend(message.get("body", b"")[: MAX_ERROR_BYTES - len(body)])
            if message.get("more_body"):
                return
            first, started = started, None
            await _send_error(send, first, bytes(body))
            return
        await send(message)

    return sending


async def _send_error(send: Send, start: Message, body: bytes) -> None:
    error = _parse(start, body)
    if error is not None:
        response = error.response()
        content = bytes(response.body)
        headers = MutableHeaders(raw=list(start["headers"]))
        if "retry-after" in response.headers:
            headers.setdefault("retry-after", response.headers["retry-after"])
        headers["content-type"] = "application/json"
        headers["content-length"] = str(len(content))
        start, body = {**start, "status": error.status, "headers": headers.raw}, content
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def refuse_method(request: Request, _: Exception) -> Response:
    """Answer 405 with the methods of all routes of this path; a route knows only its own."""
    allowed = {
        method
        for route in request.app.routes
        if route.matches(request.scope)[0] != Match.NONE
        for method in getattr(route, "methods", None) or ()
    }
    headers = {"Allow": ", ".join(sorted(allowed))}
    return ApiError(405, _CODES[405], _MESSAGES[405], headers=headers).response()


def _parse(start: Message, body: bytes) -> ApiError | None:
    """Return the error in our shape; None where the response has it already."""
    found: Any = None
    if Headers(raw=start["headers"]).get("content-type", "").startswith("application/json"):
        with contextlib.suppress(ValueError):
            found = json.loads(body)
    return shaped_error(int(start["status"]), found)


def shaped_error(status: int, content: Any) -> ApiError | None:
    """Return an error of vLLM, FastAPI or Starlette in our shape; None where it is in ours.

    Args:
        status: HTTP status.
        content: The parsed body; anything else than an object where it is not JSON.

    """
    content = content if isinstance(content, dict) else {}
    error = content.get("error")
    error = error if isinstance(error, dict) else {}
    if isinstance(error.get("code"), str):
        return None
    message = error.get("message", content.get("detail"))
    if not isinstance(message, str) or message in ("", HTTPStatus(status).phrase):
        message = _MESSAGES.get(status, f"{HTTPStatus(status).phrase}.")
    param = error.get("param")
    code = _CODES.get(status, "internal_error" if status >= 500 else "invalid_request")
    if status == 404 and param == "model":
        code = "model_not_found"
    # OpenAI's API answers requests that it cannot read with 400.
    return ApiError(400 if status == 422 else status, code, message, param or None)
