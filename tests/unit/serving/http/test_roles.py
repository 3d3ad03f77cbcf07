"""The matrix of routes against roles, on the real routes behind the real middleware."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from feedback.control.key_operations import make_key, revoke_key
from feedback.control.keys import Role
from feedback.control.policies import append_policy_event
from feedback.log.event_log import LogRecord, LogUnavailable
from feedback.privacy.identity import create_completion_id, owner_of
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Published
from serving.engine.vllm_patches import restrict_routes
from serving.http.access import Access, role_for
from serving.http.documentation import documentation_router
from serving.http.middleware import BODY_PATHS, CompletionMiddleware
from serving.http.routes import ALLOWED_PATHS, health_router, models_router
from serving.services import Services, follow_history, mount_routes
from serving.settings import ServingSettings
from tests.support.feedback_api import metric_value

THUMB = {"completion_id": "x", "feedback": {"kind": "rating", "choice": 0, "value": "up"}}
JSON = {"Content-Type": "application/json"}
MESSAGE = {"messages": [{"role": "user", "content": "hi"}]}


def stand_ins() -> FastAPI:
    """Return an app with what is kept of vLLM's, and something of it that is not."""
    app = FastAPI(openapi_url=None)

    async def answer(_: Any) -> Any:
        return JSONResponse({"object": "answer"})

    posted = BODY_PATHS
    for path in sorted(ALLOWED_PATHS - {"/metrics"}):
        app.router.add_route(path, answer, methods=["POST" if path in posted else "GET"])
    app.router.routes.append(Mount("/metrics", Starlette(routes=[Route("/", answer)])))
    app.router.add_route("/scale_elastic_ep", answer, methods=["POST"])
    restrict_routes(app, ALLOWED_PATHS)
    return app


@dataclass
class Server:
    """The app as it is served, without an engine."""

    services: Services
    app: FastAPI
    wrapped: CompletionMiddleware
    tokens: dict[str, str]

    def client(self, who: str = "none", host: str = "127.0.0.1:8000") -> httpx.AsyncClient:
        token = self.tokens.get(who)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = httpx.ASGITransport(self.wrapped)
        return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers)

    def make_key(self, role: Role, name: str) -> str:
        self.services.history.poll()
        token = make_key(self.services.log, self.services.history.keys, role, by="test", name=name)[
            1
        ]
        self.services.history.poll()
        return token


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A home with two versions, version 2 live; no keys yet."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "report.json").write_text('{"cycle":1}')
    (model / "report.svg").write_text("<svg/>")
    registry = FolderRegistry(tmp_path / "registry")
    for version in (1, 2):
        registry.publish(model, version=version, parent=version - 1, base="tiny")
    services = Services.open(ServingSettings(home=tmp_path))
    append_policy_event(services.log, Published(version=1))
    append_policy_event(services.log, Published(version=2, parent=1))
    services.history.poll()
    app = stand_ins()
    app.include_router(
        health_router(
            lambda: True,
            lambda: 2,
            lambda: None,
            services.keys_outdated,
            lambda: services.log.failure(),
        )
    )
    app.include_router(models_router("plaudit"))
    app.include_router(documentation_router(app))
    mount_routes(app, services, stopping=lambda: True)
    wrapped = CompletionMiddleware(
        app,
        secret=services.secret,
        access=Access(
            services.secret,
            lambda: services.history.keys,
            services.usage,
            local_role="operator",
            outdated=services.keys_outdated,
        ),
        max_body_bytes=2048,
        live_version=lambda: 2,
        ready=lambda: True,
    )
    yield Server(services, app, wrapped, {})
    services.close()


@pytest.fixture
def keyed(server: Server) -> Server:
    """The same with keys of every role, and one that was revoked."""
    roles: dict[str, Role] = {
        "user": "user",
        "another": "user",
        "annotator": "annotator",
        "operator": "operator",
        "revoked": "operator",
    }
    server.tokens = {who: server.make_key(role, who) for who, role in roles.items()}
    revoke_key(server.services.log, server.services.history.keys, "revoked", by="test")
    server.services.history.poll()
    return server


def mine(server: Server) -> str:
    """Return a completion of the user's."""
    return create_completion_id(
        server.services.secret, owner_of(server.services.secret, server.tokens["user"]), 2, 2
    )


def vote(server: Server, **more: Any) -> dict[str, Any]:
    feedback = {"kind": "rating", "choice": 0, "value": "up"}
    return {"completion_id": mine(server), "feedback": feedback, **more}


async def voted(server: Server) -> str:
    """Let the user vote; give the vote's id."""
    async with server.client("user") as http:
        answer = await http.post("/v1/feedback", json=vote(server))
    return str(answer.json()["id"])


