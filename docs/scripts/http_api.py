"""The page of the HTTP API: the routes of the app, and the bodies from its OpenAPI schema.

The app has the routes that need no engine, on an empty home folder; vLLM is not started.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI

from docs.scripts.markdown import code, table
from serving.http.access import role_for
from serving.http.documentation import documentation_router, openapi_schema
from serving.http.page_routes import page_router
from serving.http.routes import ALLOWED_PATHS, health_router, models_router
from serving.services import Services, mount_routes
from serving.settings import ServingSettings

# What each route does. The build fails when this and the app's routes differ.
ROUTES: Final[dict[tuple[str, str], str]] = {
    ("POST", "/v1/chat/completions"): "Answer a chat, with up to 128 choices, streamed or whole.",
    ("POST", "/v1/completions"): "Complete a text.",
    ("POST", "/v1/responses"): "Answer a chat in the form of OpenAI's Responses API.",
    ("GET", "/v1/models"): "List the name that clients give as `model`.",
    ("GET", "/v1/models/{model_id:path}"): "Return the model of that name.",
    ("POST", "/tokenize"): "Return the token ids of a text or a chat.",
    ("POST", "/detokenize"): "Return the text of token ids.",
    ("POST", "/v1/feedback"): "Record one piece of feedback.",
    ("GET", "/v1/feedback"): "List the caller's feedback, oldest first. Query parameters: "
    "`completion_id`, `after` (a feedback id), `limit`.",
    ("GET", "/v1/feedback/{feedback_id}"): "Return one piece of the caller's feedback.",
    ("DELETE", "/v1/feedback/{feedback_id}"): "Retract it. Retracting it again changes nothing.",
    ("GET", "/v1/me"): "Return role and name of the key that the request was sent with.",
    ("GET", "/v1/learning"): "Return the state of the learning loop.",
    ("GET", "/v1/learning/events"): "Send the same as server-sent events.",
    ("GET", "/v1/learning/reports/{version:int}"): "Return the report of a version.",
    ("GET", "/v1/learning/reports/{version:int}/chart.svg"): "Return the chart of its PPO curves.",
    ("GET", "/v1/policies"): "List the versions, and say which is live.",
    ("GET", "/v1/policies/{version:int}"): "Return one version.",
    ("POST", "/v1/policies/{version:int}/activate"): "Make a version live.",
    ("POST", "/v1/policies/rollback"): "Return to the previous version and hold publishing.",
    ("POST", "/v1/policies/hold"): "Let no new version go live until publishing is resumed.",
    ("POST", "/v1/policies/resume"): "Let new versions go live again.",
    ("GET", "/v1/audit"): "List who did what, newest first. Query parameter: `limit`.",
    ("GET", "/livez"): "Return 200 while the process answers and can record; 503, with the reason, "
    "if only a restart helps.",
    (
        "GET",
        "/readyz",
    ): "Return 200 and the live version; 503 while no policy is loaded, or "
    "requests with keys are refused.",
    ("GET", "/health"): "Return vLLM's own check of its engine.",
    ("GET", "/metrics"): "Return the [metrics](metrics.md).",
    ("GET", "/"): "Return the page.",
    ("GET", "/page/{build}/{name:path}"): "Return a file of the page.",
    ("GET", "/docs"): "List these routes, with their statuses, on a page.",
    ("GET", "/openapi.json"): "Return the OpenAPI schema of all routes.",
}
_CHARACTERS: Final = ("characters", "character")
_ENTRIES: Final = ("entries", "entry")
_BOUNDS: Final[dict[str, tuple[str, tuple[str, str] | None]]] = {
    "minimum": ("at least", None),
    "maximum": ("at most", None),
    "minLength": ("at least", _CHARACTERS),
    "maxLength": ("at most", _CHARACTERS),
    "minItems": ("at least", _ENTRIES),
    "maxItems": ("at most", _ENTRIES),
}
_RESPONSES: Final = {
    "FeedbackObject": "one piece of feedback",
    "FeedbackList": "a list",
    "FeedbackDeleted": "a retraction",
}
_VLLM_METHODS: Final = {"/health": "GET", "/metrics": "GET"}


def feedback_bodies() -> str:
    """Return the bodies of the feedback routes."""
    schema = openapi_schema(own_app())
    schemas = schema["components"]["schemas"]
    body = schema["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]
    request = body["application/json"]["schema"]
    parts = ["### Request body\n", _properties(request)]
    for name, kind in feedback_kinds(request, schemas):
        parts += [f"#### Kind `{name}`\n", _properties(kind)]
    for name, heading in _RESPONSES.items():
        parts += [f"### Response: {heading}\n", _properties(schemas[name])]
    return "\n".join(parts)


def own_app() -> FastAPI:
    """Return an app with Plaudit's own routes on an empty home folder."""
    app = FastAPI(title="Plaudit", openapi_url=None)
    with tempfile.TemporaryDirectory() as folder:
        services = Services.open(ServingSettings(home=Path(folder)))
        mount_routes(app, services, lambda: True)
        services.close()
    app.include_router(health_router(lambda: True, lambda: 1, lambda: None))
    app.include_router(models_router("plaudit"))
    app.include_router(page_router())
    app.include_router(documentation_router(app))
    return app


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route, with those of vLLM that are kept."""
    for route in app.routes:
        path = getattr(route, "path", "")
        yield from ((method, path) for method in getattr(route, "methods", ()))
    yield from ((_VLLM_METHODS.get(path, "POST"), path) for path in ALLOWED_PATHS)


def _check_routes() -> None:
    found = {(method, path) for method, path in routes(own_app()) if method != "HEAD"}
    if found != ROUTES.keys():
        raise RuntimeError(
            f"docs/scripts/http_api.py describes other routes than the app has: "
            f"{sorted(found ^ ROUTES.keys())}"
        )


def routes_table() -> str:
    """Return the table of all routes.

    Raises:
        RuntimeError: The app has a route that is not described here, or the reverse.

    """
    _check_routes()
    rows = []
    for (method, path), text in ROUTES.items():
        example = path.replace("{version:int}", "1").replace("{name:path}", "app.js")
        role = role_for(method, example)
        shown = path.replace(":int", "").replace(":path", "")
        rows.append((code(f"{method} {shown}"), code(role) if role else "no key", text))
    return table(("route", "role", "what it does"), rows)


def feedback_kinds(
    request: dict[str, Any], schemas: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the kinds of feedback with their schemas."""
    for name, reference in request["properties"]["feedback"]["discriminator"]["mapping"].items():
        yield name, schemas[reference.rpartition("/")[2]]


