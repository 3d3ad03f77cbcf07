"""The ASGI middleware in front of vLLM's app: callers, roles, completion ids and limits.

It admits requests with `serving.http.access`, creates the id of every completion (replacing any
X-Request-Id of the client) and puts what the recorder needs into a context variable.
"""

import json
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feedback.api.http_errors import ApiError
from feedback.api.requests import read_body
from feedback.privacy.identity import Secret, create_completion_id, subject_of
from serving import metrics
from serving.context import RequestContext, request_context
from serving.http.access import Access

PREFIXES = {"/v1/chat/completions": "chatcmpl-", "/v1/completions": "cmpl-"}
MAX_CHOICES = 128


class CompletionMiddleware:
    """Wraps the app; see the module's docstring."""

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
        """Wrap `app`.

        Args:
            app: The app behind the middleware.
            secret: The installation's secret, which signs completion ids.
            access: Admits callers.
            max_body_bytes: Largest body of a completion request, in bytes.
            live_version: Returns the live version.
            ready: Returns whether there is a policy to serve.

        """
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
        except ApiError as error:
            await _refuse(error, scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        if scope["method"] == "POST" and scope["path"] in PREFIXES:
            await self._complete(caller.owner, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _complete(self, owner: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not self.ready():
                raise ApiError(503, "not_ready", "No policy is live yet; try again soon.")
            body = await _read(Request(scope, receive), self.max_body_bytes)
            context = self._context(owner, scope["path"], _parse(body))
        except ApiError as error:
            await _refuse(error, scope, receive, send)
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
            raise ApiError(400, "invalid_type", "'user' must be a string.", "user")
        chat = path == "/v1/chat/completions"
        messages, multimodal = _messages(body) if chat else (None, False)
        prompt = body.get("prompt")
        recorded = chat or not _is_batch(prompt)
        completion_id = create_completion_id(
            self.secret, owner, choices if recorded else 0, self.live_version()
        )
        return RequestContext(
            completion_id=PREFIXES[path] + completion_id.removeprefix("chatcmpl-"),
            owner=owner,
            subject=subject_of(self.secret, owner, user),
            messages=messages,
            prompt="" if chat else _prompt_text(prompt),
            multimodal=multimodal,
            recorded=recorded,
        )


def _is_batch(prompt: Any) -> bool:
    """Return whether there are several prompts, whose completions are not recorded."""
    return isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else ""


def _choices(body: dict[str, Any]) -> int:
    n = body.get("n", 1)
    n = 1 if n is None else n
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_CHOICES:
        raise ApiError(
            400, "invalid_n", f"'n' must be a whole number from 1 to {MAX_CHOICES}.", "n"
        )
    if body.get("use_beam_search"):
        message = "Beam search is not supported: leave out 'use_beam_search' to sample instead."
        raise ApiError(400, "unsupported", message, "use_beam_search")
    return n


def _messages(body: dict[str, Any]) -> tuple[list[tuple[str, str]], bool]:
    """Reduce messages to role and text; vLLM validates them later."""
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
        raise ApiError(400, "invalid_json", message) from error
    if not isinstance(parsed, dict):
        raise ApiError(400, "invalid_json", "The request's body must be a JSON object.")
    return parsed


async def _read(request: Request, limit: int) -> bytes:
    try:
        return await read_body(request, limit, code="too_large")
    except ClientDisconnect as error:
        raise ApiError(400, "disconnected", "The client closed the connection.") from error


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    metrics.REFUSED.labels(str(error.status)).inc()
    await error.response()(scope, receive, send)
