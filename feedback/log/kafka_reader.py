"""Read a topic on Kafka by positions: all partitions, without a consumer group."""

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition

from feedback.log.event_log import MAX_RECORD_BYTES, LogRecord, Positions, Topic
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import name_of

TYPE_HEADER: Final = "type"
_POLL_SECONDS: Final = 0.5


class KafkaReader:
    """A reader of all partitions of one topic. Threads that use it take turns."""

    def __init__(self, topic: Topic, settings: KafkaSettings) -> None:
        self._topic: Topic = topic
        self._name = name_of(settings.prefix, topic)
        self._seconds = settings.read_seconds
        self._lock = threading.Lock()
        self._next: dict[int, int] = {}  # offset after the last read, by partition
        # A second consumer: a connection answers nothing while a fetch waits for records.
        self._offsets = KafkaConsumer(**settings.client(), group_id=None, enable_auto_commit=False)
        self._consumer = KafkaConsumer(
            **settings.client(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=int(settings.metadata_seconds * 1000),
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
            allow_auto_create_topics=False,
        )

    def read(self, positions: Positions, limit: int, at_least: int) -> list[LogRecord]:
        """Return up to `limit` records at or after `positions`, of at least `at_least` partitions.

        Raises:
            TimeoutError, KafkaError: Kafka did not return them in time.

        """
        with self._lock:
            self._assign(at_least)
            self._seek(positions)
            records = self._poll(0.0, limit)
            if records:
                return records
            # The fetch may not have arrived yet: wait if there is anything to read.
            ends = self._ends()
            deadline = time.monotonic() + self._seconds
            while not records and any(self._consumer.position(p) < e for p, e in ends.items()):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no records of {self._name} in {self._seconds:g} s")
                records = self._poll(_POLL_SECONDS, limit)
            return records

    def ends(self) -> dict[int, int]:
        """Return the offset of the next record, by partition.

        Raises:
            TimeoutError, KafkaError: Kafka did not answer in time.

        """
        with self._lock:
            self._assign()
            return {p.partition: end for p, end in self._ends().items()}

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._consumer.close()
            self._offsets.close()

    def _assign(self, at_least: int = 0) -> None:
        """Assign all partitions, including those added since the last call."""
        found = self._consumer.partitions_for_topic(self._name)
        if len(found or ()) < at_least:
            self._consumer.topics()  # refresh the metadata
            found = self._consumer.partitions_for_topic(self._name)
        if not found:
            raise TimeoutError(f"there is no topic {self._name}")
        partitions = {TopicPartition(self._name, number) for number in found}
        if partitions != self._consumer.assignment():
            self._offsets.topics()  # refresh its metadata too
            self._consumer.assign(sorted(partitions))
            self._next.clear()

    def _seek(self, positions: Mapping[int, int]) -> None:
        for partition in self._consumer.assignment():
            number = partition.partition
            offset = positions.get(number, 0)
            if self._next.get(number) != offset:
                self._consumer.seek(partition, offset)
                self._next[number] = offset

    def _ends(self) -> dict[TopicPartition, int]:
        try:
            found: dict[TopicPartition, int] = self._offsets.end_offsets(
                sorted(self._consumer.assignment())
            )
        except KeyError as error:
            raise TimeoutError(f"partition {error} was added too recently; try again") from error
        return found

    def _poll(self, seconds: float, limit: int) -> list[LogRecord]:
        polled = self._consumer.poll(timeout_ms=int(seconds * 1000), max_records=limit)
        records = []
        for partition, batch in polled.items():
            for raw in batch:
                if raw.value is not None:  # skip tombstones
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
