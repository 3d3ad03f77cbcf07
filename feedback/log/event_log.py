"""The interface of the event log: durable, ordered, read by position.

It is implemented on SQLite for one machine and on Kafka for a fleet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from feedback.errors import FeedbackError

Topic = Literal["completions", "feedback", "policies", "dead-letter"]

# Largest record that every log takes, in bytes with its key. A completion record is larger than the
# body of its request, which must therefore be smaller (`feedback.api.requests`).
MAX_RECORD_BYTES: Final = 8 << 20

# Next offset to read, by partition. Partitions that are absent are read from their start.
Positions = Mapping[int, int]


class LogError(FeedbackError):
    """The event log failed."""


class LogUnavailable(LogError):
    """The log did not accept or return records in time; trying again may help."""


class RecordsRefused(LogError):
    """The log can never take some of the records; all others of the call are in the log.

    Attributes:
        reasons: Reason of each refused record, by its key.

    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(
            f"the log refused {len(reasons)} records for good: "
            + "; ".join(f"{key}: {reason}" for key, reason in reasons.items())
        )
        self.reasons = dict(reasons)


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
            RecordsRefused: Some of the records can never be stored; the others are.

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

    def expire(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Delete records that are no longer needed; like `erase`, but their bytes may stay longer.

        SQLite writes new records over them.

        Raises:
            LogUnavailable: Some may be deleted and others not; repeat the call.

        """
        ...

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        """Return up to `limit` records at or after `positions`, in order within a partition.

        The result is empty if there is nothing new; this does not wait. Large records are
        returned in smaller numbers, so that a batch fits into memory.
        """
        ...

    def ends(self, topic: Topic) -> dict[int, int]:
        """Return a lower bound of the next record's offset, by partition."""
        ...

    def failure(self) -> str | None:
        """Return why nothing can be written until the process restarts; None while it can.

        This concerns the threads that write, not whether a disk or a broker takes records. It
        does not block.
        """
        ...

    def close(self) -> None:
        """Release files and threads; later calls raise LogError."""
        ...
