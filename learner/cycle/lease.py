"""Leases: a file lock on one machine, Kafka's group protocol in a fleet.

A holder can lose its lease without noticing at once (a paused process). Replicas ignore what is
published under a lost lease: see `Published.leader` in the policy events.
"""

import logging
import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from filelock import FileLock, Timeout
from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

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
        self._losses = 0
        self._losses_at_acquire = 0
        self._thread = threading.Thread(target=self._run, name="learner-lease", daemon=True)
        self._thread.start()

    def acquire(self, seconds: float) -> bool:
        """Wait for the lease for at most `seconds`; return whether it is held."""
        losses = self._losses
        if not self._held.wait(seconds):
            return False
        self._losses_at_acquire = losses
        return self.held()

    def held(self) -> bool:
        """Return whether the lease has been held since `acquire`, as far as this process knows.

        A lease that was lost and came back is not held: another learner may have led meanwhile.
        """
        return self._held.is_set() and self._losses == self._losses_at_acquire

    def close(self) -> None:
        """Leave the group, so that another learner gets the lease at once."""
        self._closed.set()
        self._thread.join(self._session_seconds)

    def lose(self) -> None:
        """Note that the lease was lost, even if it comes back at once."""
        self._losses += 1
        self._held.clear()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._hold_membership()
            except (KafkaError, OSError) as error:
                logger.warning("the lease is lost while Kafka is unavailable: %s", error)
            finally:
                self.lose()
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
            # Whoever joins while the topic is being created may see no partition of it; the
            # default is to look again after five minutes.
            metadata_max_age_ms=int(self._session_seconds * 1000),
        )
        try:
            consumer.subscribe([lease_topic(self._settings.prefix)], listener=_LossListener(self))
            while not self._closed.is_set():
                consumer.poll(timeout_ms=int(self._poll_seconds * 1000))
                if consumer.assignment():
                    self._held.set()
                else:
                    self._held.clear()
        finally:
            consumer.close()


class _LossListener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Tells a lease that its partition was taken away.

    After a pause, the loss and the next assignment may both happen within one `poll`.
    """

    def __init__(self, lease: KafkaLease) -> None:
        self._lease = lease

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if revoked:
            self._lease.lose()

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        if lost:
            self._lease.lose()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Do nothing: the lease looks at the assignment after each poll."""
