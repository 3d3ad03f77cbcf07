"""Every response has an id, and every error OpenAI's shape, whoever raised it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from serving.http.responses import shaped_error
from tests.support.door import CHAT, chat, door, error_of

VLLM_ERROR = {"message": "no", "type": "BadRequestError", "param": "top_p", "code": 400}


def app_of_errors() -> FastAPI:
    """Return an app whose routes fail as vLLM, FastAPI and Starlette do."""
    app = FastAPI(openapi_url=None)

    @app.get("/v1/models")
    async def vllm() -> Response:
        return JSONResponse({"error": VLLM_ERROR}, 400)

    @app.get("/v1/me")
    async def ours(number: int) -> Response:
        raise HTTPException(number, "what happened")

    @app.get("/readyz")
    async def text() -> Response:
        return PlainTextResponse("gone", 410)

    @app.get("/livez")
    async def dies() -> Response:
        raise KeyError("a bug")

    @app.get("/")
    async def streams() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b'{"error": {"message": "in '
            yield b'parts", "type": "x", "param": null, "code": 404}}'

        return StreamingResponse(parts(), 404, media_type="application/json")

    return app


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "message"),
    [
        ("GET", "/v1/models", 400, "invalid_value", "no"),
        ("GET", "/v1/me", 400, "invalid_value", "Unprocessable"),
        ("GET", "/v1/me?number=418", 418, "invalid_request", "what happened"),
        ("GET", "/v1/me?number=503", 503, "unavailable", "what happened"),
        ("GET", "/readyz", 410, "invalid_request", "Gone"),
        ("GET", "/livez", 500, "internal_error", "its log says why"),
        ("GET", "/", 404, "not_found", "in parts"),
        ("GET", "/nothing", 404, "not_found", "no such route"),
        ("POST", "/v1/models", 405, "method_not_allowed", "does not take this method"),
    ],
)
async def test_errors_have_one_shape(
    tmp_path: Path, method: str, path: str, status: int, code: str, message: str
) -> None:
    async with door(tmp_path, app_of_errors()) as http:
        response = await http.request(method, path)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (status, code)
    assert message in error["message"]
    assert response.headers["x-request-id"].startswith("req_")
    if status == 405:
        assert response.headers["allow"] == "GET"


def test_an_unknown_model_has_openais_code() -> None:
    error = shaped_error(404, {"error": {**VLLM_ERROR, "param": "model", "code": 404}})
    assert error is not None
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")


def test_our_own_errors_stay_as_they_are() -> None:
    assert shaped_error(400, {"error": {"message": "no", "code": "invalid_n"}}) is None


@pytest.mark.parametrize("content", [None, [], "x", {}, {"error": "x"}, {"detail": [{"loc": []}]}])
def test_anything_else_gets_a_message_by_its_status(content: Any) -> None:
    error = shaped_error(400, content)
    assert error is not None
    assert error.message == "Bad Request."


async def test_a_completion_s_id_is_that_of_its_request(tmp_path: Path) -> None:
    async with door(tmp_path) as http:
        answer = await http.post(CHAT, json=chat(), headers={"X-Request-Id": "mine"})
        refused = await http.post(CHAT, json=chat(n=0))
    assert answer.headers["x-request-id"] == answer.json()["id"]
    assert refused.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("host", ["[", "[::1", "a/b", "user@127.0.0.1", "a]b", "x#y", "h:port:1/"])
async def test_a_host_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    async with door(tmp_path) as http:
        for path in ("/livez", "/v1/me", "/v1/policies"):
            response = await http.get(path, headers={"Host": host})
            assert response.status_code == 400
            assert error_of(response)["code"] == "invalid_host"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "[::1]:8000", "localhost", "a_1.localhost"])
async def test_hosts_of_this_machine_pass(tmp_path: Path, host: str) -> None:
    async with door(tmp_path) as http:
        response = await http.post(CHAT, json=chat(), headers={"Host": host})
    assert response.status_code == 200


async def test_an_origin_that_is_none_is_foreign(tmp_path: Path) -> None:
    async with door(tmp_path) as http:
        response = await http.get("/v1/policies", headers={"Origin": "http://["})
    assert (response.status_code, error_of(response)["code"]) == (403, "keys_needed")


async def test_a_path_has_a_bound(tmp_path: Path) -> None:
    """A version of more than 4,300 digits is no integer to Python."""
    async with door(tmp_path) as http:
        response = await http.get("/v1/policies/" + "9" * 5000)
    assert (response.status_code, error_of(response)["code"]) == (414, "path_too_long")
