"""The event log on Apache Kafka, shared by the machines of a fleet.

A topic of ours is `PREFIX.NAME` there. The type of a value is in the header `type`. Records of one
call are sent together and in order, but Kafka may take some and not others when it goes away in
between: repeat the call, since readers know each key's record again.

What has one partition key goes to one partition, while the number of partitions stays. After it
was raised, a completion's later votes may be in another partition than its earlier ones: who had
read those keeps the order, but a ledger that reads both later, at once, may take the earlier of
two votes on the same target for the latest. Nothing is lost or counted twice by that.

Left out: transactions (every reader is idempotent by key), consumer groups (a ledger reads all
partitions by itself), schema registries.
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

_TOMBSTONES: Final = 500  # under way at once


def partition_of(key: str, partitions: int) -> int:
    """Return a key's partition, as Kafka's own clients choose it."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)


def _partition_for(record: NewRecord | RecordKey, partitions: int) -> int:
    return partition_of(record.partition_key or record.key, partitions)


class KafkaLog:
    """An `EventLog` on Kafka."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Connect, and make sure of the topics.

        Raises:
            LogUnavailable: No broker answered in time.
            LogError: A topic is there with settings that would lose records.

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
                # Never: when kafka-python 3.0 gives a batch up, it drops its producer id, gets no
                # other, and sends nothing any more. `append` gives up by itself.
                delivery_timeout_ms=2**31 - 1,
                request_timeout_ms=int(settings.append_seconds * 1000),
            )
        self._counts: dict[Topic, int] = {}  # of partitions, as last written to
        self._readers: dict[Topic, KafkaReader] = {}
        self._opening = threading.Lock()

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        """Return once all in-sync replicas have all records.

        Raises:
            LogUnavailable: Some or all of the records may not be in the log; or too much is
                under way already.
            LogError: The log is closed.

        """
        self._produce(
            topic, records, lambda record, partitions: [_partition_for(record, partitions)]
        )

    def erase(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Put tombstones beside the records of these keys, which compaction removes.

        Every partition gets one: a record may be from before partitions were added.

        Raises:
            LogUnavailable: Some may have theirs and others not; repeat the call.
            LogError: The log is closed.

        """
        for start in range(0, len(keys), _TOMBSTONES):
            some = keys[start : start + _TOMBSTONES]
            self._produce(topic, some, lambda _, partitions: range(partitions))

    def _produce(
        self,
        topic: Topic,
        records: Sequence[NewRecord | RecordKey],
        where: Callable[[NewRecord | RecordKey, int], Iterable[int]],
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
                        for partition in where(record, partitions)
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
                    raise LogUnavailable("too many records wait for Kafka")
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
        """Give, by partition, the offset of the next record.

        Raises:
            LogUnavailable: Kafka did not answer in time.
            LogError: The log is closed.

        """
        with self._translate_errors("read from"):
            return self._reader(topic).ends()

    def close(self) -> None:
        """Send what is under way, then disconnect."""
        if self._closed:
            return
        self._closed = True
        try:
            self._producer.close(timeout=self._settings.append_seconds)
        except KafkaError:  # Kafka is away: give up what is under way, which nobody waits for
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
        """Turn Kafka's errors into ours."""
        try:
            yield
        except (KafkaError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise LogUnavailable(
                f"cannot {what} Kafka at {self._settings.servers}: {reason}"
            ) from error
