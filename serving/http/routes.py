"""The routes of the app: what is kept of vLLM's, the health checks, and who one is."""

from collections.abc import Callable

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.http.middleware import error_response

# vLLM mounts more by itself (scaling, profiling, token-in-token-out): none of it is kept.
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


def restrict_routes(app: FastAPI, kept: frozenset[str] = ALLOWED_PATHS) -> None:
    """Remove every route of `app` whose path is not in `kept`."""
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", None) in kept]


def health_router(
    ready: Callable[[], bool], version: Callable[[], int], on_trial: Callable[[], int | None]
) -> APIRouter:
    """Return `/livez` (the process answers) and `/readyz` (a whole policy is loaded, and which).

    Args:
        on_trial: The version that the live one is in a duel with; None for none.

    """
    router = APIRouter()

    @router.get("/livez")
    async def livez() -> Response:
        return JSONResponse({"status": "alive"})

    @router.get("/readyz")
    async def readyz() -> Response:
        if not ready():
            return error_response(503, "No whole policy is loaded.", None, "not_ready")
        state = {"status": "ready", "policy_version": version()}
        challenger = on_trial()
        return JSONResponse(state if challenger is None else state | {"on_trial": challenger})

    return router


def identity_router(keys_required: Callable[[], bool]) -> APIRouter:
    """Return `/v1/me`: whose key the request came with, and what it may do."""
    router = APIRouter()

    @router.get("/v1/me")
    async def me(request: Request) -> Response:
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
