"""The ASGI middleware in front of vLLM's app: callers, roles, completion ids and limits.

It admits requests with `serving.http.access`, checks the bodies of vLLM's routes, creates the id of
every completion (replacing any X-Request-Id of the client) and puts what the recorder needs into a
context variable.
"""

from collections.abc import Callable
from typing import Any, Final

from pydantic_core import to_json
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feedback.api.http_errors import ApiError
from feedback.api.requests import read_body
from feedback.privacy.identity import Secret, create_completion_id, subject_of
from protos.messages import template_json
from serving import metrics
from serving.context import RequestContext, request_context
from serving.http.access import METERED, Access, check_target
from serving.http.bodies import as_chat, check_fields, count_choices, is_batch, parse_body
from serving.http.quotas import Cost, asked_tokens, count_bytes
from serving.http.responses import RequestId, shape_responses
from serving.http.schema_bounds import check_constraints

_RESPONSES: Final = "/v1/responses"
PREFIXES = {"/v1/chat/completions": "chatcmpl-", "/v1/completions": "cmpl-", _RESPONSES: "resp_"}
BODY_PATHS = frozenset({*PREFIXES, "/tokenize", "/detokenize"})


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
            max_body_bytes: Largest body of the routes in `BODY_PATHS`, in bytes.
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
        ids = RequestId()
        send = shape_responses(send, ids)
        try:
            check_target(scope)
            caller = self.access.admit(scope)
            scope.setdefault("state", {})["caller"] = caller
            context, take_back = None, _take_nothing_back
            if scope["method"] == "POST" and scope["path"] in BODY_PATHS:
                body = await _read(Request(scope, receive), self.max_body_bytes)
                size = len(body)
                context, body = self._check(caller.owner, scope["path"], body)
                receive = _replay(body, receive)
                asked = context.asked_tokens if context is not None else 0
                cost = Cost(int(scope["path"] in METERED), asked, size)
                take_back = self.access.spend(scope, cost)
                if context is not None:
                    context.add_tokens = self.access.adder(scope, "tokens")
            elif scope["method"] == "POST":
                receive = count_bytes(receive, self.access.adder(scope, "bytes"))
        except ApiError as error:
            metrics.REFUSED.labels(str(error.status)).inc()
            await error.response()(scope, receive, send)
            return
        if context is not None:
            ids.value = context.completion_id
            base_id = context.completion_id.removeprefix(PREFIXES[scope["path"]])
            MutableHeaders(scope=scope)["x-request-id"] = base_id
        token = request_context.set(context)
        try:
            await self.app(scope, receive, _on_refusal(send, take_back))
        finally:
            request_context.reset(token)

    def _check(self, owner: str, path: str, content: bytes) -> tuple[RequestContext | None, bytes]:
        """Check a body; return the context of a completion (None for other routes) and the body.

        Raises:
            ApiError: The body is refused, or there is no policy that could answer.

        """
        parsed = parse_body(content)
        body = as_chat(parsed) if path == _RESPONSES else parsed
        check_fields(body)
        check_constraints(body)
        if path not in PREFIXES:
            return None, content
        if not self.ready():
            raise ApiError(503, "not_ready", "No policy is live yet; try again soon.")
        context = self._context(owner, path, body)
        if path == _RESPONSES:  # its handler takes the id from the body
            content = to_json({**parsed, "request_id": context.completion_id})
        return context, content

    def _context(self, owner: str, path: str, body: dict[str, Any]) -> RequestContext:
        choices = count_choices(body)
        chat = path != "/v1/completions"
        messages, multimodal = _messages(body) if chat else (None, False)
        prompt = body.get("prompt")
        recorded = chat or not is_batch(prompt)
        completion_id = create_completion_id(
            self.secret, owner, choices if recorded else 0, self.live_version()
        )
        return RequestContext(
            completion_id=PREFIXES[path] + completion_id.removeprefix("chatcmpl-"),
            owner=owner,
            subject=subject_of(self.secret, owner, body.get("user")),
            messages=messages,
            prompt="" if chat else _prompt_text(prompt),
            multimodal=multimodal,
            recorded=recorded,
            asked_tokens=asked_tokens(path, body, choices),
            sent=body["messages"] if messages and not multimodal else (),
            template_json=template_json(body) if chat else "",
        )


def _take_nothing_back() -> None:
    """Do nothing: the request was not counted."""


def _on_refusal(send: Send, action: Callable[[], None]) -> Send:
    """Return `send` such that `action` is called if the status is that of an error."""

    async def watch(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            action()
        await send(message)

    return watch


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else ""


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
