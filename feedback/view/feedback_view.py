"""The view: what the API reads, in a small SQLite file that each replica keeps by itself.

It follows the log, can be deleted at any time, and is then built again. It may be behind
the log by what was appended since the last `follow`. Left out: the texts of completions, and
what goes with people who were forgotten (`feedback.privacy.forgetting`).
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
    """An event of the view.

    Attributes:
        superseded: A later vote of the same subject on the same target has replaced it.
        retracted: Its owner has taken it back.
        position: Position of the event in the log.
        ended: Where the first event is that replaced or retracted it; None: it counts.

    """

    event: FeedbackEvent
    superseded: bool
    retracted: bool
    position: LogPosition
    ended: LogPosition | None


class View:
    """A view in one SQLite file, kept by one process; any of its threads may use it."""

    def __init__(self, path: Path) -> None:
        """Open or create the view at `path`.

        Raises:
            ViewError: The file cannot be opened.

        """
        self.path = path
        # One thread follows at a time, while others read, each lock being its connection's.
        self._following = threading.Lock()
        self._reading = threading.Lock()
        with self._errors():
            older = connect(path, "", synchronous="NORMAL", busy_seconds=5)
            _rebuild_if_older(older)
            older.close()
            self._write = connect(path, SCHEMA, synchronous="NORMAL", busy_seconds=5)
            self._read = connect(path, "", synchronous="NORMAL", busy_seconds=5)

    def close(self) -> None:
        """Let go of the file."""
        with self._following, self._reading:
            self._read.close()
            self._write.close()

    def follow(self, log: EventLog, limit: int = 1000) -> int:
        """Take in all that is new in the log; give how many records that was.

        Records and position are one transaction, `limit` of a topic at a time. An event id
        that the view has, and what cannot be used, is skipped.

        Raises:
            LogUnavailable: The log did not give its records; what came before is kept.
            ViewError: The file cannot be written.

        """
        taken = 0
        with self._following, self._errors():
            while True:
                batches = [log.read(t, self._positions(t), limit) for t in _FOLLOWED_TOPICS]
                if not any(batches):
                    wipe(self._write)
                    return taken
                with transaction(self._write):
                    for record in (record for batch in batches for record in batch):
                        ingest(self._write, record)
                taken += sum(map(len, batches))

    def event(self, event_id: str) -> ViewEvent | None:
        """Return an event by its id, retracted or not; None where there is none (yet)."""
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
            owner: Whose.
            completion_id: Only those given for this completion; None for all.
            after: Only those that came after the event of this id, retracted or not.
            limit: How many at most.

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
        """Tell whether it has taken in a forgetting, and no byte is left of what that erased."""
        rows = self._select("SELECT 1 FROM forgotten WHERE event_id = ?", (event_id,))
        with self._reading, self._errors():
            return bool(rows) and not must_wipe(self._read)

    def effective_counts(self) -> dict[str, int]:
        """Count the opinions that are neither replaced nor retracted, by kind."""
        rows = self._select(
            "SELECT kind, COUNT(*) FROM events WHERE ended_offset IS NULL GROUP BY kind", ()
        )
        return dict(rows)

    def count_pending(self, learned: Coverage) -> int:
        """Count those of them that teach something and were not there to learn from."""
        kinds = [kind for kind in KINDS if kind not in NON_TRAINING_KINDS]
        partitions = self._select("SELECT partition FROM positions WHERE topic = 'feedback'", ())
        waiting = 0
        for kind in kinds:
            for (partition,) in partitions:
                waiting += self._count(
                    f"{_COUNT_EFFECTIVE} AND kind = ? AND partition = ? AND offset >= ?",
                    (kind, partition, learned.next.get(partition, 0)),
                )
            for place in learned.missing:
                waiting += self._count(
                    f"{_COUNT_EFFECTIVE} AND kind = ? AND partition = ? AND offset = ?",
                    (kind, place.partition, place.offset),
                )
        return waiting

    def messages_hash(self, completion_id: str) -> bytes | None:
        """Return what completions of the same prompt share; None for one not seen yet."""
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


def _rebuild_if_older(connection: sqlite3.Connection) -> None:
    """Empty a file of a version that kept less, to be built again from the log."""
    columns = {
        (table, row[1])
        for table in ("events", "completions")
        for row in connection.execute(f"PRAGMA table_info({table})")
    }
    if columns and not {("completions", "subject"), ("events", "ended_offset")} <= columns:
        with transaction(connection):
            for table in ("positions", "events", "retractions", "completions"):
                connection.execute(f"DROP TABLE IF EXISTS {table}")


def _view_event(row: tuple[bytes, int, int, int, int, int | None, int | None]) -> ViewEvent:
    value, superseded, retracted, *place, ended_partition, ended_offset = row
    ended = None
    if ended_partition is not None and ended_offset is not None:
        ended = LogPosition(ended_partition, ended_offset)
    return ViewEvent(
        FeedbackEvent.FromString(value),
        bool(superseded),
        bool(retracted),
        LogPosition(*place),
        ended,
    )
