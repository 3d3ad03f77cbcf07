"""The event log on Apache Kafka, shared by the machines of a fleet.

A topic is called `PREFIX.NAME` on Kafka. The header `type` holds the type of a value. The records
of one call are sent together and in order, but if Kafka becomes unavailable, some of them may be
stored and others not. Repeat the call then. While an attempt to send a record is in progress, the
same record is not sent again: the repeated call waits for that attempt. After a restart of the
process a record may arrive twice; readers recognise it by its key.

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
from typing import Final

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.future import Future
from kafka.partitioner.default import murmur2

from feedback.failpoints import failpoint
from feedback.log.event_log import (
    MAX_RECORD_BYTES,
    LogError,
    LogRecord,
    LogUnavailable,
    NewRecord,
    Positions,
    RecordKey,
    RecordsRefused,
    Topic,
)
from feedback.log.kafka_reader import TYPE_HEADER, KafkaReader
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import check_topics, name_of, record_limits
from feedback.metrics import APPEND_SECONDS

_TOMBSTONES: Final = 500  # keys per batch
_PENDING_BYTES: Final = 64 << 20
_OVERHEAD_BYTES: Final = 1024  # of Kafka around a record; a bound

# Topic on Kafka, partition, and the record itself: only equal bytes are the same record.
_Identity = tuple[str, int, NewRecord | RecordKey]


def partition_of(key: str, partitions: int) -> int:
    """Return a key's partition, by the rule of Kafka's own clients."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)


def _partition_for(record: NewRecord | RecordKey, partitions: int) -> int:
    return partition_of(record.partition_key or record.key, partitions)


class _PendingRecords:
    """The records that the producer holds. It keeps them also after their callers' timeouts."""

    def __init__(self, max_records: int, max_bytes: int = _PENDING_BYTES) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._futures: dict[_Identity, Future] = {}
        self._lock = threading.Lock()
        self._count = self._bytes = 0

    def find(self, identity: _Identity) -> Future | None:
        """Return the attempt in progress to send a record; None if there is none."""
        with self._lock:
            return self._futures.get(identity)

    def check_room(self, records: Sequence[_Identity]) -> None:
        """Refuse more records than there is room for; one call alone is never too large.

        Raises:
            LogUnavailable: Too many records are pending.

        """
        size = sum(_size(record) for _, _, record in records)
        with self._lock:
            full = (
                self._count + len(records) > self._max_records
                or self._bytes + size > self._max_bytes
            )
            if self._count and records and full:
                raise LogUnavailable(
                    f"too many records are waiting for Kafka: {self._count} with {self._bytes} "
                    "bytes"
                )

    def add(self, identity: _Identity, future: Future) -> None:
        """Note a record until its attempt has succeeded or failed."""
        with self._lock:
            self._futures[identity] = future
            self._count += 1
            self._bytes += _size(identity[2])
        future.add_both(lambda _: self._remove(identity))

    def _remove(self, identity: _Identity) -> None:
        with self._lock:
            self._futures.pop(identity, None)
            self._count -= 1
            self._bytes -= _size(identity[2])


def _size(record: NewRecord | RecordKey) -> int:
    return len(record.key) + (len(record.value) if isinstance(record, NewRecord) else 0)


