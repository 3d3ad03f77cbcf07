"""Ingest log records into the ledger, in the caller's transaction."""

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from feedback.ledger.erasure import apply_forgetting, erase_late_completion, queue_erasure
from feedback.ledger.rows import completions_column, max_seq, restrict_to_recorded
from feedback.log.event_log import LogRecord
from feedback.log.events import (
    FORGETTING,
    RETRACTION,
    event_completion_ids,
    event_target,
    feedback_kind,
    find_defect,
)
from feedback.log.records import (
    FEEDBACK_TYPE,
    Undecodable,
    decode_completion,
    decode_feedback,
    messages_hash,
)
from feedback.log.sqlite import savepoint
from feedback.privacy.forgetting import event_key, is_forgotten, is_forgotten_event
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Completion:
    owner: str
    prompt: bytes
    record: CompletionRecord


class RecordIngester:
    """Ingests records in one transaction. Its caches are valid only during that transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Use the ledger's connection, which must be in a transaction."""
        self._db = db
        self._seq = max_seq(db)
        self._completion_cache: dict[str, _Completion | None] = {}
        self._has_forgotten = self._holds_any("forgotten")
        self._has_waiting = self._holds_any("needs")

    def ingest_completions(self, batch: Iterable[LogRecord]) -> None:
        """Store completion records, and number the events that waited only for these."""
        after_seq = self._seq
        released: set[int] = set()
        for record in batch:
            with self._dead_letter_on_error(record):
                released |= self._ingest_completion(record, after_seq)
        for arrival in sorted(released):
            with self._dead_letter_on_error(self._event_record(arrival)):
                self._assign_seq_if_joined(arrival)

    def _ingest_completion(self, record: LogRecord, after_seq: int) -> set[int]:
        """Store a completion record; return the arrivals of events that waited for it."""
        completion = decode_completion(record)
        if self._has_forgotten and is_forgotten(self._db, completion):
            erase_late_completion(self._db, completion)
            return set()
        self._store(completion, record, after_seq)
        if not self._has_waiting:
            return set()
        rows = self._db.execute(
            "DELETE FROM needs WHERE completion_id = ? RETURNING arrival",
            (completion.completion_id,),
        )
        return {row[0] for row in rows.fetchall()}

    def ingest_feedback(self, batch: Iterable[LogRecord]) -> None:
        """Store feedback events, and number those whose completions are all known."""
        for record in batch:
            with self._dead_letter_on_error(record):
                self._ingest_event(record)

    def _ingest_event(self, record: LogRecord) -> None:
        event = decode_feedback(record)
        if self._has_forgotten and is_forgotten_event(self._db, event):
            queue_erasure(self._db, "feedback", [event_key(event)])
            return
        defect = find_defect(event)
        if defect is not None:
            _add_dead_letter(self._db, record, defect)
        elif feedback_kind(event) == FORGETTING:
            apply_forgetting(self._db, event)
            self._has_forgotten = True
            self._completion_cache.clear()
        else:
            self._add(event, record)

    @contextmanager
    def _dead_letter_on_error(self, record: LogRecord) -> Iterator[None]:
        """Make a dead letter of a record that causes an error, and undo what it has written.

        Errors of the database and of the machine are raised.
        """
        try:
            with savepoint(self._db):
                yield
            return
        except (sqlite3.Error, OSError, MemoryError):
            raise
        except Undecodable as error:
            reason = str(error)
        except Exception as error:
            logger.exception("a record of topic %s cannot be ingested", record.topic)
            reason = f"it cannot be ingested: {type(error).__name__}: {error}"
        self._seq = max_seq(self._db)
        self._completion_cache.clear()
        self._db.execute("UPDATE events SET dead = 1 WHERE event_id = ?", (record.key,))
        _add_dead_letter(self._db, record, reason)

    def _event_record(self, arrival: int) -> LogRecord:
        """Return the record of a stored event."""
        row = self._db.execute(
            "SELECT topic, partition, offset, event_id, value FROM events WHERE arrival = ?",
            (arrival,),
        ).fetchone()
        topic, partition, offset, event_id, value = row
        return LogRecord(topic, partition, offset, event_id, FEEDBACK_TYPE, value, 0)

    def _holds_any(self, table: str) -> bool:
        row = self._db.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()
        return bool(row[0])

    def _store(self, completion: CompletionRecord, record: LogRecord, after_seq: int) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO completions "
            "(completion_id, owner, messages_hash, chat, after_seq, value, created_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                completion.completion_id,
                completion.owner,
                messages_hash(completion),
                bool(completion.messages) and not completion.multimodal,
                after_seq,
                record.value,
                record.timestamp_ms,
            ),
        )
        self._completion_cache.pop(completion.completion_id, None)

    def _completion(self, completion_id: str) -> _Completion | None:
        if completion_id not in self._completion_cache:
            row = self._db.execute(
                "SELECT owner, messages_hash, value FROM completions WHERE completion_id = ?",
                (completion_id,),
            ).fetchone()
            self._completion_cache[completion_id] = (
                None
                if row is None
                else _Completion(row[0], row[1], CompletionRecord.FromString(row[2]))
            )
        return self._completion_cache[completion_id]

    def _add(self, event: FeedbackEvent, record: LogRecord) -> None:
        needed = event_completion_ids(event)
        missing = [c for c in needed if self._completion(c) is None]
        reason = None if missing else self._find_mismatch(event, needed)
        usable = not missing and reason is None
        row = self._db.execute(
            "INSERT OR IGNORE INTO events "
            "(event_id, owner, subject, target, retracts, value, topic, partition, offset, "
            "seq, dead, completions) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "RETURNING arrival",
            (
                event.event_id,
                event.owner,
                event.subject,
                event_target(event),
                event.retraction.event_id if feedback_kind(event) == RETRACTION else None,
                record.value,
                record.topic,
                record.partition,
                record.offset,
                self._seq + 1 if usable else None,
                reason is not None,
                completions_column(event),
            ),
        ).fetchone()
        if row is None:
            return  # a repeated event
        if usable:
            self._seq += 1
        elif reason is not None:
            _add_dead_letter(self._db, record, reason)
        for completion_id in missing:
            self._db.execute("INSERT INTO needs VALUES (?, ?)", (completion_id, row[0]))

    def _assign_seq_if_joined(self, arrival: int) -> None:
        """Number an event if it waits for nothing more; make it a dead letter if it is invalid."""
        waits = self._db.execute("SELECT 1 FROM needs WHERE arrival = ?", (arrival,))
        if waits.fetchone() is not None:
            return
        value, topic, partition, offset = self._db.execute(
            "SELECT value, topic, partition, offset FROM events WHERE arrival = ?", (arrival,)
        ).fetchone()
        event = FeedbackEvent.FromString(value)
        reason = self._find_mismatch(event, event_completion_ids(event))
        if reason is None:
            self._seq += 1
            self._db.execute("UPDATE events SET seq = ? WHERE arrival = ?", (self._seq, arrival))
            return
        self._db.execute("UPDATE events SET dead = 1 WHERE arrival = ?", (arrival,))
        record = LogRecord(topic, partition, offset, event.event_id, FEEDBACK_TYPE, value, 0)
        _add_dead_letter(self._db, record, reason)

    def _find_mismatch(self, event: FeedbackEvent, needed: Iterable[str]) -> str | None:
        """Return why an event does not fit its completions, all of which are known; else None."""
        records = {}
        prompts = set()
        for completion_id in sorted(needed):
            completion = self._completion(completion_id)
            assert completion is not None, "a waiting event must not be joined"
            if completion.owner != event.owner:
                return f"completion {completion_id} belongs to another owner"
            records[completion_id] = completion.record
            prompts.add(completion.prompt)
        if len(prompts) > 1:
            return "its completions have different prompts"
        if needed and restrict_to_recorded(event, records) is None:
            return "the records of its completions lack the choices that it refers to"
        return None