WHO = ("none", "user", "annotator", "operator", "revoked", "another")
OPEN = (200,) * 6
# By who: no key, the user, an annotator, an operator, a revoked key, another user.
USERS = (401, 200, 200, 200, 401, 200)
THEIRS = (401, 200, 404, 404, 401, 404)  # an operator is no reader of other people's votes
OPERATORS = (401, 403, 403, 200, 401, 403)


@dataclass(frozen=True)
class Row:
    method: str
    path: str
    statuses: tuple[int, ...]
    body: Callable[[Server], Any] | None = None


def body(**fields: Any) -> Callable[[Server], Any]:
    return lambda _: fields


MATRIX = (
    Row("GET", "/livez", OPEN),
    Row("GET", "/readyz", OPEN),
    Row("GET", "/health", OPEN),
    Row("GET", "/metrics/", OPEN),
    Row("GET", "/v1/me", USERS),
    Row("GET", "/v1/models", USERS),
    Row("GET", "/v1/models/plaudit", USERS),
    Row("GET", "/docs", OPEN),
    Row("GET", "/openapi.json", OPEN),
    Row("POST", "/v1/chat/completions", USERS, body(**MESSAGE)),
    Row("POST", "/v1/completions", USERS, body(prompt="Once")),
    Row("POST", "/v1/responses", USERS, body(input="hi")),
    Row("POST", "/tokenize", USERS, body(prompt="Once")),
    Row("POST", "/detokenize", USERS, body(tokens=[1])),
    Row("GET", "/v1/feedback", USERS),
    Row("POST", "/v1/feedback", (401, 201, 404, 404, 401, 404), vote),
    Row(
        "POST",
        "/v1/feedback",
        (401, 403, 404, 404, 401, 403),
        lambda server: vote(server, source="annotator"),
    ),
    Row("GET", "/v1/feedback/{feedback_id}", THEIRS),
    Row("DELETE", "/v1/feedback/{feedback_id}", THEIRS),
    Row("GET", "/v1/learning", USERS),
    Row("GET", "/v1/learning/events", USERS),
    Row("GET", "/v1/learning/reports/2", USERS),
    Row("GET", "/v1/learning/reports/2/chart.svg", USERS),
    Row("GET", "/v1/policies", OPERATORS),
    Row("GET", "/v1/policies/1", OPERATORS),
    Row("POST", "/v1/policies/1/activate", OPERATORS),
    Row("POST", "/v1/policies/rollback", OPERATORS),
    Row("POST", "/v1/policies/hold", OPERATORS),
    Row("POST", "/v1/policies/resume", (401, 403, 403, 409, 401, 403)),
    Row("GET", "/v1/audit", OPERATORS),
    Row("GET", "/v1/keys", (401, 403, 403, 404, 401, 403)),
    Row("POST", "/scale_elastic_ep", (401, 403, 403, 404, 401, 403)),
    Row("PUT", "/v1/feedback", (401, 403, 403, 405, 401, 403)),
)


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: f"{row.method} {row.path}")
async def test_every_route_against_every_role(keyed: Server, row: Row) -> None:
    found = []
    for who in WHO:
        path = row.path.replace("{feedback_id}", await voted(keyed))
        sent = row.body(keyed) if row.body else None
        async with keyed.client(who) as http:
            answer = await http.request(row.method, path, json=sent)
        found.append(answer.status_code)
        if answer.status_code in (401, 403):
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            wanted = "invalid_api_key" if answer.status_code == 401 else "role_not_allowed"
            assert error["code"] == wanted
    assert dict(zip(WHO, found, strict=True)) == dict(zip(WHO, row.statuses, strict=True))


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    for route in app.router.routes:
        if isinstance(route, Mount):
            yield "GET", f"{route.path}/"
            continue
        assert isinstance(route, Route) or hasattr(route, "methods"), route
        for method in sorted(route.methods - {"HEAD"}):  # type: ignore[attr-defined]
            yield method, route.path  # type: ignore[attr-defined]


def test_the_matrix_has_a_row_for_every_route_of_the_app(server: Server) -> None:
    def shape(path: str) -> str:
        return (
            path.replace("{version:int}", "N")
            .replace("/1", "/N")
            .replace("/2", "/N")
            .replace("{model_id:path}", "plaudit")
        )

    rows = {(row.method, shape(row.path)) for row in MATRIX}
    routes = {(method, shape(path)) for method, path in routes_of(server.app)}
    assert routes <= rows, routes - rows


def test_what_the_table_does_not_name_is_the_operators() -> None:
    for path in (
        "/v1/policies",
        "/v1/learning/reports",
        "/v1/feedback/a/b",
        "/v1/me/",
        "//",
        "/v2",
    ):
        assert role_for("GET", path) == "operator", path
    assert role_for("POST", "/livez") == "operator"
    assert role_for("GET", "/page/app.js") is None
    assert role_for("GET", "/pages") == "operator"


