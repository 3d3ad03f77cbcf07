"""Find the records of a person who is to be forgotten, and recognise late ones.

Nothing is erased here: `feedback.ledger.erasure` and `feedback.view.intake` erase from the ledger
and from the views, `feedback.ledger.store` and `deploy.administration.forget` from the log.

A person's records are their completions, their feedback, and the feedback of others that refers
to one of these completions, with retractions: without the completion that feedback is useless. A
record that cannot be decoded cannot be attributed to anyone.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from feedback.log.event_log import EventLog, LogRecord, RecordKey, Topic
from feedback.log.events import FORGETTING, RETRACTION, event_completion_ids, feedback_kind
from feedback.log.records import (
    Undecodable,
    decode_completion,
    decode_dead_letter,
    decode_feedback,
    feedback_record,
)
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import DeadLetter, FeedbackEvent

# Part of every file that follows the log: who was forgotten, and which of their completions were
# erased, since late events may only be recognised by these.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS forgotten (
    number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    subject TEXT NOT NULL, until_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS forgotten_subject ON forgotten (owner, subject, until_ms);
CREATE TABLE IF NOT EXISTS erased_completions (completion_id TEXT PRIMARY KEY) WITHOUT ROWID
"""  # the last holds ids of events too, where those have times after the request
# Completions come last: after a crash they still identify the feedback that refers to them.
ERASE_ORDER: Final[tuple[Topic, ...]] = ("dead-letter", "feedback", "completions")


@dataclass(slots=True)
class ForgettingSearch:
    """Finds a person's records. Pass it completions first, then events, then dead letters.

    Attributes:
        owner: Owner of the records.
        subject: The person to forget.
        until_ms: Time up to which records are covered, in milliseconds since the epoch.
        ahead: Ids of records that are covered although their times are later.
        completions: Ids of the completions found.
        events: Ids of the events found, including retractions.

    """

    owner: str
    subject: str
    until_ms: int
    ahead: frozenset[str] = frozenset()
    completions: set[str] = field(default_factory=set)
    events: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, event: FeedbackEvent) -> "ForgettingSearch":
        """Return the search for what a forgetting request covers."""
        person = event.forgetting
        return cls(event.owner, person.subject, person.until_ms, frozenset(person.ahead))

    def _is_by_subject(self, message: CompletionRecord | FeedbackEvent) -> bool:
        return message.subject == self.subject and (
            message.created_ms <= self.until_ms or record_id(message) in self.ahead
        )

    def completion(self, record: CompletionRecord) -> bool:
        """Return whether a completion is covered, and remember it."""
        found = record.owner == self.owner and self._is_by_subject(record)
        if found:
            self.completions.add(record.completion_id)
        return found

    def event(self, event: FeedbackEvent) -> bool:
        """Return whether an event is covered, and remember it."""
        if event.owner != self.owner or feedback_kind(event) == FORGETTING:
            return False
        if feedback_kind(event) == RETRACTION:
            found = self._is_by_subject(event) or event.retraction.event_id in self.events
        else:
            found = self._is_by_subject(event) or not self.completions.isdisjoint(
                event_completion_ids(event)
            )
        if found:
            self.events.add(event.event_id)
        return found

    def dead_letter(self, letter: DeadLetter) -> bool:
        """Return whether a dead letter can be decoded and is covered."""
        record = LogRecord("dead-letter", 0, 0, letter.key, letter.type, letter.value, 0)
        try:
            if letter.topic == "completions":
                return self.completion(decode_completion(record))
            return self.event(decode_feedback(record))
        except Undecodable:
            return False


def record_id(message: CompletionRecord | FeedbackEvent) -> str:
    """Return the id of a completion or an event."""
    return message.event_id if isinstance(message, FeedbackEvent) else message.completion_id


def event_key(event: FeedbackEvent) -> RecordKey:
    """Return the key of an event's record in the log."""
    record = feedback_record(event)
    return RecordKey(record.key, record.partition_key)


def search_log(log: EventLog, search: ForgettingSearch) -> dict[Topic, set[RecordKey]]:
    """Read the whole log; return the keys of the person's records, by topic.

    Raises:
        LogUnavailable: The log did not return its records.

    """
    found: dict[Topic, set[RecordKey]] = {topic: set() for topic in ERASE_ORDER}
    for topic in ("completions", "feedback", "dead-letter"):
        for record in iter_records(log, topic):
            key = _matching_key(record, search)
            if key is not None:
                found[topic].add(key)
    return found


def iter_records(log: EventLog, topic: Topic) -> Iterator[LogRecord]:
    """Yield all records of a topic.

    Raises:
        LogUnavailable: The log did not return its records.

    """
    positions: dict[int, int] = {}
    while batch := log.read(topic, positions):
        yield from batch
        positions |= {record.partition: record.offset + 1 for record in batch}


def _matching_key(record: LogRecord, search: ForgettingSearch) -> RecordKey | None:
    try:
        if record.topic == "completions":
            covered = search.completion(decode_completion(record))
        elif record.topic == "feedback":
            event = decode_feedback(record)
            return event_key(event) if search.event(event) else None
        else:
            covered = search.dead_letter(decode_dead_letter(record))
    except Undecodable:
        return None
    return RecordKey(record.key) if covered else None


def record_forgetting(db: sqlite3.Connection, event: FeedbackEvent) -> int | None:
    """Store a forgetting request and return its number; None if it was stored before."""
    row = db.execute(
        "INSERT OR IGNORE INTO forgotten (event_id, owner, subject, until_ms) "
        "VALUES (?, ?, ?, ?) RETURNING number",
        (event.event_id, event.owner, event.forgetting.subject, event.forgetting.until_ms),
    ).fetchone()
    record_erased_completions(db, event.forgetting.ahead)
    return None if row is None else int(row[0])


def record_erased_completions(db: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Store which completions were erased with a person."""
    db.executemany("INSERT OR IGNORE INTO erased_completions VALUES (?)", [(i,) for i in ids])


def is_forgotten(db: sqlite3.Connection, message: CompletionRecord | FeedbackEvent) -> bool:
    """Return whether a late message belongs to a person who was forgotten afterwards."""
    key = (message.owner, message.subject, message.created_ms)
    sql = "SELECT 1 FROM forgotten WHERE owner = ? AND subject = ? AND until_ms >= ? LIMIT 1"
    return db.execute(sql, key).fetchone() is not None or _is_erased(db, record_id(message))


def is_forgotten_event(db: sqlite3.Connection, event: FeedbackEvent) -> bool:
    """Return whether a late event is a forgotten person's, or refers to an erased completion."""
    return is_forgotten(db, event) or any(
        _is_erased(db, completion) for completion in event_completion_ids(event)
    )


def _is_erased(db: sqlite3.Connection, erased_id: str) -> bool:
    sql = "SELECT 1 FROM erased_completions WHERE completion_id = ?"
    return db.execute(sql, (erased_id,)).fetchone() is not None
