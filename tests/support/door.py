"""The middleware in front of a stand-in for vLLM, which answers what it was asked."""

import json
from pathlib import Path
from typing import Any, Final

import httpx
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feedback.control.keys import KeyRing
from feedback.privacy.identity import load_or_create_secret
from serving.context import request_context
from serving.http.access import Access
from serving.http.middleware import BODY_PATHS, CompletionMiddleware
from serving.http.usage import Usage, usage_file

REQUESTS: Final = Path(__file__).parent.parent / "data" / "requests"
CHAT: Final = "/v1/chat/completions"


def door(
    home: Path, app: FastAPI | None = None, max_body_bytes: int = 4 << 20
) -> httpx.AsyncClient:
    """Return a client of the middleware, without keys, in front of `app` or of a stand-in."""
    secret = load_or_create_secret(home / "secret.json")
    wrapped = CompletionMiddleware(
        app or _stand_in(),
        secret=secret,
        access=Access(secret, KeyRing, Usage(usage_file(home)), local_role="operator"),
        max_body_bytes=max_body_bytes,
        live_version=lambda: 1,
        ready=lambda: True,
    )
    transport = httpx.ASGITransport(wrapped, raise_app_exceptions=False)
    headers = {"Content-Type": "application/json"}
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers)


def _stand_in() -> FastAPI:
    app = FastAPI(openapi_url=None)

    async def answer(request: Request) -> Response:
        context = request_context.get()
        body = json.loads(await request.body())
        return JSONResponse({"id": context and context.completion_id, "asked": body})

    for path in BODY_PATHS:
        app.add_route(path, answer, methods=["POST"])
    return app


def chat(**fields: Any) -> dict[str, Any]:
    """Return the body of a chat with these fields."""
    return {"messages": [{"role": "user", "content": "hi"}], **fields}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error of a response, which must have OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if response.status_code >= 500 else REFUSAL)
    assert isinstance(error["code"], str)
    assert error["message"]
    return dict(error)


REFUSAL: Final = "invalid_request_error"
