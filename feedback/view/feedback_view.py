"""The view: a small SQLite file per replica that answers reads of the feedback API.

It follows the log and may be behind by what was appended since the last `follow`. It can be
deleted at any time and is then rebuilt from the log. It contains neither the texts of completions
nor anything of people who were forgotten (`feedback.privacy.forgetting`).
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from feedback.errors import FeedbackError
from feedback.log.event_log import EventLog, Topic
from feedback.log.events import KINDS
from feedback.log.sqlite import connect, must_wipe, transaction, wipe
from feedback.privacy.lineage import NON_TRAINING_KINDS, Coverage, LogPosition
from feedback.view.intake import SCHEMA, ingest
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent

_FOLLOWED_TOPICS: Final[tuple[Topic, ...]] = ("completions", "feedback")
_VERSION: Final = 1  # of the schema
_SELECT_EVENTS: Final = """
SELECT value, superseded, EXISTS (SELECT 1 FROM retractions AS r
    WHERE r.event_id = e.event_id AND r.owner = e.owner) AS retracted,
    partition, offset, ended_partition, ended_offset FROM events AS e
"""
_COUNT_EFFECTIVE: Final = "SELECT COUNT(*) FROM events WHERE ended_offset IS NULL"


class ViewError(FeedbackError):
    """The view's file cannot be read or written."""


@dataclass(frozen=True, slots=True)
class ViewEvent:
    """A feedback event and its status.

    Attributes:
        event: The event itself.
        superseded: Whether a later vote of the same subject on the same target replaced it.
        retracted: Whether its owner retracted it.
        position: Position of the event in the log.
        ended: Position of the first event that superseded or retracted it; None if it is
            effective.

    """

    event: FeedbackEvent
    superseded: bool
    retracted: bool
    position: LogPosition
    ended: LogPosition | None


