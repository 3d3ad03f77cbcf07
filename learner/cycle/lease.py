"""Leases: a file lock on one machine, Kafka's group protocol in a fleet.

A holder can lose its lease without noticing at once (a paused process). Replicas ignore what is
published under a lost lease: see `Published.leader` in the policy events.
"""

import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from filelock import FileLock, Timeout
from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError

from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import lease_topic

logger = logging.getLogger(__name__)


class Lease(Protocol):
    """The right to train and publish; at most one learner of an installation holds it."""

    def acquire(self, seconds: float) -> bool:
        """Wait for the lease for at most `seconds`; return whether it is held."""
        ...

    def held(self) -> bool:
        """Return whether the lease is held, as far as this process knows."""
        ...

    def close(self) -> None:
        """Release the lease."""
        ...


class FileLease:
    """A lock on a file; it is lost only when the process of its holder ends."""

    def __init__(self, path: Path) -> None:
        """Create the folder of the lock file; the lock is not acquired yet."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path)

    def acquire(self, seconds: float) -> bool:
        """Wait for the lease for at most `seconds`; return whether it is held."""
        if self._lock.is_locked:
            return True
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout:
            return False
        return True

    def held(self) -> bool:
        """Return whether the lease is held."""
        return self._lock.is_locked

    def close(self) -> None:
        """Release the lease."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class KafkaLease:
    """The single partition of a topic, which Kafka assigns to one group member at a time."""

    def __init__(
        self, settings: KafkaSettings, *, session_seconds: float = 10.0, poll_seconds: float = 0.5
    ) -> None:
        """Join the group in a thread that remains a member until `close`.

        Args:
            settings: Connection to Kafka.
            session_seconds: Seconds without a heartbeat after which a holder loses the lease.
            poll_seconds: Seconds between two looks at the assignment.

        """
        self._settings = settings
        self._session_seconds = session_seconds
        self._poll_seconds = poll_seconds
        self._closed = threading.Event()
        self._held = threading.Event()
        self._thread = threading.Thread(target=self._run, name="learner-lease", daemon=True)
        self._thread.start()

    def acquire(self, seconds: float) -> bool:
        """Wait for the lease for at most `seconds`; return whether it is held."""
        return self._held.wait(seconds)

    def held(self) -> bool:
        """Return whether the lease is held, as far as this process knows."""
        return self._held.is_set()

    def close(self) -> None:
        """Leave the group, so that another learner gets the lease at once."""
        self._closed.set()
        self._thread.join(self._session_seconds)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._hold_membership()
            except (KafkaError, OSError) as error:
                logger.warning("the lease is lost while Kafka is unavailable: %s", error)
            finally:
                self._held.clear()
            self._closed.wait(self._poll_seconds)

    def _hold_membership(self) -> None:
        consumer = KafkaConsumer(
            **self._settings.client(),
            group_id=f"{self._settings.prefix}.learner",
            enable_auto_commit=False,
            # With this assignor the holder keeps the partition when others join.
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=int(self._session_seconds * 1000),
            heartbeat_interval_ms=int(self._session_seconds * 1000 / 4),
        )
        try:
            consumer.subscribe([lease_topic(self._settings.prefix)])
            while not self._closed.is_set():
                consumer.poll(timeout_ms=int(self._poll_seconds * 1000))
                if consumer.assignment():
                    self._held.set()
                else:
                    self._held.clear()
        finally:
            consumer.close()
