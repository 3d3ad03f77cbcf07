"""The page before a small server that tells what a test (or a screenshot) wants it to.

It serves the page by its own routes, and under /v1 answers in the shapes of the real ones, which
the tests against `plaudit up` use too: here stand states that take a real one hours to reach.
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
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": body}, status)


def _snapshot_event(snapshot: Any, more_votes: int) -> str:
    votes = {**snapshot["votes"], "total": snapshot["votes"]["total"] + more_votes}
    return f"event: learning\ndata: {json.dumps(snapshot | {'votes': votes})}\n\n"


class StandIn:
    """A server in a thread. Its attributes may be changed while it runs.

    Attributes:
        snapshot: What /v1/learning tells.
        role: Of whoever asks.
        key: That requests must carry; None for no key.
        answers: What the candidates of an answer say, in order of choice.
        tokens_per_second: Of each candidate; 0 gives the answer at once.
        deeds: POST requests to /v1/policies, as (path, body).
        feedback: What was voted, by id.
        gone: Ids of feedback that the server does not know (any more).
        learned_in: The version that votes went into.
        superseded: Ids of feedback that a later vote has replaced.
        failing: Votes get an internal error, and are not kept.
        silent: Streams of the learner's events that are asked for now never say anything.
        asked: The bodies of the requests for answers.
        looked: The queries of requests for feedback, and the ids asked for one by one.
        flood: So many changes of the snapshot are told in one go, one vote more in each.

    """

    def __init__(self) -> None:
        self.port = free_port()
        self.reset()
        routes = [
            Route("/readyz", self._ready),
            Route("/v1/models", self._models),
            Route("/v1/me", self._me),
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/feedback", self._feedback, methods=["GET", "POST"]),
            Route("/v1/feedback/{id}", self._one, methods=["GET", "DELETE"]),
            Route("/v1/learning/events", self._events),
            Route("/v1/learning/reports/{version:int}", self._report),
            Route("/v1/policies", self._policies),
            Route("/v1/policies/{rest:path}", self._deed, methods=["POST"]),
            Route("/v1/audit", self._audit),
            *page_router().routes,
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), log_level="critical", lifespan="off", port=self.port
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def reset(self) -> None:
        """Tell the story as it begins."""
        self.snapshot: dict[str, Any] = story.snapshot()
        self.role = "operator"
        self.key: str | None = None
        self.answers: list[str] = list(story.ANSWERS)
        self.tokens_per_second = 0.0
        self.deeds: list[tuple[str, Any]] = []
        self.feedback: dict[str, Any] = {}
        self.gone: set[str] = set()
        self.learned_in: int | None = None
        self.superseded: set[str] = set()
        self.failing = False
        self.silent = False
        self.flood = 0
        self.asked: list[Any] = []
        self.looked: list[str] = []
        self._keys: dict[str, str] = {}

    @property
    def flooded(self) -> int:
        """The number of votes at the end of a flood."""
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

    def _refused(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return error(401, "invalid_api_key", "This server needs a valid API key.")

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"status": "ready", "policy_version": self.snapshot["live"]})

    async def _models(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"data": [{"id": "plaudit"}]})

    async def _me(self, request: Request) -> Response:
        me = {"object": "identity", "role": self.role, "name": "anna"}
        return self._refused(request) or JSONResponse(me | {"keys_required": self.key is not None})

    async def _complete(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        body = await request.json()
        self.asked.append(body)
        stream = self._stream(f"chatcmpl-{len(self.asked)}", int(body.get("n", 1)))
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _stream(self, completion_id: str, n: int) -> AsyncIterator[str]:
        def event(choices: list[Any], **more: Any) -> str:
            chunk = {"id": completion_id, "object": "chat.completion.chunk", "choices": choices}
            return f"data: {json.dumps(chunk | more)}\n\n"

        words = [self.answers[i % len(self.answers)].split(" ") for i in range(n)]
        began = time.monotonic()
        for place in range(max(map(len, words))):
            for index, each in enumerate(words):
                if place < len(each):
                    delta = {"content": each[place] + " " * (place + 1 < len(each))}
                    yield event([{"index": index, "delta": delta, "finish_reason": None}])
            if self.tokens_per_second:
                due = began + (place + 1) / self.tokens_per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        fingerprint = f"policy-v{self.snapshot['live']}"
        for index in range(n):
            done = [{"index": index, "delta": {}, "finish_reason": "stop"}]
            yield event(done, system_fingerprint=fingerprint)
        yield "data: [DONE]\n\n"

    async def _feedback(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        if request.method == "GET":
            self.looked.append(request.url.query)
            after = request.query_params.get("after", "")
            ids = [id for id in self.feedback if not after or int(id[3:]) > int(after[3:])]
            data = [self._told(id) for id in ids]
            return JSONResponse({"object": "list", "data": data, "has_more": False})
        if self.failing:
            return error(500, "internal", "Bad luck.")
        key = request.headers["idempotency-key"]
        if key in self._keys:
            return JSONResponse(self._told(self._keys[key]))
        vote = {"id": f"fb-{len(self._keys)}", **await request.json()}
        self._keys[key] = vote["id"]
        self.feedback[vote["id"]] = vote
        return JSONResponse(vote | {"learned_in": None}, 201)

    def _told(self, id: str) -> dict[str, Any]:
        more = {"superseded": True} if id in self.superseded else {}
        return {**self.feedback[id], "learned_in": self.learned_in, **more}

    async def _one(self, request: Request) -> Response:
        id = request.path_params["id"]
        self.looked.append(id)
        if id in self.gone or id not in self.feedback:
            return error(404, "feedback_not_found", "There is no such feedback of yours.")
        if request.method == "GET":
            return JSONResponse(self._told(id))
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

        if refused := self._refused(request):
            return refused
        return StreamingResponse(events(), media_type="text/event-stream")

    async def _report(self, request: Request) -> Response:
        report = story.report(request.path_params["version"])
        return error(404, "no_report", "There is none.") if report is None else JSONResponse(report)

    def _listed(self) -> dict[str, Any]:
        told = self.snapshot
        data = [
            version | {"replicas": ["replica-0"] if version["state"] == "live" else [], "bytes": 1}
            for version in told["versions"]
        ]
        shown = ("held", "live", "on_trial", "previous")
        return {"data": data, **{key: told[key] for key in shown}}

    async def _policies(self, request: Request) -> Response:
        if self.role != "operator":
            return error(403, "role_not_allowed", "A key of role 'user' may not do this.")
        return JSONResponse(self._listed())

    async def _deed(self, request: Request) -> Response:
        path = request.path_params["rest"]
        self.deeds.append((path, await request.json()))
        if path == "hold" and self.snapshot["held"]:
            return error(409, "not_possible", "Publishing is held already.")
        if path in ("hold", "resume"):
            self.snapshot = self.snapshot | {"held": path == "hold"}
        return JSONResponse(self._listed())

    async def _audit(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": story.audit()})
