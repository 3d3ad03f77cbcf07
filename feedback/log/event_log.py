"""The interface of the event log: durable, ordered, read by position.

It is implemented on SQLite for one machine and on Kafka for a fleet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from feedback.errors import FeedbackError

Topic = Literal["completions", "feedback", "policies", "dead-letter"]

# Next offset to read, by partition. Partitions that are absent are read from their start.
Positions = Mapping[int, int]


class LogError(FeedbackError):
    """The event log failed."""


class LogUnavailable(LogError):
    """The log did not accept or return records in time; trying again may help."""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append.

    Attributes:
        key: Identity of the record, for example a completion id or event id.
        type: Full name of the protobuf message in `value`.
        value: Serialised message.
        partition_key: Determines the partition if the log has several; `key` if empty.

    """

    key: str
    type: str
    value: bytes
    partition_key: str = ""


@dataclass(frozen=True, slots=True)
class RecordKey:
    """The key of records to erase.

    Attributes:
        key: Key that the records were appended with.
        partition_key: Partition key that they were appended with.

    """

    key: str
    partition_key: str = ""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record as stored in the log.

    Attributes:
        topic: Topic that it was appended to.
        partition: Number of its partition; 0 if the log has none.
        offset: Position within the partition; increasing, possibly with gaps.
        key: Key that it was appended with.
        type: Full name of the protobuf message in `value`.
        value: Serialised message.
        timestamp_ms: Time of the append in milliseconds since the epoch.

    """

    topic: Topic
    partition: int
    offset: int
    key: str
    type: str
    value: bytes
    timestamp_ms: int


class EventLog(Protocol):
    """An event log. It may be used by several threads and processes at once.

    Every method blocks: call it in a thread, never on an event loop.
    """

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        """Append all records; return once they are durable.

        Raises:
            LogUnavailable: Any of the records may or may not be in the log. Repeat the call;
                readers recognise a repeated record by its key.

        """
        ...

    def erase(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Erase the records with these keys; return once that is durable.

        SQLite deletes every byte of them. Kafka writes tombstones and removes the records when
        it compacts the topic; until then readers may still get them. Keys without records are
        ignored.

        Raises:
            LogUnavailable: Some may be erased and others not; repeat the call.

        """
        ...

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        """Return up to `limit` records at or after `positions`, in order within a partition.

        The result is empty if there is nothing new; this does not wait.
        """
        ...

    def ends(self, topic: Topic) -> dict[int, int]:
        """Return a lower bound of the next record's offset, by partition."""
        ...

    def close(self) -> None:
        """Release files and threads; later calls raise LogError."""
        ...