class View:
    """A view in one SQLite file, for one process and any of its threads."""

    def __init__(self, path: Path) -> None:
        """Open or create the view at `path`.

        Raises:
            ViewError: The file cannot be opened.
            SchemaTooNew: A newer release has written the file.

        """
        self.path = path
        # Each lock guards one connection: one thread may follow while others read.
        self._following = threading.Lock()
        self._reading = threading.Lock()
        with self._errors():
            self._write = self._connect(SCHEMA)
            self._read = self._connect("")

    def _connect(self, schema: str) -> sqlite3.Connection:
        return connect(
            self.path,
            schema,
            version=_VERSION,
            synchronous="NORMAL",
            busy_seconds=5,
            migrate=_rebuild_if_older,
        )

    def close(self) -> None:
        """Close the file."""
        with self._following, self._reading:
            self._read.close()
            self._write.close()

    def follow(self, log: EventLog, limit: int = 1000) -> int:
        """Ingest everything that is new in the log; return the number of records.

        Each transaction holds up to `limit` records of each topic and their positions. Repeated
        events and records that cannot be used are skipped.

        Raises:
            LogUnavailable: The log did not return its records; earlier ones are kept.
            ViewError: The file cannot be written.

        """
        count = 0
        with self._following, self._errors():
            while True:
                batches = [log.read(t, self._positions(t), limit) for t in _FOLLOWED_TOPICS]
                if not any(batches):
                    wipe(self._write)
                    return count
                with transaction(self._write):
                    for record in (record for batch in batches for record in batch):
                        ingest(self._write, record)
                count += sum(map(len, batches))

    def event(self, event_id: str) -> ViewEvent | None:
        """Return an event by its id, retracted or not; None if it is unknown so far."""
        rows = self._select(f"{_SELECT_EVENTS} WHERE event_id = ?", (event_id,))
        return _view_event(rows[0]) if rows else None

    def events(
        self,
        owner: str,
        completion_id: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> list[ViewEvent]:
        """Return an owner's events that are not retracted, oldest first.

        Args:
            owner: Owner of the events.
            completion_id: Completion that the feedback was given for; None: any.
            after: Id of an event, retracted or not; only later events are returned.
            limit: Largest number of events.

        Raises:
            LookupError: The owner has no event `after`.

        """
        start = 0
        if after is not None:
            found = self._select(
                "SELECT arrival FROM events WHERE event_id = ? AND owner = ?", (after, owner)
            )
            if not found:
                raise LookupError(after)
            start = found[0][0]
        where, values = "owner = ? AND arrival > ? AND NOT retracted", [owner, start]
        if completion_id is not None:
            where, values = f"{where} AND completion_id = ?", [*values, completion_id]
        rows = self._select(
            f"{_SELECT_EVENTS} WHERE {where} ORDER BY arrival LIMIT ?", (*values, limit)
        )
        return [_view_event(row) for row in rows]

    def has_applied_forgetting(self, event_id: str) -> bool:
        """Return whether a forgetting request was applied and its bytes are wiped."""
        rows = self._select("SELECT 1 FROM forgotten WHERE event_id = ?", (event_id,))
        with self._reading, self._errors():
            return bool(rows) and not must_wipe(self._read)

    def effective_counts(self) -> dict[str, int]:
        """Count the effective events, by kind."""
        rows = self._select(
            "SELECT kind, COUNT(*) FROM events WHERE ended_offset IS NULL GROUP BY kind", ()
        )
        return dict(rows)

    def count_pending(self, learned: Coverage) -> int:
        """Count the votes that are not in the coverage `learned`."""
        kinds = [kind for kind in KINDS if kind not in NON_TRAINING_KINDS]
        partitions = self._select("SELECT partition FROM positions WHERE topic = 'feedback'", ())
        count = 0
        for kind in kinds:
            for (partition,) in partitions:
                count += self._count(
                    f"{_COUNT_EFFECTIVE} AND kind = ? AND partition = ? AND offset >= ?",
                    (kind, partition, learned.next.get(partition, 0)),
                )
            for position in learned.missing:
                count += self._count(
                    f"{_COUNT_EFFECTIVE} AND kind = ? AND partition = ? AND offset = ?",
                    (kind, position.partition, position.offset),
                )
        return count

    def messages_hash(self, completion_id: str) -> bytes | None:
        """Return the hash of a completion's prompt; None if the completion is unknown so far."""
        rows = self._select(
            "SELECT messages_hash FROM completions WHERE completion_id = ?", (completion_id,)
        )
        return rows[0][0] if rows else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ViewError(f"cannot use the view {self.path}: {error}") from error

    def _select(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        with self._reading, self._errors():
            return self._read.execute(sql, values).fetchall()

    def _count(self, sql: str, values: tuple[object, ...]) -> int:
        return int(self._select(sql, values)[0][0])

    def _positions(self, topic: Topic) -> dict[int, int]:
        rows = self._write.execute(
            "SELECT partition, next FROM positions WHERE topic = ?", (topic,)
        )
        return dict(rows.fetchall())


def _rebuild_if_older(connection: sqlite3.Connection, found: int) -> None:
    """Empty a file of an older version, to be rebuilt from the log.

    Files of version 0 have the columns of version 1, or fewer.
    """
    columns = {
        (table, row[1])
        for table in ("events", "completions")
        for row in connection.execute(f"PRAGMA table_info({table})")
    }
    complete = {("completions", "subject"), ("events", "ended_offset")} <= columns
    if found or not complete:
        for table in ("positions", "events", "retractions", "completions"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")


def _view_event(row: tuple[bytes, int, int, int, int, int | None, int | None]) -> ViewEvent:
    value, superseded, retracted, *position, ended_partition, ended_offset = row
    ended = None
    if ended_partition is not None and ended_offset is not None:
        ended = LogPosition(ended_partition, ended_offset)
    return ViewEvent(
        FeedbackEvent.FromString(value),
        bool(superseded),
        bool(retracted),
        LogPosition(*position),
        ended,
    )
