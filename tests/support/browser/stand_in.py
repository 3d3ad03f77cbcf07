"""A small server that serves the page and whatever state a test or a screenshot needs.

It mounts the real routes of the page, and answers under /v1 in the formats of the real API. Tests
use it for states that a real server takes hours to reach; others run against `plaudit up`.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.http.page_routes import page_router
from tests.support.browser import story
from tests.support.servers import free_port

POLL_SECONDS = 0.02


def error(status: int, code: str, message: str) -> JSONResponse:
    """Return an error in the API's format."""
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": body}, status)


def _snapshot_event(snapshot: Any, more_votes: int) -> str:
    votes = {**snapshot["votes"], "total": snapshot["votes"]["total"] + more_votes}
    return f"event: learning\ndata: {json.dumps(snapshot | {'votes': votes})}\n\n"


class StandIn:
    """A server in a thread, whose attributes may be changed while it runs.

    Attributes:
        snapshot: Learning status sent by /v1/learning/events.
        role: Role of every client.
        key: API key that requests must carry; None if no key is needed.
        answers: Texts of the choices of a completion, by index; repeated if there are more choices.
        tokens_per_second: Streaming rate of each choice; 0 sends the answers at once.
        policy_requests: Received POST requests under /v1/policies, as (path, body).
        feedback: Stored votes by id.
        missing: Ids of feedback that the server no longer knows.
        learned_in: Version that learned from the votes; None if there is none yet.
        superseded: Ids of feedback that a later vote has replaced.
        failing: Whether votes get an internal error and are not stored.
        refusals: Responses to the next requests, by path, in place of the usual ones.
        silent: Whether newly opened event streams never send anything.
        chat_requests: Bodies of the received chat requests.
        feedback_reads: Query strings of feedback lists, and ids of feedback read singly.
        flood: Number of snapshots to send at once, each with one vote more than the last.

    """

    def __init__(self) -> None:
        self.port = free_port()
        self.reset()
        routes = [
            Route("/readyz", self._ready),
            Route("/v1/models", self._models),
            Route("/v1/me", self._me),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/feedback", self._feedback, methods=["GET", "POST"]),
            Route("/v1/feedback/{id}", self._feedback_by_id, methods=["GET", "DELETE"]),
            Route("/v1/learning/events", self._events),
            Route("/v1/learning/reports/{version:int}", self._report),
            Route("/v1/policies", self._policies),
            Route("/v1/policies/{rest:path}", self._change_policy, methods=["POST"]),
            Route("/v1/audit", self._audit),
            *page_router().routes,
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), log_level="critical", lifespan="off", port=self.port
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def reset(self) -> None:
        """Restore the initial state."""
        self.snapshot: dict[str, Any] = story.snapshot()
        self.role = "operator"
        self.key: str | None = None
        self.answers: list[str] = list(story.ANSWERS)
        self.tokens_per_second = 0.0
        self.policy_requests: list[tuple[str, Any]] = []
        self.feedback: dict[str, Any] = {}
        self.missing: set[str] = set()
        self.learned_in: int | None = None
        self.superseded: set[str] = set()
        self.failing = False
        self.refusals: dict[str, list[Response]] = {}
        self.silent = False
        self.flood = 0
        self.chat_requests: list[Any] = []
        self.feedback_reads: list[str] = []
        self._keys: dict[str, str] = {}

    @property
    def flooded(self) -> int:
        """Number of votes in the last snapshot of a flood."""
        total: int = self.snapshot["votes"]["total"]
        return total + self.flood

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "StandIn":
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()

    def _check_key(self, request: Request) -> Response | None:
        if refusals := self.refusals.get(request.url.path):
            return refusals.pop(0)
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return error(401, "invalid_api_key", "This server needs a valid API key.")

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"status": "ready", "policy_version": self.snapshot["live"]})

    async def _models(self, request: Request) -> Response:
        return self._check_key(request) or JSONResponse({"data": [{"id": "plaudit"}]})

    async def _me(self, request: Request) -> Response:
        me = {"object": "identity", "role": self.role, "name": "anna"}
        return self._check_key(request) or JSONResponse(
            me | {"keys_required": self.key is not None}
        )

    async def _chat(self, request: Request) -> Response:
        if error_response := self._check_key(request):
            return error_response
        body = await request.json()
        self.chat_requests.append(body)
        stream = self._stream(f"chatcmpl-{len(self.chat_requests)}", int(body.get("n", 1)))
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _stream(self, completion_id: str, n: int) -> AsyncIterator[str]:
        def chunk_event(choices: list[Any], **fields: Any) -> str:
            chunk = {"id": completion_id, "object": "chat.completion.chunk", "choices": choices}
            return f"data: {json.dumps(chunk | fields)}\n\n"

        words = [self.answers[i % len(self.answers)].split(" ") for i in range(n)]
        started = time.monotonic()
        for position in range(max(map(len, words))):
            for index, answer in enumerate(words):
                if position < len(answer):
                    delta = {"content": answer[position] + " " * (position + 1 < len(answer))}
                    yield chunk_event([{"index": index, "delta": delta, "finish_reason": None}])
            if self.tokens_per_second:
                due = started + (position + 1) / self.tokens_per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        fingerprint = f"policy-v{self.snapshot['live']}"
        for index in range(n):
            final = [{"index": index, "delta": {}, "finish_reason": "stop"}]
            yield chunk_event(final, system_fingerprint=fingerprint)
        yield "data: [DONE]\n\n"

    async def _feedback(self, request: Request) -> Response:
        if error_response := self._check_key(request):
            return error_response
        if request.method == "GET":
            self.feedback_reads.append(request.url.query)
            after = request.query_params.get("after", "")
            ids = [id for id in self.feedback if not after or int(id[3:]) > int(after[3:])]
            data = [self._feedback_body(id) for id in ids]
            return JSONResponse({"object": "list", "data": data, "has_more": False})
        if self.failing:
            return error(500, "internal", "Bad luck.")
        key = request.headers["idempotency-key"]
        if key in self._keys:
            return JSONResponse(self._feedback_body(self._keys[key]))
        vote = {"id": f"fb-{len(self._keys)}", **await request.json()}
        self._keys[key] = vote["id"]
        self.feedback[vote["id"]] = vote
        return JSONResponse(vote | {"learned_in": None}, 201)

    def _feedback_body(self, id: str) -> dict[str, Any]:
        flags = {"superseded": True} if id in self.superseded else {}
        return {**self.feedback[id], "learned_in": self.learned_in, **flags}

    async def _feedback_by_id(self, request: Request) -> Response:
        id = request.path_params["id"]
        self.feedback_reads.append(id)
        if id in self.missing or id not in self.feedback:
            return error(404, "feedback_not_found", "There is no such feedback of yours.")
        if request.method == "GET":
            return JSONResponse(self._feedback_body(id))
        del self.feedback[id]
        return JSONResponse({"id": id, "deleted": True})

    async def _events(self, request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            sent: Any = None
            silent = self.silent
            while silent and not await request.is_disconnected():
                await asyncio.sleep(POLL_SECONDS)
            while not await request.is_disconnected():
                if self.snapshot is not sent:
                    sent = self.snapshot
                    yield _snapshot_event(sent, 0)
                for more in range(1, self.flood + 1):
                    yield _snapshot_event(sent, more)
                self.flood = 0
                await asyncio.sleep(POLL_SECONDS)

        if error_response := self._check_key(request):
            return error_response
        return StreamingResponse(events(), media_type="text/event-stream")

    async def _report(self, request: Request) -> Response:
        report = story.report(request.path_params["version"])
        return error(404, "no_report", "There is none.") if report is None else JSONResponse(report)

    def _policy_list(self) -> dict[str, Any]:
        snapshot = self.snapshot
        data = [
            version | {"replicas": ["replica-0"] if version["state"] == "live" else [], "bytes": 1}
            for version in snapshot["versions"]
        ]
        keys = ("held", "live", "on_trial", "previous")
        return {"data": data, **{key: snapshot[key] for key in keys}}

    async def _policies(self, request: Request) -> Response:
        if self.role != "operator":
            return error(403, "role_not_allowed", "A key of role 'user' may not do this.")
        return JSONResponse(self._policy_list())

    async def _change_policy(self, request: Request) -> Response:
        path = request.path_params["rest"]
        self.policy_requests.append((path, await request.json()))
        if path == "hold" and self.snapshot["held"]:
            return error(409, "not_possible", "Publishing is on hold already.")
        if path in ("hold", "resume"):
            self.snapshot = self.snapshot | {"held": path == "hold"}
        return JSONResponse(self._policy_list())

    async def _audit(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": story.audit()})
