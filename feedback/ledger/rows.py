"""The ledger's schema, and the rows that it returns: joined events, dead letters, counts.

`learner.data.preferences` turns joined events into training examples.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from feedback.log.events import event_candidates, event_completion_ids, feedback_kind
from feedback.privacy import forgetting
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent

# events.seq is null while the event waits for a completion, and if it is a dead letter, unless the
# learner set it aside after it was numbered.
# needs has one row for each completion that a waiting event waits for.
# events.completions lists the ids of the completions that the event refers to, as JSON.
# completions.created_ms is when the record was appended to the log, in milliseconds.
# completions.after_seq is the last seq that had been assigned when the completion arrived.
# erasures describes what a row of forgotten erased: the first seq as of which any of it could be
# learned from, and the last seq that had been assigned.
# to_erase lists records that must still be erased from the log.
SCHEMA: Final = f"""{forgetting.SCHEMA};
CREATE TABLE IF NOT EXISTS erasures (
    number INTEGER PRIMARY KEY, first_seq INTEGER, last_seq INTEGER NOT NULL,
    events INTEGER NOT NULL, completions INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS erasures_last ON erasures (last_seq);
CREATE TABLE IF NOT EXISTS to_erase (
    topic TEXT NOT NULL, key TEXT NOT NULL, partition_key TEXT NOT NULL,
    PRIMARY KEY (topic, key, partition_key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS events (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, seq INTEGER UNIQUE,
    dead INTEGER NOT NULL DEFAULT 0, owner TEXT NOT NULL, subject TEXT NOT NULL,
    target TEXT NOT NULL, retracts TEXT, value BLOB NOT NULL, topic TEXT NOT NULL,
    partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    completions TEXT NOT NULL DEFAULT '[]');
CREATE INDEX IF NOT EXISTS events_target ON events (owner, subject, target, seq);
CREATE INDEX IF NOT EXISTS events_retracts ON events (retracts, owner, seq)
    WHERE retracts IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_dead ON events (dead);
CREATE TABLE IF NOT EXISTS needs (
    completion_id TEXT NOT NULL, arrival INTEGER NOT NULL, PRIMARY KEY (completion_id, arrival));
CREATE INDEX IF NOT EXISTS needs_arrival ON needs (arrival);
CREATE TABLE IF NOT EXISTS completions (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT, completion_id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL, messages_hash BLOB NOT NULL, chat INTEGER NOT NULL,
    after_seq INTEGER NOT NULL, value BLOB NOT NULL, created_ms INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS completions_prompts
    ON completions (chat, messages_hash, after_seq, arrival);
CREATE TABLE IF NOT EXISTS dead_letters (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL, key TEXT NOT NULL,
    type TEXT NOT NULL, value BLOB NOT NULL, reason TEXT NOT NULL,
    mirrored INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (topic, partition, offset))
"""
VERSION: Final = 2  # of the schema


def migrate(db: sqlite3.Connection, _: int) -> None:
    """Add the columns of version 2 to an older file, and fill them."""
    columns = {row[1] for row in db.execute("PRAGMA table_info(completions)")}
    if not columns or "created_ms" in columns:  # a new file, or one that lost its version
        return
    db.execute("ALTER TABLE completions ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE events ADD COLUMN completions TEXT NOT NULL DEFAULT '[]'")
    for arrival, value in db.execute("SELECT arrival, value FROM completions").fetchall():
        created_ms = CompletionRecord.FromString(value).created_ms
        db.execute("UPDATE completions SET created_ms = ? WHERE arrival = ?", (created_ms, arrival))
    for arrival, value in db.execute("SELECT arrival, value FROM events").fetchall():
        ids = completions_column(FeedbackEvent.FromString(value))
        db.execute("UPDATE events SET completions = ? WHERE arrival = ?", (ids, arrival))


def completions_column(event: FeedbackEvent) -> str:
    """Return what `events.completions` has for an event."""
    return json.dumps(sorted(event_completion_ids(event)))


# Parameters: after, upto (sequence numbers).
EFFECTIVE_EVENTS: Final = """
SELECT seq, value FROM events AS e
WHERE seq > :after AND seq <= :upto AND dead = 0 AND retracts IS NULL
AND NOT EXISTS (SELECT 1 FROM events AS r
    WHERE r.retracts = e.event_id AND r.owner = e.owner AND r.seq <= :upto)
AND NOT EXISTS (SELECT 1 FROM events AS l
    WHERE l.owner = e.owner AND l.subject = e.subject AND l.target = e.target
    AND l.seq > e.seq AND l.seq <= :upto)
ORDER BY seq
"""
# Parameters: upto (sequence number).
PROMPTS: Final = """
SELECT arrival, owner FROM completions WHERE arrival IN (
    SELECT MAX(arrival) FROM completions
    WHERE chat = 1 AND after_seq < :upto GROUP BY messages_hash)
ORDER BY arrival DESC
"""


@dataclass(frozen=True, slots=True)
class JoinedEvent:
    """An effective feedback event together with the completions that it refers to.

    Attributes:
        seq: Sequence number of the event in the ledger.
        event: Feedback event; the records contain every candidate in it.
        completions: Completion records by id; shared between events, so do not modify them.

    """

    seq: int
    event: FeedbackEvent
    completions: dict[str, CompletionRecord]


@dataclass(frozen=True, slots=True)
class RecordedPrompt:
    """The prompt of a chat, as it was recorded.

    Attributes:
        messages: Role and text of each message.
        token_ids: Token ids that the model was prompted with; empty if they were not recorded.

    """

    messages: list[dict[str, str]]
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class RecordedLengths:
    """The numbers of tokens of recorded prompts and answers.

    Attributes:
        prompts: Length of each prompt whose token ids were recorded.
        answers: Length of each answer that was not aborted.

    """

    prompts: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """The number of rows in the ledger.

    Attributes:
        events: Number of distinct events, including retractions and waiting events, without dead
            letters.
        completions: Number of distinct completion records.
        waiting: Number of events that wait for a completion.
        dead_letters: Number of dead letters.
        max_seq: Last sequence number that was assigned; 0 for none.

    """

    events: int
    completions: int
    waiting: int
    dead_letters: int
    max_seq: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """What one forgetting request erased from the ledger.

    Attributes:
        number: Number of the request in this ledger, counted from 1.
        event_id: Event id of the request.
        first_seq: First sequence number as of which a policy may have learned from the erased
            records; None if none could have.
        events: Number of events erased, including waiting events and retractions.
        completions: Number of completions erased.

    """

    number: int
    event_id: str
    first_seq: int | None
    events: int
    completions: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A log record that cannot be used, with the reason."""

    topic: str
    partition: int
    offset: int
    key: str
    type: str
    value: bytes
    reason: str


def max_seq(db: sqlite3.Connection) -> int:
    """Return the last sequence number assigned, even if its event was erased; 0 for none."""
    row = db.execute(
        "SELECT MAX(COALESCE((SELECT MAX(seq) FROM events), 0), "
        "COALESCE((SELECT MAX(last_seq) FROM erasures), 0))"
    ).fetchone()
    return int(row[0])


def restrict_to_recorded(
    event: FeedbackEvent, completions: Mapping[str, CompletionRecord]
) -> FeedbackEvent | None:
    """Remove candidates that are missing in the records; return None if no feedback remains.

    A ranking keeps its other candidates; every other kind needs all of its candidates.
    """
    recorded = {(c, choice.index) for c, record in completions.items() for choice in record.choices}
    if all((c.completion_id, c.choice) in recorded for c in event_candidates(event)):
        return event
    if feedback_kind(event) != "ranking":
        return None
    trimmed = FeedbackEvent()
    trimmed.CopyFrom(event)
    del trimmed.ranking.groups[:]
    for group in event.ranking.groups:
        kept = [c for c in group.candidates if (c.completion_id, c.choice) in recorded]
        if kept:
            trimmed.ranking.groups.add(candidates=kept)
    return trimmed if len(event_candidates(trimmed)) >= 2 else None
