"""Commit how far a ledger has read to Kafka, so that Kafka's tools show the lag.

Nothing reads these offsets back: a ledger resumes from its own positions. They are committed after
the ledger has committed, so they are never ahead of it.
"""

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from feedback.failpoints import failpoint
from feedback.log.event_log import LogUnavailable, Positions, Topic
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import name_of

_EVERY_SECONDS: Final = 1.0


def group_of(prefix: str, home: Path) -> str:
    """Return the consumer group of the ledger in `home`; each ledger has its own."""
    return f"{prefix}.ledger@{socket.gethostname()}:{home.resolve()}"


class OffsetReporter:
    """Commits the offsets of one ledger's consumer group. For one thread."""

    def __init__(self, settings: KafkaSettings, home: Path) -> None:
        """Report for the ledger in `home`; the first call of `show` connects."""
        self._settings = settings
        self._group = group_of(settings.prefix, home)
        self._consumer: KafkaConsumer | None = None
        self._shown: dict[TopicPartition, OffsetAndMetadata] = {}
        self._next = 0.0

    def show(self, positions: Mapping[Topic, Positions]) -> None:
        """Commit the positions if they have changed, at most once a second.

        Raises:
            LogUnavailable: Kafka did not accept them; the next call tries again.

        """
        offsets = {
            TopicPartition(name_of(self._settings.prefix, topic), number): OffsetAndMetadata(offset)
            for topic, partitions in positions.items()
            for number, offset in partitions.items()
        }
        if offsets == self._shown or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_SECONDS
        failpoint("offsets.commit.before")
        try:
            self._connect().commit(offsets, timeout_ms=int(self._settings.read_seconds * 1000))
        except (KafkaError, OSError) as error:
            raise LogUnavailable(f"cannot commit the ledger's offsets to Kafka: {error}") from error
        failpoint("offsets.commit.after")
        self._shown = offsets

    def close(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            self._consumer.close(autocommit=False)

    def _connect(self) -> KafkaConsumer:
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                **self._settings.client(), group_id=self._group, enable_auto_commit=False
            )
        return self._consumer