async def test_without_keys_everybody_is_operator(server: Server) -> None:
    async with server.client() as http:
        me = (await http.get("/v1/me")).json()
        assert me == {
            "object": "identity",
            "role": "operator",
            "name": "local",
            "keys_required": False,
        }
        assert (await http.post("/v1/policies/hold")).status_code == 200
        assert (await http.get("/nothing")).status_code == 404


async def test_with_keys_me_says_whose(keyed: Server) -> None:
    async with keyed.client("annotator") as http:
        me = (await http.get("/v1/me")).json()
    assert me == {
        "object": "identity",
        "role": "annotator",
        "name": "annotator",
        "keys_required": True,
    }


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", None, 200),
        ("localhost:8000", "http://localhost:8000", 200),
        ("127.0.0.1:8000", "http://evil.example", 403),
        ("127.0.0.1:8000", "http://127.0.0.1:9999", 403),
        ("127.0.0.1:8000", "null", 403),
        ("evil.example:8000", "http://evil.example:8000", 403),  # a name bound to 127.0.0.1
        ("plaudit.example", None, 403),  # a proxy lets others in
    ],
)
async def test_without_keys_another_site_s_page_reaches_no_route(
    server: Server, host: str, origin: str | None, status: int
) -> None:
    headers = {"Origin": origin} if origin else {}
    async with server.client(host=host) as http:
        answers = [
            await http.post("/v1/policies/hold", headers=headers),
            await http.post("/v1/chat/completions", headers=headers, json=MESSAGE),
            *[await http.get(path, headers=headers) for path in ("/v1/feedback", "/", "/metrics")],
            await http.options("/v1/feedback", headers=headers),
        ]
    refused = [answer.status_code == 403 for answer in answers]
    assert refused == [status == 403] * len(answers)
    if status == 403:
        assert "plaudit keys create" in answers[0].json()["error"]["message"]
    assert server.services.history.poll().held == (status == 200)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_without_keys_a_page_cannot_post_without_asking_the_browser(
    server: Server, kind: str | None
) -> None:
    """A form or a Blob is sent to another site without a preflight request."""
    headers = {"Content-Type": kind} if kind else {}
    async with server.client() as http:
        for path in ("/v1/feedback", "/v1/chat/completions", "/v1/policies/hold"):
            answer = await http.post(path, content=b"{}", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                415,
                "unsupported_media_type",
            )
    assert not server.services.history.poll().held


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
async def test_without_keys_nobody_is_an_operator_through_a_proxy(
    server: Server, header: str
) -> None:
    headers = {header: "198.51.100.7"}
    async with server.client() as http:  # the host as nginx names it by itself
        answer = await http.post("/v1/policies/hold", headers=headers)
        me = await http.get("/v1/me", headers=headers)
    assert answer.status_code == 403
    assert me.json()["role"] == "user"
    assert not server.services.history.poll().held


async def test_without_keys_nobody_is_an_operator_unless_a_setting_says_so(
    server: Server,
) -> None:
    """A proxy on this machine need not add any header."""
    services = server.services
    server.wrapped.access = Access(services.secret, lambda: services.history.keys, services.usage)
    async with server.client() as http:
        held = await http.post("/v1/policies/hold")
        vote = await http.post("/v1/feedback", json={"source": "annotator", **THUMB})
        me = await http.get("/v1/me")
    assert (held.status_code, held.json()["error"]["code"]) == (403, "role_not_allowed")
    assert "PLAUDIT_SERVING_LOCAL_ROLE" in held.json()["error"]["message"]
    assert (vote.status_code, vote.json()["error"]["param"]) == (403, "source")
    assert me.json()["role"] == "user"


async def test_metrics_and_readiness_can_be_closed(keyed: Server) -> None:
    services = keyed.services
    keyed.wrapped.access = Access(
        services.secret,
        lambda: services.history.keys,
        services.usage,
        closed=ServingSettings(home=Path(), closed_routes=("/metrics", "/readyz")).closed_routes,
    )
    for path in ("/metrics", "/metrics/", "/readyz"):
        statuses = []
        for who in ("none", "user", "operator"):
            async with keyed.client(who) as http:
                statuses.append((await http.get(path)).status_code)
        assert statuses in ([401, 403, 200], [401, 403, 307]), path
    async with keyed.client() as http:
        assert (await http.get("/livez")).status_code == 200


