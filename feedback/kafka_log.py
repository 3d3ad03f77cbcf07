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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from feedback.failpoints import failpoint
from feedback.kafka_topics import check_topics, name_of
from feedback.log import LogError, LogRecord, LogUnavailable, NewRecord, Positions, Topic
from feedback.metrics import APPEND_SECONDS

TYPE_HEADER: Final = "type"
_POLL_SECONDS: Final = 0.5


class KafkaSettings(BaseSettings):
    """How to reach Kafka; environment variables PLAUDIT_KAFKA_*."""

    model_config = SettingsConfigDict(env_prefix="PLAUDIT_KAFKA_", frozen=True, extra="forbid")

    servers: str = Field("", description="HOST:PORT of some brokers, with commas; none: SQLite.")
    prefix: str = Field("plaudit", description="Of the topics' names.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_plain_username: str | None = None
    sasl_plain_password: SecretStr | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: SecretStr | None = None
    replication: int | None = Field(None, ge=1, description="Of new topics; none: up to three.")
    connect_seconds: float = Field(20.0, gt=0, description="Longest wait for a first answer.")
    append_seconds: float = Field(15.0, gt=0, description="Longest wait for an append.")
    read_seconds: float = Field(15.0, gt=0, description="Longest wait for a read.")
    metadata_seconds: float = Field(30.0, gt=0, description="How soon new partitions are used.")
    max_pending: int = Field(10_000, ge=1, description="Records under way; more are refused.")

    def client(self) -> dict[str, Any]:
        """Give the options that every client of kafka-python takes."""
        secret = {
            "sasl_plain_password": self.sasl_plain_password,
            "ssl_password": self.ssl_password,
        }
        plain = {
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_plain_username,
            "ssl_cafile": self.ssl_cafile,
            "ssl_certfile": self.ssl_certfile,
            "ssl_keyfile": self.ssl_keyfile,
            **{name: value and value.get_secret_value() for name, value in secret.items()},
        }
        return {
            "bootstrap_servers": [s.strip() for s in self.servers.split(",")],
            "security_protocol": self.security_protocol,
            "bootstrap_timeout_ms": int(self.connect_seconds * 1000),
            "reconnect_backoff_max_ms": 1000,  # its default, 30 s, outlasts most outages
            **{name: value for name, value in plain.items() if value is not None},
        }


def partition_of(key: str, partitions: int) -> int:
    """Give a key's partition, as Kafka's own clients choose it."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)


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
        with self._translated("reach"):
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
        self._readers: dict[Topic, _Reader] = {}
        self._opening = threading.Lock()

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        """Return once all in-sync replicas have all records.

        Raises:
            LogUnavailable: Some or all of the records may not be in the log; or too much is
                under way already.
            LogError: The log is closed.

        """
        self._check_open()
        name = name_of(self._settings.prefix, topic)
        if not records:
            return
        with APPEND_SECONDS.labels(topic).time(), self._room(len(records)):
            failpoint(f"{topic}.append.before")
            deadline = time.monotonic() + self._settings.append_seconds
            with self._translated("write to"):
                with self._sending:
                    partitions = self._counts[topic] = self._partitions(name)
                    futures = [self._send(name, record, partitions) for record in records]
                for future in futures:
                    future.get(timeout=max(0.001, deadline - time.monotonic()))
            failpoint(f"{topic}.append.after")

    @contextmanager
    def _room(self, count: int) -> Iterator[None]:
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

    def _send(self, name: str, record: NewRecord, partitions: int) -> Any:
        return self._producer.send(
            name,
            value=record.value,
            key=record.key.encode(),
            headers=[(TYPE_HEADER, record.type.encode())],
            partition=partition_of(record.partition_key or record.key, partitions),
        )

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        """Give up to `limit` records at or after `positions`, in order within a partition.

        Raises:
            LogUnavailable: Kafka did not answer in time.
            LogError: The log is closed.

        """
        with self._translated("read from"):
            return self._reader(topic).read(positions, limit, self._counts.get(topic, 0))

    def ends(self, topic: Topic) -> dict[int, int]:
        """Give, by partition, the offset of the next record.

        Raises:
            LogUnavailable: Kafka did not answer in time.
            LogError: The log is closed.

        """
        with self._translated("read from"):
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

    def _reader(self, topic: Topic) -> "_Reader":
        self._check_open()
        with self._opening:
            if topic not in self._readers:
                self._readers[topic] = _Reader(topic, self._settings)
            return self._readers[topic]

    def _check_open(self) -> None:
        if self._closed:
            raise LogError("the log is closed")

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn Kafka's errors into ours."""
        try:
            yield
        except (KafkaError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise LogUnavailable(
                f"cannot {what} Kafka at {self._settings.servers}: {reason}"
            ) from error


class _Reader:
    """All partitions of one topic, read by one consumer without a group."""

    def __init__(self, topic: Topic, settings: KafkaSettings) -> None:
        self._topic: Topic = topic
        self._name = name_of(settings.prefix, topic)
        self._seconds = settings.read_seconds
        self._lock = threading.Lock()
        self._next: dict[int, int] = {}  # by partition, what a caller that reads on asks for
        # Of its own: behind a fetch that waits for records, the same connection answers nothing.
        self._offsets = KafkaConsumer(**settings.client(), group_id=None, enable_auto_commit=False)
        self._consumer = KafkaConsumer(
            **settings.client(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=int(settings.metadata_seconds * 1000),
            max_partition_fetch_bytes=4 << 20,
            allow_auto_create_topics=False,
        )

    def read(self, positions: Positions, limit: int, at_least: int) -> list[LogRecord]:
        with self._lock:
            self._assign(at_least)
            self._seek(positions)
            records = self._poll(0.0, limit)
            if records:
                return records
            # Nothing had come yet: wait for it, if there is anything.
            ends = self._ends()
            deadline = time.monotonic() + self._seconds
            while not records and any(self._consumer.position(p) < e for p, e in ends.items()):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no records of {self._name} in {self._seconds:g} s")
                records = self._poll(_POLL_SECONDS, limit)
            return records

    def ends(self) -> dict[int, int]:
        with self._lock:
            self._assign()
            return {p.partition: end for p, end in self._ends().items()}

    def close(self) -> None:
        with self._lock:
            self._consumer.close()
            self._offsets.close()

    def _assign(self, at_least: int = 0) -> None:
        """Read all partitions, also those added meanwhile, and those that were written to."""
        found = self._consumer.partitions_for_topic(self._name)
        if len(found or ()) < at_least:
            self._consumer.topics()  # asks Kafka again
            found = self._consumer.partitions_for_topic(self._name)
        if not found:
            raise TimeoutError(f"there is no topic {self._name}")
        wanted = {TopicPartition(self._name, number) for number in found}
        if wanted != self._consumer.assignment():
            self._offsets.topics()  # it has to hear of them too
            self._consumer.assign(sorted(wanted))
            self._next.clear()

    def _seek(self, positions: Mapping[int, int]) -> None:
        for partition in self._consumer.assignment():
            number = partition.partition
            wanted = positions.get(number, 0)
            if self._next.get(number) != wanted:
                self._consumer.seek(partition, wanted)
                self._next[number] = wanted

    def _ends(self) -> dict[TopicPartition, int]:
        try:
            found: dict[TopicPartition, int] = self._offsets.end_offsets(
                sorted(self._consumer.assignment())
            )
        except KeyError as error:
            raise TimeoutError(f"{error} is too new to be known everywhere") from error
        return found

    def _poll(self, seconds: float, limit: int) -> list[LogRecord]:
        polled = self._consumer.poll(timeout_ms=int(seconds * 1000), max_records=limit)
        records = []
        for partition, batch in polled.items():
            for raw in batch:
                if raw.value is not None:  # a tombstone has none, and nobody is told of it
                    self._next[partition.partition] = raw.offset + 1
                    records.append(self._record(raw))
        return records

    def _record(self, raw: Any) -> LogRecord:
        kind = next((value for name, value in raw.headers if name == TYPE_HEADER), b"")
        return LogRecord(
            topic=self._topic,
            partition=raw.partition,
            offset=raw.offset,
            key=(raw.key or b"").decode(errors="replace"),
            type=(kind or b"").decode(errors="replace"),
            value=raw.value,
            timestamp_ms=raw.timestamp,
        )
