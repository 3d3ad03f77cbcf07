"""The stores of a serving process, and the routes that need only these."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from feedback.api.routes import feedback_router
from feedback.control.history import History
from feedback.control.keys import milliseconds_now, no_valid_key_message
from feedback.control.learning import Learning
from feedback.control.operations import Operations
from feedback.disk import DiskReserve
from feedback.errors import FeedbackError
from feedback.home import prepare_home
from feedback.log.event_log import EventLog
from feedback.opening import open_log
from feedback.privacy.identity import Secret, load_or_create_secret
from feedback.registry import open_registry
from feedback.view.feedback_view import View
from protos.checkpoints.registry import Registry
from serving.errors import ServingError
from serving.http.access import is_loopback
from serving.http.learning import LearningFeed, learning_router
from serving.http.operators import operators_router
from serving.http.responses import refuse_method
from serving.http.routes import identity_router
from serving.http.usage import Usage, usage_file
from serving.settings import ServingSettings

logger = logging.getLogger("plaudit.serving")


@dataclass(frozen=True)
class Services:
    """The stores of a serving process, all in or reached from its home folder.

    Attributes:
        secret: The installation's secret.
        log: The event log.
        view: This replica's view of the feedback.
        registry: The registry of checkpoints.
        history: Policy events: versions, keys and the audit trail.
        usage: Completions per key and day.
        reserve: Space that votes and records leave free on the home folder's disk.
        max_keys_age: Seconds without a read of the log after which the keys are outdated.
        costs: What the model costs on this machine, in words.

    """

    secret: Secret
    log: EventLog
    view: View
    registry: Registry
    history: History
    usage: Usage
    reserve: DiskReserve
    max_keys_age: float
    costs: str = ""

    @classmethod
    def open(cls, settings: ServingSettings) -> "Services":
        """Open or create the stores in the home folder."""
        home = settings.home
        prepare_home(home)
        outbox = None if settings.strict_recording else f"outbox-{settings.replica}"
        log = open_log(home, outbox=outbox)
        return cls(
            secret=load_or_create_secret(home / "secret.json"),
            log=log,
            view=View(home / f"view-{settings.replica}.db"),
            registry=open_registry(home),
            history=History(log),
            usage=Usage(usage_file(home)),
            reserve=DiskReserve(home, int(settings.disk_reserve_gib * (1 << 30))),
            max_keys_age=settings.max_keys_age_seconds,
            costs=settings.costs,
        )

    def keys_outdated(self) -> bool:
        """Return whether keys may have been revoked unnoticed, since the log cannot be read.

        Without keys nothing can be revoked, so they are never outdated.
        """
        age = time.monotonic() - self.history.read_at
        return self.history.keys.required and age > self.max_keys_age

    def is_authorized(self, token: str) -> bool:
        """Return whether a client with this token may go on listening to a stream."""
        keys = self.history.keys
        if not keys.required:
            return True
        key = keys.find(token)
        valid = key is not None and not key.has_expired(milliseconds_now())
        return valid and not self.keys_outdated()

    def close(self) -> None:
        """Close the stores."""
        self.usage.close()
        self.view.close()
        self.log.close()


def mount_routes(app: FastAPI, services: Services, stopping: Callable[[], bool]) -> None:
    """Add the routes that need no engine: feedback, learning, operators and identity.

    Args:
        app: The app to add the routes to.
        services: The stores that the routes use.
        stopping: Returns whether the server is stopping; streams end then.

    """
    history, registry = services.history, services.registry
    app.add_exception_handler(405, refuse_method)
    app.include_router(
        feedback_router(
            services.log,
            services.view,
            services.secret,
            lineage=lambda: history.lineage,
            reserve=services.reserve,
        )
    )
    app.include_router(identity_router(lambda: history.keys.required))
    learning = Learning(history, registry, services.view, costs=services.costs)
    feed = LearningFeed(learning, stopping)
    app.include_router(learning_router(feed, registry, services.is_authorized))
    operations = Operations(services.log, registry, history)
    app.include_router(operators_router(operations, history, registry))


async def follow_view(services: Services, poll_seconds: float) -> None:
    """Keep the view up to date until cancelled."""
    while True:
        with contextlib.suppress(FeedbackError):  # reading continues when the log is back
            while await asyncio.to_thread(services.view.follow, services.log):
                pass
        await asyncio.sleep(poll_seconds)


async def follow_history(history: History, poll_seconds: float) -> None:
    """Keep keys, versions and the audit trail up to date, independently of the view."""
    unavailable = False
    while True:
        try:
            await asyncio.to_thread(history.poll)
            unavailable = False
        except FeedbackError as error:  # reading continues when the log is back
            if not unavailable:
                logger.warning("Keys and versions cannot be read; keeping those known: %s", error)
            unavailable = True
        await asyncio.sleep(poll_seconds)


def require_valid_key(host: str, history: History, home: Path) -> None:
    """Refuse to listen on an address that others can reach while there is no valid key.

    Args:
        host: Host name or address to listen on.
        history: Policy events, as of the last poll.
        home: The installation's folder, for the message.

    Raises:
        ServingError: `host` is not a loopback address, and there is no valid key.

    """
    if not is_loopback(host) and not history.keys.usable:
        raise ServingError(no_valid_key_message(history.keys, host, home))
