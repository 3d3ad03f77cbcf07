"""Errors of the feedback API, in the shape that OpenAI's clients know."""

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import JSONResponse

from feedback.api.schema import CHOICE_TAGS, CUSTOM_ERROR_TYPES
from feedback.errors import FeedbackError
from feedback.log.events import KINDS


class ApiError(FeedbackError):
    """A request is refused. Its text says what is wrong and what to do about it."""

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
        """Return the response, `{"error": {"message", "type", "param", "code"}}`."""
        error = {
            "message": self.message,
            "type": "server_error" if self.status >= 500 else "invalid_request_error",
            "param": self.param,
            "code": self.code,
        }
        return JSONResponse({"error": error}, self.status, headers=self.headers)


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
    """Turn pydantic's errors into one readable sentence that names the field."""
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
    return f"is not right: {detail['msg']}"


def _path(location: Sequence[int | str]) -> str:
    """Return `feedback.groups[0][1]` for pydantic's location, without its unions' tags."""
    parts = [part for part in location if part not in CHOICE_TAGS]
    if len(parts) > 1 and parts[0] == "feedback" and parts[1] in KINDS:
        del parts[1]
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
