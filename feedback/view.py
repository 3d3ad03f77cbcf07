"""The view: what the API reads, in a small SQLite file that each replica keeps by itself.

It follows the log, can be deleted at any time, and is then built again. It may be behind
the log by what was appended since the last `follow`. Left out: the texts of completions, and
what goes with people who were forgotten (`feedback.forgetting`).
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from feedback import forgetting
from feedback.errors import FeedbackError
from feedback.events import FORGETTING, RETRACTION, defect_of, kind_of, target_of
from feedback.log import EventLog, LogRecord, Topic
from feedback.records import Undecodable, decode_completion, decode_feedback, messages_hash
from feedback.sqlite import connect, mark_for_wiping, must_wipe, transaction, wipe
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent

_FOLLOWED: Final[tuple[Topic, ...]] = ("completions", "feedback")
_SCHEMA: Final = f"""{forgetting.SCHEMA};
CREATE TABLE IF NOT EXISTS positions (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS events (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    subject TEXT NOT NULL, completion_id TEXT NOT NULL, target TEXT NOT NULL,
    superseded INTEGER NOT NULL DEFAULT 0, value BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS events_target ON events (owner, subject, target);
CREATE INDEX IF NOT EXISTS events_completion ON events (owner, completion_id, arrival);
CREATE INDEX IF NOT EXISTS events_owner ON events (owner, arrival);
CREATE TABLE IF NOT EXISTS retractions (
    event_id TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (event_id, owner));
CREATE TABLE IF NOT EXISTS completions (
    completion_id TEXT PRIMARY KEY, owner TEXT NOT NULL, subject TEXT NOT NULL,
    choices INTEGER NOT NULL, messages_hash BLOB NOT NULL, created_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS completions_subject ON completions (owner, subject)
"""
_EVENTS: Final = """
SELECT value, superseded, EXISTS (SELECT 1 FROM retractions AS r
    WHERE r.event_id = e.event_id AND r.owner = e.owner) AS retracted FROM events AS e
"""


class ViewError(FeedbackError):
    """The view's file cannot be read or written."""


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event of the view.

    Attributes:
        superseded: A later vote of the same subject on the same target has replaced it.
        retracted: Its owner has taken it back.

    """

    event: FeedbackEvent
    superseded: bool
    retracted: bool


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
            self._write = connect(path, _SCHEMA, synchronous="NORMAL", busy_seconds=5)
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
                batches = [log.read(t, self._positions(t), limit) for t in _FOLLOWED]
                if not any(batches):
                    wipe(self._write)
                    return taken
                with transaction(self._write):
                    for record in (record for batch in batches for record in batch):
                        self._take(record)
                taken += sum(map(len, batches))

    def event(self, event_id: str) -> SeenEvent | None:
        """Give an event by its id, retracted or not; None where there is none (yet)."""
        rows = self._select(f"{_EVENTS} WHERE event_id = ?", (event_id,))
        return _seen(rows[0]) if rows else None

    def events(
        self,
        owner: str,
        completion_id: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> list[SeenEvent]:
        """Give an owner's events that are not retracted, oldest first.

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
        rows = self._select(f"{_EVENTS} WHERE {where} ORDER BY arrival LIMIT ?", (*values, limit))
        return [_seen(row) for row in rows]

    def has_forgotten(self, event_id: str) -> bool:
        """Tell whether it has taken in a forgetting, and no byte is left of what that erased."""
        rows = self._select("SELECT 1 FROM forgotten WHERE event_id = ?", (event_id,))
        with self._reading, self._errors():
            return bool(rows) and not must_wipe(self._read)

    def messages_hash(self, completion_id: str) -> bytes | None:
        """Give what completions of the same prompt share; None for one not seen yet."""
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

    def _positions(self, topic: Topic) -> dict[int, int]:
        rows = self._write.execute(
            "SELECT partition, next FROM positions WHERE topic = ?", (topic,)
        )
        return dict(rows.fetchall())

    def _take(self, record: LogRecord) -> None:
        try:
            if record.topic == "completions":
                self._take_completion(record)
            else:
                self._take_event(decode_feedback(record))
        except Undecodable:
            pass  # the ledger keeps it, as a dead letter
        self._write.execute(
            "INSERT INTO positions VALUES (?, ?, ?) "
            "ON CONFLICT (topic, partition) DO UPDATE SET next = excluded.next",
            (record.topic, record.partition, record.offset + 1),
        )

    def _take_completion(self, record: LogRecord) -> None:
        completion = decode_completion(record)
        if forgetting.was_forgotten(self._write, completion):
            self._erase_late(completion)
            return
        self._write.execute(
            "INSERT OR IGNORE INTO completions VALUES (?, ?, ?, ?, ?, ?)",
            (
                completion.completion_id,
                completion.owner,
                completion.subject,
                len(completion.choices),
                messages_hash(completion),
                completion.created_ms,
            ),
        )

    def _take_event(self, event: FeedbackEvent) -> None:
        if defect_of(event) is not None or forgetting.goes_with_forgotten(self._write, event):
            return
        if kind_of(event) == FORGETTING:
            self._forget(event)
            return
        if kind_of(event) == RETRACTION:
            self._write.execute(
                "INSERT OR IGNORE INTO retractions VALUES (?, ?)",
                (event.retraction.event_id, event.owner),
            )
            return
        target = (event.owner, event.subject, target_of(event))
        row = self._write.execute(
            "INSERT OR IGNORE INTO events "
            "(event_id, owner, subject, target, completion_id, value) VALUES (?, ?, ?, ?, ?, ?) "
            "RETURNING arrival",
            (event.event_id, *target, event.completion_id, event.SerializeToString()),
        ).fetchone()
        if row is not None:
            self._write.execute(
                "UPDATE events SET superseded = 1 "
                "WHERE owner = ? AND subject = ? AND target = ? AND arrival < ?",
                (*target, row[0]),
            )

    def _forget(self, event: FeedbackEvent) -> None:
        if forgetting.remember(self._write, event) is None:
            return
        person = event.forgetting
        said = (event.owner, person.subject, person.until_ms)
        rows = self._write.execute(
            "DELETE FROM completions WHERE owner = ? AND subject = ? AND created_ms <= ? "
            "RETURNING completion_id",
            said,
        )
        found = {row[0] for row in rows.fetchall()}
        forgetting.remember_completions(self._write, found)
        self._erase_events(forgetting.Search(*said, found))

    def _erase_late(self, completion: CompletionRecord) -> None:
        own = {completion.completion_id}
        forgetting.remember_completions(self._write, own)
        self._erase_events(forgetting.Search(completion.owner, completion.subject, 0, own))

    def _erase_events(self, search: forgetting.Search) -> None:
        rows = self._write.execute("SELECT value FROM events WHERE owner = ?", (search.owner,))
        for row in rows.fetchall():
            search.event(FeedbackEvent.FromString(row[0]))
        for table in ("events", "retractions"):
            self._write.executemany(
                f"DELETE FROM {table} WHERE event_id = ? AND owner = ?",
                [(event_id, search.owner) for event_id in search.events],
            )
        mark_for_wiping(self._write)


def _rebuild_if_older(connection: sqlite3.Connection) -> None:
    """Empty a file of a version that did not keep subjects, to be built again from the log."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(completions)")}
    if columns and "subject" not in columns:
        with transaction(connection):
            for table in ("positions", "events", "retractions", "completions"):
                connection.execute(f"DROP TABLE IF EXISTS {table}")


def _seen(row: tuple[bytes, int, int]) -> SeenEvent:
    value, superseded, retracted = row
    return SeenEvent(FeedbackEvent.FromString(value), bool(superseded), bool(retracted))