def _add_dead_letter(db: sqlite3.Connection, record: LogRecord, reason: str) -> None:
    db.execute(
        "INSERT OR IGNORE INTO dead_letters (topic, partition, offset, key, type, value, reason) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            record.topic,
            record.partition,
            record.offset,
            record.key,
            record.type,
            record.value,
            reason,
        ),
    )


def set_event_aside(db: sqlite3.Connection, seq: int, reason: str) -> None:
    """Make a dead letter of a numbered event; it keeps its number, and is no longer effective."""
    row = db.execute(
        "UPDATE events SET dead = 1 WHERE seq = ? AND dead = 0 "
        "RETURNING topic, partition, offset, event_id, value",
        (seq,),
    ).fetchone()
    if row is not None:
        topic, partition, offset, event_id, value = row
        record = LogRecord(topic, partition, offset, event_id, FEEDBACK_TYPE, value, 0)
        _add_dead_letter(db, record, reason)


def restore_events(db: sqlite3.Connection) -> set[tuple[str, int, int]]:
    """Make the events that were set aside effective again, with new numbers.

    Those that a later event of the same person on the same target has superseded stay as they are.

    Returns:
        Topic, partition and offset of each event that was set aside.

    """
    rows = db.execute(
        "SELECT arrival, topic, partition, offset, EXISTS ("
        "SELECT 1 FROM events l WHERE l.owner = e.owner AND l.subject = e.subject "
        "AND l.target = e.target AND l.seq > e.seq) "
        "FROM events e WHERE dead = 1 AND seq IS NOT NULL ORDER BY seq"
    ).fetchall()
    positions = {(topic, partition, offset) for _, topic, partition, offset, _ in rows}
    rows = [row for row in rows if not row[-1]]
    numbers = range(max_seq(db) + 1, max_seq(db) + 1 + len(rows))
    db.executemany(
        "UPDATE events SET dead = 0, seq = ? WHERE arrival = ?",
        [(number, row[0]) for number, row in zip(numbers, rows, strict=True)],
    )
    return positions
