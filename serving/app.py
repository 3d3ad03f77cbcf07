"""The serving process: vLLM's OpenAI server, recording, feedback, and the policy follower."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

from feedback.control.policies import PolicyState, append_policy_event
from feedback.log.event_log import LogError
from feedback.metrics import show_disk
from protos.checkpoints.registry import CheckpointInvalid, Registry, RegistryError
from protos.plaudit.v1.policy_pb2 import Swapped
from serving import metrics
from serving.context import request_context
from serving.engine.arguments import engine_arguments, parse
from serving.engine.client import RecordingEngine
from serving.engine.recorder import Recorder
from serving.errors import ServingError
from serving.http.access import Access
from serving.http.middleware import CompletionMiddleware
from serving.http.page_routes import page_router
from serving.http.routes import health_router, restrict_routes
from serving.policies.lineup import Lineup
from serving.policies.loader import Loader
from serving.policies.staging import adapter_rank, full_weights_version
from serving.policies.swapper import Swapper
from serving.services import Services, check_keys, follow_history, follow_view, mount_routes
from serving.settings import ServingSettings

logger = logging.getLogger("plaudit.serving")

ENGINE_CHECK_SECONDS = 2.0
GRACE_SECONDS = 10


def starting_version(registry: Registry, state: PolicyState) -> int:
    """Choose the version to start with: the live one, else the newest before it that is whole.

    Raises:
        ServingError: There is none.

    """
    older = [v for v in reversed(state.published) if v < state.live and v not in state.rolled_back]
    for version in [state.live, *older] if state.live else []:
        try:
            registry.verify(version)
        except CheckpointInvalid as error:
            logger.error("Not starting with version %d: %s", version, error)
        else:
            return version
    raise ServingError("no policy is published: 'plaudit up' trains or brings in the first one")


def _report_live_version(version: int) -> None:
    metrics.ACTIVE_VERSION.set(version)
    metrics.POLICY.info({"version": str(version)})


def _patch_system_fingerprint(handler: Any, live: Callable[[], int]) -> None:
    """Have a handler of vLLM's give as `system_fingerprint` the version of the answer at hand.

    vLLM reads it from the handler when the last chunk is made, and takes it to be the same for
    all answers; here old and new versions answer side by side.
    """

    def fingerprint(_: object) -> str:
        context = request_context.get()
        return f"policy-v{(context.version if context else 0) or live()}"

    own = type(handler)
    members = {"system_fingerprint": property(fingerprint)}
    handler.__class__ = type(own.__name__, (own,), members)


def _on_gpu() -> bool:
    from vllm.platforms import current_platform

    return not current_platform.is_cpu()


async def _build_app(
    args: Any,
    engine: RecordingEngine,
    swapper: Swapper,
    parts: Services,
    settings: ServingSettings,
    stopping: Callable[[], bool],
) -> CompletionMiddleware:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await engine.get_supported_tasks()
    app: FastAPI = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    restrict_routes(app)
    app.include_router(
        health_router(lambda: swapper.ready, lambda: swapper.version, lambda: swapper.on_trial)
    )
    mount_routes(app, parts, stopping)
    app.include_router(page_router())
    for name in ("openai_serving_chat", "openai_serving_completion"):
        if (handler := getattr(app.state, name, None)) is not None:
            _patch_system_fingerprint(handler, lambda: swapper.version)
    return CompletionMiddleware(
        app,
        secret=parts.secret,
        access=Access(parts.secret, lambda: parts.history.keys, parts.usage),
        max_body_bytes=settings.max_body_bytes,
        live_version=lambda: swapper.version,
        ready=lambda: swapper.ready,
    )


def _stop_on_failure(server: uvicorn.Server) -> Callable[[asyncio.Task[None]], None]:
    """Return what stops this replica where one of its tasks fails.

    Without that task it would go on with old policies, or let revoked keys in, unseen.
    """

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical(
                "'%s' has failed (%s); this replica stops, to start again",
                task.get_name(),
                error,
                exc_info=error,
            )
            server.should_exit = True

    return ended


async def _watch_engine(engine: Any, stopping: Callable[[], bool]) -> None:
    while not stopping():  # then vLLM ends the engine itself
        if engine.errored:
            raise ServingError("vLLM's engine has died")
        await asyncio.sleep(ENGINE_CHECK_SECONDS)


async def _cancel_tasks(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them.

    Raises:
        ServingError: One of them had failed.

    """
    for task in tasks:
        task.cancel()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    for task, error in zip(tasks, errors, strict=True):
        if isinstance(error, ServingError):
            raise error
        if isinstance(error, Exception):
            raise ServingError(f"'{task.get_name()}' has failed: {error}") from error