def _close_now(producer: KafkaProducer) -> None:
    """Close a producer without waiting for what it has not sent."""
    producer._sender.force_close()
    with suppress(KafkaError):
        producer.close(timeout=1.0)


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
        self._pending = _PendingRecords(settings.max_pending)
        with self._translate_errors("reach"):
            check_topics(settings.client(), settings.prefix, settings.replication)
            self._limits = record_limits(settings.client(), settings.prefix)
            self._producer = self._new_producer()
        self._counts: dict[Topic, int] = {}  # number of partitions at the last write
        self._readers: dict[Topic, KafkaReader] = {}
        self._opening = threading.Lock()

    def _new_producer(self) -> KafkaProducer:
        settings = self._settings
        return KafkaProducer(
            **settings.client(),
            acks="all",
            enable_idempotence=True,
            allow_auto_create_topics=False,
            max_request_size=MAX_RECORD_BYTES,
            metadata_max_age_ms=int(settings.metadata_seconds * 1000),
            max_block_ms=int(settings.append_seconds * 1000),
            # Effectively never: when kafka-python 3.0 gives up on a batch, it drops its
            # producer id, never gets another, and stops sending. `append` has its own timeout.
            delivery_timeout_ms=2**31 - 1,
            request_timeout_ms=int(settings.append_seconds * 1000),
        )

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        """Return once all in-sync replicas have all records.

        Raises:
            LogUnavailable: Some or all of the records may not be in the log, or too many records
                are pending already.
            RecordsRefused: Some records can never be stored, for example because they are too
                large; the others are in the log.
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

    def expire(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Write tombstones for these keys, as `erase` does.

        Raises:
            LogUnavailable: Some tombstones may be missing; repeat the call.
            LogError: The log is closed.

        """
        self.erase(topic, keys)

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
        with APPEND_SECONDS.labels(topic).time():
            failpoint(f"{topic}.append.before")
            deadline = time.monotonic() + self._settings.append_seconds
            refused = self._find_refused(name, records)
            with self._translate_errors("write to"):
                with self._sending:
                    producer = self._producer
                    partitions = self._counts[topic] = self._partitions(name)
                    futures = self._send_new(
                        [
                            (name, partition, record)
                            for record in records
                            if record.key not in refused
                            for partition in partitions_for(record, partitions)
                        ]
                    )
                self._wait(producer, futures, deadline)
            failpoint(f"{topic}.append.after")
        if refused:
            raise RecordsRefused(refused)

    def _find_refused(self, name: str, records: Sequence[NewRecord | RecordKey]) -> dict[str, str]:
        """Return why records can never be sent, by key.

        They must not reach Kafka: after its refusal kafka-python fails every other record too.
        """
        limit = self._limits.get(name, MAX_RECORD_BYTES) - _OVERHEAD_BYTES
        return {
            record.key: f"it has {size} bytes, and Kafka takes at most {limit} in topic {name}"
            for record in records
            if (size := _size(record)) > limit
        }

    def _wait(self, producer: KafkaProducer, futures: Sequence[Future], deadline: float) -> None:
        """Wait until Kafka has the records, and replace a producer that can send no more.

        Raises:
            KafkaError: Kafka did not take a record, or not in time.

        """
        for future in futures:
            try:
                future.get(timeout=max(0.001, deadline - time.monotonic()))
            except KafkaError as error:
                if future.is_done and not error.retriable:
                    self._replace(producer)
                raise

    def _replace(self, failed: KafkaProducer) -> None:
        """Replace a producer that has failed for good, and read the topics' limits again."""
        with self._sending:
            if self._closed or self._producer is not failed:
                return
            self._limits = record_limits(self._settings.client(), self._settings.prefix)
            self._producer = self._new_producer()
        _close_now(failed)

    def _send_new(self, identities: Sequence[_Identity]) -> list[Future]:
        """Send the records that are not being sent already; return the attempts of all."""
        found = [self._pending.find(identity) for identity in identities]
        self._pending.check_room(
            [one for one, future in zip(identities, found, strict=True) if future is None]
        )
        return [
            self._send(identity) if future is None else future
            for identity, future in zip(identities, found, strict=True)
        ]

    def _partitions(self, name: str) -> int:
        partitions = self._producer.partitions_for(name)
        if not partitions:
            raise LogUnavailable(f"Kafka has no topic {name}")
        return len(partitions)

    def _send(self, identity: _Identity) -> Future:
        name, partition, record = identity
        value, headers = None, []  # a tombstone
        if isinstance(record, NewRecord):
            value, headers = record.value, [(TYPE_HEADER, record.type.encode())]
        future: Future = self._producer.send(
            name, value=value, key=record.key.encode(), headers=headers, partition=partition
        )
        self._pending.add(identity, future)
        return future

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

    def failure(self) -> str | None:
        """Return why nothing can be sent any more, or None."""
        if self._closed or self._producer._sender.is_alive():
            return None
        return f"the thread that sends to Kafka at {self._settings.servers} has ended"

    def close(self) -> None:
        """Send pending records, then disconnect."""
        if self._closed:
            return
        self._closed = True
        try:
            self._producer.close(timeout=self._settings.append_seconds)
        except KafkaError:  # Kafka is unavailable: drop pending records, which no caller waits for
            _close_now(self._producer)
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
