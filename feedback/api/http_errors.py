"""Errors of every HTTP route, in the shape that OpenAI's clients expect."""

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from feedback.api.schema import CHOICE_TAGS, CUSTOM_ERROR_TYPES
from feedback.errors import FeedbackError
from feedback.log.events import KINDS

Handler = Callable[[Request], Awaitable[Response]]


class ApiError(FeedbackError):
    """A refused request. The message says what is wrong and what to do about it.

    Attributes:
        status: HTTP status.
        code: Machine-readable reason, `error.code` in the body.
        message: Human-readable reason.
        param: Field or parameter at fault; None where it is none in particular.
        headers: Headers added to the response.

    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers

    def response(self) -> JSONResponse:
        """Return the response, `{"error": {"message", "type", "param", "code"}}`.

        A 503 asks clients to retry after a second unless `headers` says otherwise.
        """
        error = {
            "message": self.message,
            "type": "server_error" if self.status >= 500 else "invalid_request_error",
            "param": self.param,
            "code": self.code,
        }
        headers = self.headers
        if self.status == 503:
            headers = {"Retry-After": "1", **(headers or {})}
        return JSONResponse({"error": error}, self.status, headers=headers)


def handle_errors(
    handler: Handler,
    translate: Callable[[Exception], ApiError | None] = lambda _: None,
    on_refusal: Callable[[ApiError], None] = lambda _: None,
) -> Handler:
    """Wrap a route's handler so that its errors become responses.

    Args:
        handler: The route's handler.
        translate: Returns the `ApiError` for any other exception; None to let it propagate.
        on_refusal: Called with every error before it is sent.

    """

    @functools.wraps(handler, assigned=("__name__", "__doc__"))
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        except Exception as error:
            refusal = error if isinstance(error, ApiError) else translate(error)
            if refusal is None:
                raise
        on_refusal(refusal)
        return refusal.response()

    del handle.__wrapped__  # FastAPI must see the signature of `handle`
    return handle


_MESSAGES: Final[dict[str, str]] = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field: check its spelling, or leave it out",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "string_type": "must be a string",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be {expected}",
    "union_tag_not_found": f"is missing: it is one of {', '.join(KINDS)}",
    "union_tag_invalid": f"must be one of {', '.join(KINDS)}",
}


def api_error_from_validation(error: ValidationError) -> ApiError:
    """Return one readable sentence for pydantic's errors, naming the first field at fault."""
    details = error.errors(include_url=False, include_input=False)
    first = details[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it does not parse")
        message = f"The body is not valid JSON: {reason}. Send a JSON object."
        return ApiError(400, "invalid_json", message)
    param = _path(first["loc"])
    if first["type"].startswith("union_tag"):
        param = f"{param}.kind"
    code = {"missing": "missing_field", "extra_forbidden": "unknown_field"}.get(
        first["type"], "invalid_value"
    )
    subject = f"'{param}'" if param else "The body"
    more = f" ({len(details) - 1} more like it.)" if len(details) > 1 else ""
    return ApiError(400, code, f"{subject} {_sentence(first)}.{more}", param or None)


def _sentence(detail: ErrorDetails) -> str:
    sentence = _MESSAGES.get(detail["type"])
    if sentence is not None:
        return sentence.format(**detail.get("ctx", {}))
    if detail["type"] in CUSTOM_ERROR_TYPES:
        return detail["msg"]
    return f"is invalid: {detail['msg']}"


def _path(location: Sequence[int | str]) -> str:
    """Format pydantic's location as `feedback.groups[0][1]`, without the tags of unions."""
    parts = [part for part in location if part not in CHOICE_TAGS]
    if len(parts) > 1 and parts[0] == "feedback" and parts[1] in KINDS:
        del parts[1]
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