def _properties(schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (code(name), _type(member), "yes" if name in required else _default(member))
        for name, member in schema["properties"].items()
    ]
    return table(("field", "type", "required"), rows)


def _default(member: dict[str, Any]) -> str:
    default = member.get("default")
    return "no" if default is None else f"no; {code(default)}"


def _type(member: dict[str, Any]) -> str:
    if "const" in member:
        return code(member["const"])
    if "enum" in member:
        return "one of " + ", ".join(code(value) for value in member["enum"])
    if "$ref" in member:
        name = member["$ref"].rpartition("/")[2]
        return "a choice of another completion" if name == "CandidateRef" else name
    if "discriminator" in member:
        return "one of the kinds"
    variants = member.get("oneOf") or member.get("anyOf")
    if variants:
        types = [_type(variant) for variant in variants if variant.get("type") != "null"]
        return "choice" if types[1:] == ["a choice of another completion"] else " or ".join(types)
    text = {"number": "number", "integer": "integer", "boolean": "boolean", "string": "text"}.get(
        member.get("type", ""), member.get("type", "")
    )
    if text == "array":
        text = f"list of ({_type(member['items'])})"
    return ", ".join([text, *_bounds(member)])


def _bounds(member: dict[str, Any]) -> Iterator[str]:
    for name, (words, unit) in _BOUNDS.items():
        if name in member:
            limit = int(member[name])  # all of them are whole
            yield f"{words} {limit}" + (f" {unit[limit == 1]}" if unit else "")
