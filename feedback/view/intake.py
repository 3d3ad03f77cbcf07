"""Ingest log records into the view, in the caller's transaction."""

import logging
import sqlite3
from typing import Final

from feedback.log.event_log import LogRecord
from feedback.log.events import FORGETTING, RETRACTION, event_target, feedback_kind, find_defect
from feedback.log.records import Undecodable, decode_completion, decode_feedback, messages_hash
from feedback.log.sqlite import mark_for_wiping, savepoint
from feedback.privacy import forgetting
from feedback.privacy.lineage import LogPosition
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent

logger = logging.getLogger(__name__)

# events.partition and offset are the event's log position, ended_* that of the first event that
# superseded or retracted it.
SCHEMA: Final = f"""{forgetting.SCHEMA};
CREATE TABLE IF NOT EXISTS positions (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS events (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    subject TEXT NOT NULL, completion_id TEXT NOT NULL, target TEXT NOT NULL,
    superseded INTEGER NOT NULL DEFAULT 0, value BLOB NOT NULL, kind TEXT NOT NULL,
    partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    ended_partition INTEGER, ended_offset INTEGER);
CREATE INDEX IF NOT EXISTS events_target ON events (owner, subject, target);
CREATE INDEX IF NOT EXISTS events_completion ON events (owner, completion_id, arrival);
CREATE INDEX IF NOT EXISTS events_owner ON events (owner, arrival);
CREATE INDEX IF NOT EXISTS events_standing ON events (kind, partition, offset)
    WHERE ended_offset IS NULL;
CREATE TABLE IF NOT EXISTS retractions (
    event_id TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (event_id, owner));
CREATE TABLE IF NOT EXISTS completions (
    completion_id TEXT PRIMARY KEY, owner TEXT NOT NULL, subject TEXT NOT NULL,
    choices INTEGER NOT NULL, messages_hash BLOB NOT NULL, created_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS completions_subject ON completions (owner, subject)
"""
_END: Final = "UPDATE events SET ended_partition = ?, ended_offset = ?"


def ingest(db: sqlite3.Connection, record: LogRecord) -> None:
    """Ingest one record; repeated events and records that cannot be used are skipped."""
    try:
        with savepoint(db):
            if record.topic == "completions":
                _ingest_completion(db, record)
            else:
                position = LogPosition(record.partition, record.offset)
                _ingest_event(db, decode_feedback(record), position)
    except (sqlite3.Error, OSError, MemoryError):
        raise
    except Undecodable:
        pass  # the ledger keeps it as a dead letter
    except Exception:
        logger.exception("a record of topic %s is skipped", record.topic)
    db.execute(
        "INSERT INTO positions VALUES (?, ?, ?) "
        "ON CONFLICT (topic, partition) DO UPDATE SET next = excluded.next",
        (record.topic, record.partition, record.offset + 1),
    )


def _ingest_completion(db: sqlite3.Connection, record: LogRecord) -> None:
    completion = decode_completion(record)
    if forgetting.is_forgotten(db, completion):
        _erase_late_completion(db, completion)
        return
    db.execute(
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


def _ingest_event(db: sqlite3.Connection, event: FeedbackEvent, position: LogPosition) -> None:
    if find_defect(event) is not None or forgetting.is_forgotten_event(db, event):
        return
    kind = feedback_kind(event)
    if kind == FORGETTING:
        _forget(db, event)
    elif kind == RETRACTION:
        _retract(db, event, position)
    else:
        assert kind is not None
        _add(db, event, kind, position)


def _retract(db: sqlite3.Connection, event: FeedbackEvent, position: LogPosition) -> None:
    retracted = (event.retraction.event_id, event.owner)
    db.execute("INSERT OR IGNORE INTO retractions VALUES (?, ?)", retracted)
    db.execute(
        f"{_END} WHERE event_id = ? AND owner = ? AND ended_offset IS NULL",
        (position.partition, position.offset, *retracted),
    )


def _add(db: sqlite3.Connection, event: FeedbackEvent, kind: str, position: LogPosition) -> None:
    target = (event.owner, event.subject, event_target(event))
    at = (position.partition, position.offset)
    row = db.execute(
        "INSERT OR IGNORE INTO events (event_id, owner, subject, target, completion_id, "
        "value, kind, partition, offset) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "RETURNING arrival",
        (event.event_id, *target, event.completion_id, event.SerializeToString(), kind, *at),
    ).fetchone()
    if row is None:
        return  # a repeated event
    earlier = "owner = ? AND subject = ? AND target = ? AND arrival < ?"
    db.execute(
        "UPDATE events SET superseded = 1, ended_partition = COALESCE(ended_partition, ?), "
        f"ended_offset = COALESCE(ended_offset, ?) WHERE {earlier}",
        (*at, *target, row[0]),
    )
    # If its retraction arrived first, from another partition, the event was never effective.
    db.execute(
        f"{_END} WHERE arrival = ? AND EXISTS (SELECT 1 FROM retractions AS r "
        "WHERE r.event_id = events.event_id AND r.owner = events.owner)",
        (*at, row[0]),
    )


def _forget(db: sqlite3.Connection, event: FeedbackEvent) -> None:
    if forgetting.record_forgetting(db, event) is None:
        return
    search = forgetting.ForgettingSearch.of(event)
    person = (event.owner, search.subject)
    deletion = "DELETE FROM completions WHERE owner = ? AND subject = ? AND "
    rows = db.execute(
        f"{deletion} created_ms <= ? RETURNING completion_id", (*person, search.until_ms)
    )
    search.completions |= {row[0] for row in rows.fetchall()}
    for ahead in search.ahead:
        rows = db.execute(f"{deletion} completion_id = ? RETURNING completion_id", (*person, ahead))
        search.completions |= {row[0] for row in rows.fetchall()}
    forgetting.record_erased_completions(db, search.completions)
    _erase_events(db, search)


def _erase_late_completion(db: sqlite3.Connection, completion: CompletionRecord) -> None:
    search = forgetting.ForgettingSearch(completion.owner, completion.subject, 0)
    search.completions.add(completion.completion_id)
    forgetting.record_erased_completions(db, search.completions)
    _erase_events(db, search)


def _erase_events(db: sqlite3.Connection, search: forgetting.ForgettingSearch) -> None:
    rows = db.execute("SELECT value FROM events WHERE owner = ?", (search.owner,))
    for row in rows.fetchall():
        search.event(FeedbackEvent.FromString(row[0]))
    for table in ("events", "retractions"):
        db.executemany(
            f"DELETE FROM {table} WHERE event_id = ? AND owner = ?",
            [(event_id, search.owner) for event_id in search.events],
        )
    mark_for_wiping(db)
