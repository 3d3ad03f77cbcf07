"""The serving process: vLLM's OpenAI server with recording, feedback and policy swaps."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from feedback.control.policies import PolicyState, append_policy_event
from feedback.log.event_log import EventLog, LogError
from feedback.metrics import show_disk
from protos.checkpoints.registry import CheckpointInvalid, Registry, RegistryError
from protos.plaudit.v1.policy_pb2 import Swapped
from serving import metrics
from serving.context import request_context
from serving.engine.arguments import engine_arguments
from serving.engine.client import RecordingEngine
from serving.engine.passthrough import check_names, split_arguments
from serving.engine.recorder import Recorder, message_texts
from serving.engine.vllm_patches import (
    allow_greedy_choices,
    build_server_app,
    check_constraints_once,
    parse_arguments,
    parse_given,
    patch_conversations,
    patch_stream_errors,
    patch_system_fingerprints,
    restrict_routes,
    run_engine,
    runs_on_gpu,
    set_server,
    workers_of,
)
from serving.errors import ServingError
from serving.http.access import Access
from serving.http.connections import ConnectionLimits, Connections, allow_open_files
from serving.http.documentation import documentation_router
from serving.http.middleware import CompletionMiddleware
from serving.http.page_routes import page_router
from serving.http.responses import shaped_error
from serving.http.routes import ALLOWED_PATHS, health_router, models_router
from serving.policies.loader import Loader
from serving.policies.policy_table import PolicyTable
from serving.policies.staging import adapter_rank, full_weights_version
from serving.policies.swapper import Swapper
from serving.services import (
    Services,
    follow_history,
    follow_view,
    mount_routes,
    require_valid_key,
)
from serving.settings import ServingSettings

logger = logging.getLogger("plaudit.serving")

ENGINE_CHECK_SECONDS = 2.0
GRACE_SECONDS = 10


def starting_version(registry: Registry, state: PolicyState) -> int:
    """Return the version to start with: the live one, else the newest intact one before it.

    Raises:
        ServingError: There is no intact version.

    """
    older = [v for v in reversed(state.published) if v < state.live and v not in state.rolled_back]
    reasons = []
    for version in [state.live, *older] if state.live else []:
        try:
            registry.verify(version)
        except CheckpointInvalid as error:
            logger.error("Version %d cannot be served: %s", version, error)
            reasons.append(str(error))
        else:
            return version
    if reasons:
        raise ServingError(f"no published version can be served: {reasons[0]}")
    raise ServingError("no policy is published; run 'plaudit up' to train or import the first one")


def _report_live_version(version: int) -> None:
    metrics.ACTIVE_VERSION.set(version)
    metrics.POLICY.info({"version": str(version)})


def _fingerprint(live: int) -> str:
    """Return the policy version of the current request's answer, or the live one."""
    context = request_context.get()
    return f"policy-v{(context.version if context else 0) or live}"


def _note_conversation(conversation: list[Any]) -> None:
    """Record the messages as vLLM has read them, not as the middleware did."""
    if (context := request_context.get()) is not None:
        context.messages = message_texts(conversation)


def _reshape_error(text: str) -> str:
    """Return an error of vLLM in the shape of all our errors, as JSON."""
    content = json.loads(text)
    error = shaped_error(content["error"]["code"], content)
    return text if error is None else bytes(error.response().body).decode()


async def _build_app(
    args: Namespace,
    engine: RecordingEngine,
    swapper: Swapper,
    services: Services,
    stopping: Callable[[], bool],
) -> FastAPI:
    allow_greedy_choices()
    check_constraints_once()
    app = await build_server_app(args, engine)
    restrict_routes(app, ALLOWED_PATHS)
    app.include_router(
        health_router(
            lambda: swapper.ready,
            lambda: swapper.version,
            lambda: swapper.on_trial,
            services.keys_outdated,
            services.log.failure,
        )
    )
    app.include_router(models_router(engine.model, engine.inner.model_config.max_model_len))
    mount_routes(app, services, stopping)
    app.include_router(page_router())
    app.include_router(documentation_router(app, lambda: services.history.keys.required))
    patch_system_fingerprints(app, lambda: _fingerprint(swapper.version))
    patch_conversations(app, _note_conversation)
    patch_stream_errors(app, _reshape_error)
    return app


def _wrap_app(
    app: FastAPI, swapper: Swapper, services: Services, settings: ServingSettings
) -> CompletionMiddleware:
    return CompletionMiddleware(
        app,
        secret=services.secret,
        access=Access(
            services.secret,
            lambda: services.history.keys,
            services.usage,
            local_role=settings.local_role,
            closed=settings.closed_routes,
            vote_rate=settings.votes_per_minute,
            outdated=services.keys_outdated,
        ),
        max_body_bytes=settings.max_body_bytes,
        live_version=lambda: swapper.version,
        ready=lambda: swapper.ready,
    )


