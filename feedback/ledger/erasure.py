"""Erase a person from the ledger. Every function runs in its caller's transaction.

Records that are erased here are also queued in `to_erase`, to be erased from the log.
"""

import sqlite3
from collections.abc import Iterable

from feedback.ledger.rows import max_seq
from feedback.log.event_log import RecordKey, Topic
from feedback.log.records import dead_letter_record
from feedback.log.sqlite import mark_for_wiping
from feedback.privacy.forgetting import (
    ForgettingSearch,
    event_key,
    record_erased_completions,
    record_forgetting,
)
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import DeadLetter, FeedbackEvent


def apply_forgetting(db: sqlite3.Connection, event: FeedbackEvent) -> None:
    """Erase everything that a forgetting request covers; a repeated request does nothing."""
    number = record_forgetting(db, event)
    if number is None:
        return
    search = ForgettingSearch.of(event)
    last_seq = max_seq(db)
    prompted = _erase_completions(db, search)
    voted = erase_events(db, search)
    _erase_dead_letters(db, search)
    record_erased_completions(db, search.completions)
    db.execute(
        "INSERT INTO erasures VALUES (?, ?, ?, ?, ?)",
        (
            number,
            min(prompted + voted, default=None),
            last_seq,
            len(search.events),
            len(search.completions),
        ),
    )
    mark_for_wiping(db)


def erase_late_completion(db: sqlite3.Connection, completion: CompletionRecord) -> None:
    """Drop a late completion of a forgotten person, and erase the events that waited for it."""
    record_erased_completions(db, [completion.completion_id])
    queue_erasure(db, "completions", [RecordKey(completion.completion_id)])
    search = ForgettingSearch(completion.owner, completion.subject, 0)
    search.completions.add(completion.completion_id)
    erase_events(db, search)
    if search.events:
        mark_for_wiping(db)


def queue_erasure(db: sqlite3.Connection, topic: Topic, keys: Iterable[RecordKey]) -> None:
    """Queue records to be erased from the log."""
    db.executemany(
        "INSERT OR IGNORE INTO to_erase VALUES (?, ?, ?)",
        [(topic, key.key, key.partition_key) for key in keys],
    )


def _erase_completions(db: sqlite3.Connection, search: ForgettingSearch) -> list[int]:
    """Erase the person's completions; return the first seq as of which each was a prompt."""
    rows = db.execute(
        "SELECT arrival, chat, after_seq, value FROM completions WHERE owner = ?", (search.owner,)
    )
    found = [row[:3] for row in rows if search.completion(CompletionRecord.FromString(row[3]))]
    db.executemany("DELETE FROM completions WHERE arrival = ?", [row[:1] for row in found])
    queue_erasure(db, "completions", map(RecordKey, search.completions))
    return [after_seq + 1 for _, chat, after_seq in found if chat]


def erase_events(db: sqlite3.Connection, search: ForgettingSearch) -> list[int]:
    """Erase the events that the search finds; return their sequence numbers."""
    rows = db.execute(
        "SELECT arrival, seq, value FROM events WHERE owner = ? ORDER BY arrival", (search.owner,)
    )
    found = []
    for arrival, seq, value in rows:
        event = FeedbackEvent.FromString(value)
        if search.event(event):
            found.append((arrival, seq, event_key(event)))
    for table in ("events", "needs"):
        db.executemany(f"DELETE FROM {table} WHERE arrival = ?", [row[:1] for row in found])
    queue_erasure(db, "feedback", [key for _, _, key in found])
    return [seq for _, seq, _ in found if seq is not None]


def _erase_dead_letters(db: sqlite3.Connection, search: ForgettingSearch) -> None:
    names = ("topic", "partition", "offset", "key", "type", "value")
    rows = db.execute(f"SELECT {', '.join(names)} FROM dead_letters").fetchall()
    for row in rows:
        letter = DeadLetter(**dict(zip(names, row, strict=True)))
        if not search.dead_letter(letter):
            continue
        position = (letter.topic, letter.partition, letter.offset)
        db.execute(
            "DELETE FROM dead_letters WHERE topic = ? AND partition = ? AND offset = ?", position
        )
        queue_erasure(db, "dead-letter", [RecordKey(dead_letter_record(letter).key)])
        if letter.topic == "feedback":
            queue_erasure(db, "feedback", [event_key(FeedbackEvent.FromString(letter.value))])
        else:
            queue_erasure(db, "completions", [RecordKey(letter.key)])