def _listen(host: str, port: int) -> socket.socket:
    """Bind before the engine starts, so that a port in use is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ServingError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


async def serve(settings: ServingSettings) -> None:
    """Serve until SIGTERM or SIGINT; answers under way then have a few seconds to end.

    Raises:
        ServingError: There is no policy to serve, others can reach the address and there is no
            key, the port is taken, or a task failed that this replica cannot do without: the
            engine died, the policy was lost in a swap.

    """
    signal.signal(signal.SIGTERM, _interrupt)  # until uvicorn takes it over
    parts = Services.open(settings)
    show_disk(settings.home)
    state = await asyncio.to_thread(parts.history.poll)
    check_keys(settings.host, parts.history, settings.home)
    listener = _listen(settings.host, settings.port)
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

    version = await asyncio.to_thread(starting_version, parts.registry, state)
    base, rank = await asyncio.to_thread(_base_and_rank, parts.registry, version)
    rank = max(rank, settings.lora_rank)
    args = parse(engine_arguments(settings, parts.registry.path(base), _on_gpu(), rank))
    async with build_async_engine_client(args) as inner:
        await inner.update_weight_version(str(base))
        lineup = Lineup(base, settings.duel_share)
        loader = Loader(
            inner,
            parts.registry,
            lineup,
            lora_rank=rank,
            timeout=settings.swap_timeout_seconds,
        )
        if version != base:
            await loader.swap(version)
        await _serve_engine(loader, args, listener, parts, settings)
    parts.close()


def _base_and_rank(registry: Registry, version: int) -> tuple[int, int]:
    """Return the version of the weights to start with, and the rank of the adapter on them (or 0).

    Raises:
        ServingError: The version is an adapter whose base is not there.

    """
    base = full_weights_version(registry, version)
    if base == version:
        return base, 0
    try:
        registry.verify(base)
    except RegistryError as error:
        raise ServingError(f"version {version} adapts {base}, and {error}") from error
    return base, adapter_rank(registry.path(version))


async def _serve_engine(
    loader: Loader,
    args: Any,
    listener: socket.socket,
    parts: Services,
    settings: ServingSettings,
) -> None:
    inner = loader.engine
    recorder = Recorder(parts.log, logger.error, strict=settings.strict_recording)
    swapper = Swapper(loader, parts.log, settings.replica, on_live=_report_live_version)
    engine = RecordingEngine(inner, recorder, settings.model_name, loader.lineup)

    def stopping() -> bool:
        return server.should_exit

    app = await _build_app(args, engine, swapper, parts, settings, stopping)
    _report_live_version(swapper.version)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    started = Swapped(replica=settings.replica, version=swapper.version)
    await asyncio.to_thread(append_policy_event, parts.log, started)
    following = [
        asyncio.create_task(work, name=name)
        for name, work in {
            "policies": swapper.follow(settings.poll_seconds),
            "view": follow_view(parts, settings.poll_seconds),
            "history": follow_history(parts.history, settings.poll_seconds),
            "usage": parts.usage.follow(),
            "engine": _watch_engine(inner, stopping),
        }.items()
    ]
    for task in following:
        task.add_done_callback(_stop_on_failure(server))
    await server.serve(sockets=[listener])
    try:
        await _cancel_tasks(following)
    finally:
        await recorder.drain()
        with contextlib.suppress(LogError):  # it is known to be gone, or not; nothing hangs on it
            await asyncio.to_thread(
                append_policy_event, parts.log, Swapped(replica=settings.replica)
            )
