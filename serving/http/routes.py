"""The allowed routes of vLLM's app, the health checks, and the identity route."""

import time
from collections.abc import Callable
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feedback.api.http_errors import ApiError
from serving.http.access import outdated_keys_error

WRITE_PATH_FAILED: Final = "write_path_failed"  # code of /livez where only a restart helps

# The routes of vLLM that are kept. It mounts more (scaling, profiling, token-in-token-out).
ALLOWED_PATHS = frozenset(
    {
        "/health",
        "/metrics",
        "/tokenize",
        "/detokenize",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
    }
)


def health_router(
    ready: Callable[[], bool],
    version: Callable[[], int],
    on_trial: Callable[[], int | None],
    keys_outdated: Callable[[], bool] = lambda: False,
    failure: Callable[[], str | None] = lambda: None,
) -> APIRouter:
    """Return `/livez` (the process works) and `/readyz` (it can answer requests).

    Args:
        ready: Returns whether a complete policy is loaded.
        version: Returns the version that serves.
        on_trial: Returns the version on trial, or None.
        keys_outdated: Returns whether requests with keys are refused, because the log could not
            be read for too long.
        failure: Returns why this process can record nothing until it is restarted, or None.

    """
    router = APIRouter()

    @router.get("/livez", summary="Check that the process works")
    async def livez() -> Response:
        """Return 200 while the process responds and can record; 503 if only a restart helps."""
        if reason := failure():
            message = f"Nothing can be recorded: {reason}. Restart this process."
            return ApiError(503, WRITE_PATH_FAILED, message).response()
        return JSONResponse({"status": "alive"})

    @router.get("/readyz", summary="Check that requests can be answered")
    async def readyz() -> Response:
        """Return the version that serves, and the one on trial; 503 if requests are refused."""
        if not ready():
            return ApiError(503, "not_ready", "No complete policy is loaded.").response()
        if keys_outdated():
            return outdated_keys_error().response()
        state = {"status": "ready", "policy_version": version()}
        challenger = on_trial()
        return JSONResponse(state if challenger is None else state | {"on_trial": challenger})

    return router


def identity_router(keys_required: Callable[[], bool]) -> APIRouter:
    """Return `/v1/me`: the caller's role and the name of its key."""
    router = APIRouter()

    @router.get("/v1/me", summary="Read the caller's role")
    async def me(request: Request) -> Response:
        """Return the caller's role and the name of its key."""
        caller = request.state.caller
        return JSONResponse(
            {
                "object": "identity",
                "role": caller.role,
                "name": caller.name,
                "keys_required": keys_required(),
            }
        )

    return router


def models_router(name: str, max_model_len: int | None = None) -> APIRouter:
    """Return `/v1/models` and `/v1/models/{id}`, without the folder that vLLM would show.

    Args:
        name: Name that clients give as `model`.
        max_model_len: Context length, in tokens.

    """
    router = APIRouter()
    card = {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "plaudit",
        "max_model_len": max_model_len,
    }

    @router.get("/v1/models", summary="List the model")
    async def models() -> Response:
        """Return a list of the one model that is served."""
        return JSONResponse({"object": "list", "data": [card]})

    @router.get("/v1/models/{model_id:path}", summary="Read the model")
    async def model(model_id: str) -> Response:
        """Return the model with this name."""
        if model_id != name:
            message = f"There is no model of this name: use '{name}'."
            return ApiError(404, "model_not_found", message, "model").response()
        return JSONResponse(card)

    return router
