"""The event log on Apache Kafka, shared by the machines of a fleet.

A topic is called `PREFIX.NAME` on Kafka. The header `type` holds the type of a value. The records
of one call are sent together and in order, but if Kafka becomes unavailable, some of them may be
stored and others not. Repeat the call then; readers recognise a repeated record by its key.

Records with the same partition key go to the same partition as long as the number of partitions
does not change. After it was raised, later votes on a completion may be in another partition than
earlier ones. Readers that had read the earlier ones before are not affected, but a ledger that
reads both at once may take the earlier of two votes on one target for the latest. No vote is
lost or counted twice.

Not used: transactions (every reader is idempotent by key), consumer groups (a ledger reads all
partitions), schema registries.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from feedback.failpoints import failpoint
from feedback.log.event_log import (
    LogError,
    LogRecord,
    LogUnavailable,
    NewRecord,
    Positions,
    RecordKey,
    Topic,
)
from feedback.log.kafka_reader import TYPE_HEADER, KafkaReader
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import check_topics, name_of
from feedback.metrics import APPEND_SECONDS

_TOMBSTONES: Final = 500  # keys per batch


def partition_of(key: str, partitions: int) -> int:
    """Return a key's partition, by the rule of Kafka's own clients."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)


def _partition_for(record: NewRecord | RecordKey, partitions: int) -> int:
    return partition_of(record.partition_key or record.key, partitions)


class KafkaLog:
    """An `EventLog` on Kafka."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Connect, then create or check the topics.

        Raises:
            LogUnavailable: No broker answered in time.
            LogError: An existing topic has settings that would lose records.

        """
        self._settings = settings
        self._closed = False
        self._sending = threading.Lock()  # keeps the records of one call together
        self._pending = threading.BoundedSemaphore(settings.max_pending)
        with self._translate_errors("reach"):
            check_topics(settings.client(), settings.prefix, settings.replication)
            self._producer = KafkaProducer(
                **settings.client(),
                acks="all",
                enable_idempotence=True,
                allow_auto_create_topics=False,
                metadata_max_age_ms=int(settings.metadata_seconds * 1000),
                max_block_ms=int(settings.append_seconds * 1000),
                # Effectively never: when kafka-python 3.0 gives up on a batch, it drops its
                # producer id, never gets another, and stops sending. `append` has its own timeout.
                delivery_timeout_ms=2**31 - 1,
                request_timeout_ms=int(settings.append_seconds * 1000),
            )
        self._counts: dict[Topic, int] = {}  # number of partitions at the last write
        self._readers: dict[Topic, KafkaReader] = {}
        self._opening = threading.Lock()

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        """Return once all in-sync replicas have all records.

        Raises:
            LogUnavailable: Some or all of the records may not be in the log, or too many records
                are pending already.
            LogError: The log is closed.

        """
        self._produce(
            topic, records, lambda record, partitions: [_partition_for(record, partitions)]
        )

    def erase(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Write tombstones for these keys, so that compaction removes their records.

        Every partition gets them, since a record may be older than an added partition.

        Raises:
            LogUnavailable: Some tombstones may be missing; repeat the call.
            LogError: The log is closed.

        """
        for start in range(0, len(keys), _TOMBSTONES):
            batch = keys[start : start + _TOMBSTONES]
            self._produce(topic, batch, lambda _, partitions: range(partitions))

    def _produce(
        self,
        topic: Topic,
        records: Sequence[NewRecord | RecordKey],
        partitions_for: Callable[[NewRecord | RecordKey, int], Iterable[int]],
    ) -> None:
        self._check_open()
        name = name_of(self._settings.prefix, topic)
        if not records:
            return
        with APPEND_SECONDS.labels(topic).time(), self._reserve(len(records)):
            failpoint(f"{topic}.append.before")
            deadline = time.monotonic() + self._settings.append_seconds
            with self._translate_errors("write to"):
                with self._sending:
                    partitions = self._counts[topic] = self._partitions(name)
                    futures = [
                        self._send(name, record, partition)
                        for record in records
                        for partition in partitions_for(record, partitions)
                    ]
                for future in futures:
                    future.get(timeout=max(0.001, deadline - time.monotonic()))
            failpoint(f"{topic}.append.after")

    @contextmanager
    def _reserve(self, count: int) -> Iterator[None]:
        taken = 0
        try:
            for _ in range(min(count, self._settings.max_pending)):
                if not self._pending.acquire(blocking=False):
                    raise LogUnavailable("too many records are waiting for Kafka")
                taken += 1
            yield
        finally:
            for _ in range(taken):
                self._pending.release()

    def _partitions(self, name: str) -> int:
        partitions = self._producer.partitions_for(name)
        if not partitions:
            raise LogUnavailable(f"Kafka has no topic {name}")
        return len(partitions)

    def _send(self, name: str, record: NewRecord | RecordKey, partition: int) -> Any:
        value, headers = None, []  # a tombstone
        if isinstance(record, NewRecord):
            value, headers = record.value, [(TYPE_HEADER, record.type.encode())]
        return self._producer.send(
            name,
            value=value,
            key=record.key.encode(),
            headers=headers,
            partition=partition,
        )

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        """Return up to `limit` records at or after `positions`, in order within a partition.

        Raises:
            LogUnavailable: Kafka did not answer in time.
            LogError: The log is closed.

        """
        with self._translate_errors("read from"):
            return self._reader(topic).read(positions, limit, self._counts.get(topic, 0))

    def ends(self, topic: Topic) -> dict[int, int]:
        """Return the offset of the next record, by partition.

        Raises:
            LogUnavailable: Kafka did not answer in time.
            LogError: The log is closed.

        """
        with self._translate_errors("read from"):
            return self._reader(topic).ends()

    def close(self) -> None:
        """Send pending records, then disconnect."""
        if self._closed:
            return
        self._closed = True
        try:
            self._producer.close(timeout=self._settings.append_seconds)
        except KafkaError:  # Kafka is unavailable: drop pending records, which no caller waits for
            self._producer._sender.force_close()
            with suppress(KafkaError):
                self._producer.close(timeout=1.0)
        with self._opening:
            for reader in self._readers.values():
                reader.close()

    def _reader(self, topic: Topic) -> KafkaReader:
        self._check_open()
        with self._opening:
            if topic not in self._readers:
                self._readers[topic] = KafkaReader(topic, self._settings)
            return self._readers[topic]

    def _check_open(self) -> None:
        if self._closed:
            raise LogError("the log is closed")

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Convert Kafka's errors to LogUnavailable."""
        try:
            yield
        except (KafkaError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise LogUnavailable(
                f"cannot {what} Kafka at {self._settings.servers}: {reason}"
            ) from error
