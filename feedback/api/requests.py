"""Reading requests: bodies within a limit, and the query parameter `limit`."""

from typing import Final

from starlette.requests import Request

from feedback.api.http_errors import ApiError

FEEDBACK_BODY_BYTES: Final = 256 * 1024
COMPLETION_BODY_BYTES: Final = 4 << 20  # conversations are longer than votes


async def read_body(request: Request, limit: int, code: str = "body_too_large") -> bytes:
    """Return the body of a request.

    Args:
        request: The request, whose body has not been read yet.
        limit: Largest body accepted, in bytes.
        code: The error's code when the body is larger.

    Raises:
        ApiError: 413, the body is larger than `limit`.
        ClientDisconnect: The client closed the connection before it had sent the whole body.

    """
    declared = request.headers.get("content-length", "")
    body = bytearray()
    too_large = declared.isdecimal() and int(declared) > limit
    if not too_large:
        async for chunk in request.stream():
            body += chunk
            if too_large := len(body) > limit:
                break
    if too_large:
        raise ApiError(413, code, f"The body is larger than {limit} bytes. Send less text.")
    return bytes(body)


def parse_limit(request: Request, default: int, maximum: int) -> int:
    """Return the query parameter `limit`, or `default` where it is not given.

    Raises:
        ApiError: 400, it is not a whole number from 1 to `maximum`.

    """
    given = request.query_params.get("limit")
    if given is None:
        return default
    if not (given.isascii() and given.isdecimal()) or not 1 <= int(given[:9]) <= maximum:
        message = f"'limit' must be a whole number from 1 to {maximum}."
        raise ApiError(400, "invalid_value", message, "limit")
    return int(given)
