"""The ASGI middleware in front of vLLM's app: identity, roles, completion ids, limits.

It lets in whom `serving.http.access` admits, mints the id of every completion (over whatever
X-Request-Id a client sent) and leaves what the recorder needs in a context variable.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feedback.privacy.identity import Secret, create_completion_id, subject_of
from serving import metrics
from serving.context import RequestContext, request_context
from serving.errors import RequestError
from serving.http.access import Access

PREFIXES = {"/v1/chat/completions": "chatcmpl-", "/v1/completions": "cmpl-"}
MAX_CHOICES = 128


def error_response(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error in OpenAI's shape."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    if status == 503:
        headers = {"Retry-After": "1", **(headers or {})}
    return JSONResponse(body, status_code=status, headers=headers)


class CompletionMiddleware:
    """Wraps the app; see the module's text."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        secret: Secret,
        access: Access,
        max_body_bytes: int,
        live_version: Callable[[], int],
        ready: Callable[[], bool],
    ) -> None:
        self.app = app
        self.secret = secret
        self.access = access
        self.max_body_bytes = max_body_bytes
        self.live_version = live_version
        self.ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            caller = self.access.admit(scope)
        except RequestError as refused:
            await _refuse(refused, scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        if scope["method"] == "POST" and scope["path"] in PREFIXES:
            await self._complete(caller.owner, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _complete(self, owner: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not self.ready():
                raise RequestError(503, "No policy is live yet; try again soon.", None, "not_ready")
            body = await _read(receive, self.max_body_bytes)
            context = self._context(owner, scope["path"], _parse(body))
        except RequestError as refused:
            await _refuse(refused, scope, receive, send)
            return
        base_id = context.completion_id.removeprefix(PREFIXES[scope["path"]])
        MutableHeaders(scope=scope)["x-request-id"] = base_id
        token = request_context.set(context)
        try:
            await self.app(scope, _replay(body, receive), send)
        finally:
            request_context.reset(token)

    def _context(self, owner: str, path: str, body: dict[str, Any]) -> RequestContext:
        choices = _choices(body)
        user = body.get("user")
        if user is not None and not isinstance(user, str):
            raise RequestError(400, "'user' must be a string.", "user", "invalid_type")
        chat = path == "/v1/chat/completions"
        messages, multimodal = _messages(body) if chat else (None, False)
        prompt = body.get("prompt")
        recorded = chat or not _is_batch(prompt)
        minted = create_completion_id(
            self.secret, owner, choices if recorded else 0, self.live_version()
        )
        return RequestContext(
            completion_id=PREFIXES[path] + minted.removeprefix("chatcmpl-"),
            owner=owner,
            subject=subject_of(self.secret, owner, user),
            messages=messages,
            prompt="" if chat else _prompt_text(prompt),
            multimodal=multimodal,
            recorded=recorded,
        )


def _is_batch(prompt: Any) -> bool:
    """Tell several prompts in one request: answered, not recorded, as no one prompt is voted on."""
    return isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else ""


def _choices(body: dict[str, Any]) -> int:
    n = body.get("n", 1)
    n = 1 if n is None else n
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_CHOICES:
        raise RequestError(
            400, f"'n' must be a whole number from 1 to {MAX_CHOICES}.", "n", "invalid_n"
        )
    if body.get("use_beam_search"):
        message = "Beam search is not supported here: leave 'use_beam_search' out and sample."
        raise RequestError(400, message, "use_beam_search", "unsupported")
    return n


def _messages(body: dict[str, Any]) -> tuple[list[tuple[str, str]], bool]:
    """Reduce messages to role and text; vLLM validates them after us."""
    reduced: list[tuple[str, str]] = []
    multimodal = False
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else []:
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        if isinstance(content, list):
            parts = [p for p in content if isinstance(p, dict)]
            multimodal = multimodal or any(p.get("type") != "text" for p in parts)
            content = "".join(str(p.get("text", "")) for p in parts)
        reduced.append((str(message.get("role", "")), content if isinstance(content, str) else ""))
    return reduced, multimodal


def _parse(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError as error:
        message = f"The request's body is not JSON: {error}."
        raise RequestError(400, message, None, "invalid_json") from error
    if not isinstance(parsed, dict):
        raise RequestError(400, "The request's body must be a JSON object.", None, "invalid_json")
    return parsed


async def _read(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "The client went away.", None, "disconnected")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise RequestError(413, f"The body is larger than {limit} bytes.", None, "too_large")
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(refused: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    metrics.REFUSED.labels(str(refused.status)).inc()
    response = error_response(
        refused.status, str(refused), refused.param, refused.code, refused.headers
    )
    await response(scope, receive, send)
