"""The server without vLLM: our routes behind the middleware, on a home whose version 1 is live.

`python -m tests.support.own_server HOME PORT` serves it, to try tools such as schemathesis on it.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from feedback.control.policies import append_policy_event
from feedback.registry import home_registry
from protos.plaudit.v1.policy_pb2 import Published
from serving.http.access import Access
from serving.http.documentation import documentation_router
from serving.http.middleware import CompletionMiddleware
from serving.http.page_routes import page_router
from serving.http.routes import health_router, models_router
from serving.services import Services, follow_view, mount_routes
from serving.settings import ServingSettings

_FILE: Final = "config.json"


def own_server(services: Services) -> CompletionMiddleware:
    """Return the routes that need no engine, behind the middleware; callers are operators."""
    app = FastAPI(openapi_url=None)
    mount_routes(app, services, lambda: True)
    app.include_router(health_router(lambda: True, lambda: 1, lambda: None))
    app.include_router(models_router("plaudit"))
    app.include_router(page_router())
    app.include_router(documentation_router(app, lambda: services.history.keys.required))
    access = Access(
        services.secret,
        lambda: services.history.keys,
        services.usage,
        local_role="operator",
        vote_rate=0,
    )
    return CompletionMiddleware(
        app,
        secret=services.secret,
        access=access,
        max_body_bytes=4 << 20,
        live_version=lambda: 1,
        ready=lambda: True,
    )


@contextlib.contextmanager
def open_services(home: Path) -> Iterator[Services]:
    """Yield the stores of a new home whose version 1 is live."""
    model = home / "model"
    model.mkdir(parents=True)
    (model / _FILE).write_text("{}")
    home_registry(home).publish(model, version=1, parent=0, base="tiny")
    services = Services.open(ServingSettings(home=home))
    append_policy_event(services.log, Published(version=1))
    services.history.poll()
    try:
        yield services
    finally:
        services.close()


@contextlib.asynccontextmanager
async def following(services: Services) -> AsyncIterator[None]:
    """Keep the view up to date, as the server does."""
    task = asyncio.create_task(follow_view(services, 0.1))
    try:
        yield
    finally:
        task.cancel()


async def main(home: Path, port: int) -> None:
    """Serve on a port of this machine until the process is interrupted."""
    with open_services(home) as services:
        async with following(services):
            config = uvicorn.Config(
                own_server(services), port=port, log_level="warning", lifespan="off"
            )
            await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