def _stop_on_failure(server: uvicorn.Server) -> Callable[[asyncio.Task[None]], None]:
    """Return a task callback that stops the server if the task failed.

    Without one of its tasks a replica would keep old policies, or accept revoked keys, unnoticed.
    """

    def on_done(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical(
                "Task '%s' has failed (%s); this replica stops and must be restarted",
                task.get_name(),
                error,
                exc_info=error,
            )
            server.should_exit = True

    return on_done


async def _watch_engine(engine: Any, stopping: Callable[[], bool]) -> None:
    while not stopping():  # once stopping, vLLM ends the engine itself
        if engine.errored:
            raise ServingError("vLLM's engine has died")
        await asyncio.sleep(ENGINE_CHECK_SECONDS)


async def _cancel_tasks(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended.

    Raises:
        ServingError: A task had failed.

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
    """Bind before the engine starts, so that a port in use is reported at once."""
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
    """Serve until SIGTERM or SIGINT; running answers then have a few seconds to end.

    Raises:
        ServingError: There is no policy to serve, others can reach the address while there is no
            key, the port is in use, an argument of vLLM is refused, or a task that the replica
            depends on failed: the engine died, or the policy was lost in a swap.

    """
    signal.signal(signal.SIGTERM, _interrupt)  # until uvicorn handles it
    services = Services.open(settings)
    show_disk(settings.home, reserve=services.reserve.size)
    state = await asyncio.to_thread(services.history.poll)
    require_valid_key(settings.host, services.history, settings.home)
    listener = _listen(settings.host, settings.port)
    version = await asyncio.to_thread(starting_version, services.registry, state)
    base, rank = await asyncio.to_thread(_base_and_rank, services.registry, version)
    rank = max(rank, settings.lora_rank)
    model = services.registry.path(base)
    args = _parse_all_arguments(settings, model, rank)
    async with run_engine(args) as inner:
        await inner.update_weight_version(str(base))
        policies = PolicyTable(base, settings.duel_share)
        loader = Loader(
            inner,
            services.registry,
            policies,
            lora_rank=rank,
            timeout=settings.swap_timeout_seconds,
            workers=workers_of(inner),
        )
        if version != base:
            await loader.swap(version)
        await _serve_engine(loader, args, listener, services, settings)
    services.close()


def _parse_all_arguments(settings: ServingSettings, model: Path, rank: int) -> Namespace:
    """Return the arguments of vLLM's server: Plaudit's own, then those of the user.

    Raises:
        ServingError: An argument of the user is unknown or refused.

    """
    extra = split_arguments(settings.vllm_arguments)
    given = parse_given(extra)
    check_names(vars(given))
    return parse_arguments([*engine_arguments(settings, model, runs_on_gpu(), rank, given), *extra])


def _base_and_rank(registry: Registry, version: int) -> tuple[int, int]:
    """Return the version of the full weights to load, and the rank of the adapter on them (or 0).

    Raises:
        ServingError: The version is an adapter whose base is missing.

    """
    base = full_weights_version(registry, version)
    if base == version:
        return base, 0
    try:
        registry.verify(base)
    except RegistryError as error:
        raise ServingError(f"version {version} adapts version {base}: {error}") from error
    return base, adapter_rank(registry.path(version))


async def _serve_engine(
    loader: Loader,
    args: Namespace,
    listener: socket.socket,
    services: Services,
    settings: ServingSettings,
) -> None:
    recorder = Recorder(
        services.log, logger.error, strict=settings.strict_recording, reserve=services.reserve
    )
    swapper = Swapper(loader, services.log, settings.replica, on_live=_report_live_version)
    engine = RecordingEngine(
        loader.engine,
        recorder,
        settings.model_name,
        loader.policies,
        share_prefixes=settings.share_prefix_cache,
    )

    def stopping() -> bool:
        return server.should_exit

    app = await _build_app(args, engine, swapper, services, stopping)
    _report_live_version(swapper.version)
    server = _uvicorn_server(_wrap_app(app, swapper, services, settings), settings)
    set_server(app, server)
    await _announce(services.log, settings.replica, swapper.version)
    tasks = _start_tasks(swapper, services, settings.poll_seconds, server)
    await server.serve(sockets=[listener])
    try:
        await _cancel_tasks(tasks)
    finally:
        await recorder.drain()
        with contextlib.suppress(LogError):  # other replicas do not depend on this event
            await _announce(services.log, settings.replica, 0)


def _uvicorn_server(app: CompletionMiddleware, settings: ServingSettings) -> uvicorn.Server:
    allow_open_files(settings.max_connections)
    limits = ConnectionLimits(
        connections=settings.max_connections,
        per_address=settings.max_connections_per_address,
        head_seconds=settings.head_timeout_seconds,
        body_seconds=settings.body_timeout_seconds,
        idle_seconds=settings.idle_timeout_seconds,
        write_seconds=settings.write_timeout_seconds,
    )
    config = uvicorn.Config(
        app,
        http=Connections(limits).protocol(),
        ws="none",  # no route takes WebSockets, which would have no limits
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)


async def _announce(log: EventLog, replica: str, version: int) -> None:
    """Append a policy event that the replica serves `version`; 0: it has stopped."""
    await asyncio.to_thread(append_policy_event, log, Swapped(replica=replica, version=version))


def _start_tasks(
    swapper: Swapper, services: Services, poll_seconds: float, server: uvicorn.Server
) -> list[asyncio.Task[None]]:
    """Start the tasks that this replica depends on; a failed one stops the server."""
    tasks = [
        asyncio.create_task(work, name=name)
        for name, work in {
            "policies": swapper.follow(poll_seconds),
            "view": follow_view(services, poll_seconds),
            "history": follow_history(services.history, poll_seconds),
            "usage": services.usage.follow(),
            "engine": _watch_engine(swapper.loader.engine, lambda: server.should_exit),
        }.items()
    ]
    for task in tasks:
        task.add_done_callback(_stop_on_failure(server))
    return tasks
