"""The allowed routes of vLLM's app, the health checks, and the identity route."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feedback.api.http_errors import ApiError
from serving.http.access import outdated_keys_error

# The routes of vLLM that are kept. It mounts more (scaling, profiling, token-in-token-out).
ALLOWED_PATHS = frozenset(
    {
        "/health",
        "/metrics",
        "/tokenize",
        "/detokenize",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
    }
)


def health_router(
    ready: Callable[[], bool],
    version: Callable[[], int],
    on_trial: Callable[[], int | None],
    keys_outdated: Callable[[], bool] = lambda: False,
) -> APIRouter:
    """Return `/livez` (the process responds) and `/readyz` (it can answer requests).

    Args:
        ready: Returns whether a complete policy is loaded.
        version: Returns the version that serves.
        on_trial: Returns the version on trial, or None.
        keys_outdated: Returns whether requests with keys are refused, because the log could not
            be read for too long.

    """
    router = APIRouter()

    @router.get("/livez", summary="Check that the process responds")
    async def livez() -> Response:
        """Return 200 while the process responds."""
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
