"""The event log: durable, ordered, read by position. SQLite embedded, Kafka for a fleet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from feedback.errors import FeedbackError

Topic = Literal["completions", "feedback", "policies", "dead-letter"]

# Next offset to read, by partition. An absent partition is read from its start.
Positions = Mapping[int, int]


class LogError(FeedbackError):
    """Something is wrong with the event log."""


class LogUnavailable(LogError):
    """The log did not take or give records in time; trying again may help."""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append.

    Attributes:
        key: What the record is about (completion id, event id).
        type: Full name of the protobuf message in `value`.
        value: The serialised message.
        partition_key: What decides the partition where the log has several; `key` if empty.

    """

    key: str
    type: str
    value: bytes
    partition_key: str = ""


@dataclass(frozen=True, slots=True)
class RecordKey:
    """What names the records to erase.

    Attributes:
        key: As it was appended.
        partition_key: As it was appended.

    """

    key: str
    partition_key: str = ""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record as the log holds it.

    Attributes:
        partition: 0 where the log has no partitions.
        offset: Position within the partition; grows, may have gaps.
        timestamp_ms: When the log took it, milliseconds since the epoch.

    """

    topic: Topic
    partition: int
    offset: int
    key: str
    type: str
    value: bytes
    timestamp_ms: int


class EventLog(Protocol):
    """One event log. Safe to use from several threads and processes at once.

    Every method blocks: call it from a thread, never on an event loop.
    """

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        """Append all; return once they are durable.

        Raises:
            LogUnavailable: Any of the records may or may not be in the log; repeat the call, since
                readers take the same key for the same record.

        """
        ...

    def erase(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Erase the records of these keys; return once that is durable.

        SQLite has no byte of them afterwards. Kafka has tombstones, and the records go when it
        compacts the topic; until then a reader may still be given them. Keys of which there
        are no records do no harm.

        Raises:
            LogUnavailable: Some may be erased and others not; repeat the call.

        """
        ...

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        """Return up to `limit` records at or after `positions`, in order within a partition.

        Returns at once, empty where there is nothing new.
        """
        ...

    def ends(self, topic: Topic) -> dict[int, int]:
        """Give, by partition, the offset that the next record will be at or after."""
        ...

    def close(self) -> None:
        """Let go of files and threads; later calls raise LogError."""
        ...