async def test_a_refused_request_spends_no_quota(keyed: Server) -> None:
    services = keyed.services
    _, token = make_key(services.log, services.history.keys, "user", by="test", quota=2)
    services.history.poll()
    keyed.tokens["limited"] = token
    app = keyed.wrapped.app
    refuse = JSONResponse({"error": {"message": "no", "code": 400}}, 400)  # as vLLM may
    sent = [(app, "{"), (app, '{"n": 0}'), *[(refuse, "{}")] * 3, *[(app, "{}")] * 3]
    statuses = []
    async with keyed.client("limited") as http:
        for keyed.wrapped.app, body in sent:
            statuses.append((await http.post("/v1/chat/completions", content=body)).status_code)
    assert statuses == [400] * 5 + [200, 200, 429]


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], None]:
    """Return a function that makes a server's log unavailable, 601 seconds ago."""

    def away(*_: object) -> list[LogRecord]:
        raise LogUnavailable("the broker is away")

    def begin(server: Server) -> None:
        monkeypatch.setattr(server.services.log, "read", away)
        server.services.history.read_at -= 601
        with pytest.raises(LogUnavailable):
            server.services.history.poll()

    return begin


async def test_keys_are_refused_while_the_log_cannot_be_read_for_too_long(
    keyed: Server, outage: Callable[[Server], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = metric_value("plaudit_refused_total", status="503")
    async with keyed.client("user") as http:
        keyed.services.history.read_at -= 599
        assert (await http.get("/v1/models")).status_code == 200, "a short outage changes nothing"
        keyed.services.history.poll()
        outage(keyed)
        answers = [await http.get(path) for path in ("/v1/models", "/readyz")]
        assert (await http.get("/livez")).status_code == 200
        assert not keyed.services.is_authorized(keyed.tokens["user"]), "streams end"
        for answer in answers:
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "10"
            assert answer.json()["error"]["code"] == "keys_outdated"
            assert "recovers by itself" in answer.json()["error"]["message"]
        assert metric_value("plaudit_refused_total", status="503") == refused + 1
        monkeypatch.undo()
        following = asyncio.create_task(follow_history(keyed.services.history, 0.01))
        while keyed.services.keys_outdated():
            await asyncio.sleep(0.01)
        following.cancel()
        assert (await http.get("/v1/models")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
    assert keyed.services.is_authorized(keyed.tokens["user"])


async def test_without_keys_an_unreadable_log_changes_nothing(
    server: Server, outage: Callable[[Server], None]
) -> None:
    outage(server)
    async with server.client() as http:
        assert (await http.get("/v1/models")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200


async def test_a_process_that_can_record_nothing_is_not_alive(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.services.log, "failure", lambda: "the thread has ended")
    async with server.client() as http:
        answer = await http.get("/livez")
        assert (await http.get("/readyz")).status_code == 200, "chats could be answered"
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "write_path_failed"
    assert "the thread has ended. Restart this process" in answer.json()["error"]["message"]


async def test_a_model_is_found_by_its_name_and_shows_no_folder(server: Server) -> None:
    async with server.client() as http:
        listed = (await http.get("/v1/models")).json()
        one = await http.get("/v1/models/plaudit")
        other = await http.get("/v1/models/org/other")
    assert listed == {"object": "list", "data": [one.json()]}
    assert (one.json()["id"], one.json()["object"]) == ("plaudit", "model")
    assert "/" not in str(one.json().values())
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_operation_s_body_has_a_bound(server: Server) -> None:
    async with server.client() as http:
        answer = await http.post("/v1/policies/hold", content=b" " * 300_000, headers=JSON)
    assert answer.status_code == 413


async def test_an_expired_key_is_refused_and_counted(server: Server) -> None:
    log, history = server.services.log, server.services.history
    _, token = make_key(log, history.keys, "user", by="test", expires_ms=1)
    history.poll()
    server.tokens["expired"] = token
    refused = metric_value("plaudit_refused_total", status="401")
    async with server.client("expired") as http:
        answer = await http.get("/v1/models")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "expired_api_key"
    assert "expired on 1970-01-01 00:00 UTC" in answer.json()["error"]["message"]
    assert metric_value("plaudit_refused_total", status="401") == refused + 1
    assert not server.services.is_authorized(token)


async def test_a_key_made_while_it_runs_counts_at_once(server: Server) -> None:
    async with server.client() as http:
        assert (await http.get("/v1/models")).status_code == 200
        server.make_key("user", "first")
        assert (await http.get("/v1/models")).status_code == 401
        assert (await http.get("/livez")).status_code == 200


async def test_owners_are_told_apart_by_their_keys(keyed: Server) -> None:
    feedback_id = await voted(keyed)
    listed = {}
    for who in ("user", "another", "operator"):
        async with keyed.client(who) as http:
            listed[who] = [one["id"] for one in (await http.get("/v1/feedback")).json()["data"]]
    assert listed == {"user": [feedback_id], "another": [], "operator": []}
