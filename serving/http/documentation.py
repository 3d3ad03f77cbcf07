"""`/openapi.json` and `/docs`: every route with the statuses that occur, and the form of errors.

The page needs no script and no other host. The schema is built on the first request, in a thread,
since vLLM's bodies have hundreds of fields.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from html import escape
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from anyio import to_thread
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse, JSONResponse, Response

from serving.http.access import COMPLETIONS, role_for

_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_ALWAYS: Final = (400, 404, 405, 408, 414, 431, 500, 503)
_WITH_KEY: Final = (401, 403, 429)
_WITH_BODY: Final = (413, 415)
# Beside those that several routes share.
_OWN: Final[dict[tuple[str, str], tuple[int, ...]]] = {
    ("post", "/v1/feedback"): (200, 409, 410),
    ("post", "/v1/policies/{version}/activate"): (409,),
    ("post", "/v1/policies/rollback"): (409,),
    ("post", "/v1/policies/hold"): (409,),
    ("post", "/v1/policies/resume"): (409,),
    ("post", "/v1/chat/completions"): (501,),
    ("post", "/v1/completions"): (501,),
    ("post", "/v1/responses"): (501,),
    ("post", "/tokenize"): (501,),
}
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;"
    "padding:.3rem .6rem;text-align:left;vertical-align:top}"
)
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def openapi_schema(app: FastAPI, *, keys_required: bool = True) -> dict[str, Any]:
    """Return the OpenAPI schema of all routes of `app`, with their statuses.

    Where no keys are required, it says so.
    """
    schema = get_openapi(
        title="Plaudit",
        version=version("plaudit"),
        description="OpenAI's API, with feedback on its answers. Every error has one form.",
        routes=app.routes,
    )
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = _ERROR
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for method, path, operation in _operations(schema):
        _describe(method, path, operation)
        if not keys_required:
            operation.pop("security", None)
    return schema


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation


def _describe(method: str, path: str, operation: dict[str, Any]) -> None:
    """Add security and errors to an operation; vLLM's and FastAPI's own errors are replaced."""
    keyed = role_for(method.upper(), _example(path)) is not None
    if keyed:
        operation["security"] = [{"key": []}]
    statuses = {*_ALWAYS, *_OWN.get((method, path), ())}
    statuses |= set(_WITH_KEY) if keyed else set()
    statuses |= set(_WITH_BODY) if method == "post" else set()
    responses = operation["responses"]
    for status in [status for status in responses if int(status) >= 400]:
        del responses[status]
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for status in sorted(statuses):
        if status < 400:
            responses[str(status)] = {**responses["201"], "description": "Recorded before"}
        else:
            phrase = HTTPStatus(status).phrase
            responses[str(status)] = {"description": phrase, "content": error}
    if f"/{path.strip('/')}" in COMPLETIONS:
        responses["200"]["content"].setdefault("text/event-stream", {})


def _example(path: str) -> str:
    """Return a path that matches a route's template."""
    return path.replace("{version}", "1").replace("{", "").replace("}", "")


def documentation_page(schema: dict[str, Any]) -> str:
    """Return a page that lists the routes of a schema."""
    rows = [
        f"<tr><td><code>{escape(method.upper())} {escape(path)}</code></td>"
        f"<td>{escape(role_for(method.upper(), _example(path)) or 'no key')}</td>"
        f"<td>{escape(operation.get('summary', ''))}</td>"
        f"<td>{escape(', '.join(sorted(operation['responses'])))}</td></tr>"
        for method, path, operation in _operations(schema)
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Plaudit: HTTP API</title>"
        f"<style>{_STYLE}</style><h1>HTTP API</h1><p>The fields of every body are in "
        "<a href=/openapi.json>/openapi.json</a>.</p><table><tr><th>Route<th>Role of the key"
        f"<th>What it does<th>Statuses</tr>{''.join(rows)}</table></html>"
    )


def documentation_router(
    app: FastAPI, keys_required: Callable[[], bool] = lambda: True
) -> APIRouter:
    """Return `/openapi.json` and `/docs` for the routes of `app`.

    Args:
        app: The app whose routes are described.
        keys_required: Returns whether requests need a key.

    """
    router = APIRouter()
    building = threading.Lock()
    schema = functools.cache(lambda keyed: openapi_schema(app, keys_required=keyed))

    def built() -> dict[str, Any]:
        with building:
            return schema(keys_required())

    async def openapi(_: Any) -> Response:
        return JSONResponse(await to_thread.run_sync(built))

    async def page(_: Any) -> Response:
        content = documentation_page(await to_thread.run_sync(built))
        return HTMLResponse(content, headers=_HEADERS)

    router.add_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False)
    router.add_route("/docs", page, methods=["GET"], include_in_schema=False)
    return router
