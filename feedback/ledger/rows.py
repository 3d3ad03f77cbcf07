"""What the ledger gives: its schema, judged events, dead letters and counts."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from feedback.log.events import event_candidates, feedback_kind
from feedback.privacy import forgetting
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent

# events.seq is null while the event waits for a completion, and stays null if it is dead.
# needs holds one row for each completion that a waiting event waits for.
# completions.after_seq is the last seq that was given when the completion arrived.
# erasures says what a row of forgotten erased: the first seq as of which any of it could be
# learned from, and the last that was given by then.
# to_erase holds what the log has still to erase.
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
    partition INTEGER NOT NULL, offset INTEGER NOT NULL);
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
    after_seq INTEGER NOT NULL, value BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS completions_prompts
    ON completions (chat, messages_hash, after_seq, arrival);
CREATE TABLE IF NOT EXISTS dead_letters (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL, key TEXT NOT NULL,
    type TEXT NOT NULL, value BLOB NOT NULL, reason TEXT NOT NULL,
    mirrored INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (topic, partition, offset))
"""


@dataclass(frozen=True, slots=True)
class JoinedEvent:
    """An opinion that counts, with every completion that it is about.

    Attributes:
        seq: The event's number in the ledger.
        event: The opinion; every candidate in it is a choice that its record holds.
        completions: The records, by completion id; shared between events, not to be changed.

    """

    seq: int
    event: FeedbackEvent
    completions: dict[str, CompletionRecord]


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """What the ledger holds.

    Attributes:
        events: Distinct events, retractions and waiting ones included, dead ones not.
        completions: Distinct completion records.
        waiting: Events that wait for a completion.
        dead_letters: Records set aside with a reason.
        max_seq: The last number given; 0 for none.

    """

    events: int
    completions: int
    waiting: int
    dead_letters: int
    max_seq: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """What one forgetting erased from the ledger.

    Attributes:
        number: Of the ledger's forgettings, counted from 1.
        event_id: The forgetting's.
        first_seq: What was learned up to a lower number has nothing of it; None: nobody could
            have learned from it.
        events: That went with the person, waiting ones and retractions included.
        completions: Theirs.

    """

    number: int
    event_id: str
    first_seq: int | None
    events: int
    completions: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot be used, as the log held it, and why."""

    topic: str
    partition: int
    offset: int
    key: str
    type: str
    value: bytes
    reason: str


def max_seq(db: sqlite3.Connection) -> int:
    """Return the last number given, also where what had it is erased; 0 for none."""
    row = db.execute(
        "SELECT MAX(COALESCE((SELECT MAX(seq) FROM events), 0), "
        "COALESCE((SELECT MAX(last_seq) FROM erasures), 0))"
    ).fetchone()
    return int(row[0])


def restrict_to_recorded(
    event: FeedbackEvent, completions: Mapping[str, CompletionRecord]
) -> FeedbackEvent | None:
    """Leave out candidates that their record does not hold; None where no opinion remains.

    A ranking keeps what it says about the others; any other kind is about all it names.
    """
    held = {(c, choice.index) for c, record in completions.items() for choice in record.choices}
    if all((c.completion_id, c.choice) in held for c in event_candidates(event)):
        return event
    if feedback_kind(event) != "ranking":
        return None
    trimmed = FeedbackEvent()
    trimmed.CopyFrom(event)
    del trimmed.ranking.groups[:]
    for group in event.ranking.groups:
        kept = [c for c in group.candidates if (c.completion_id, c.choice) in held]
        if kept:
            trimmed.ranking.groups.add(candidates=kept)
    return trimmed if len(event_candidates(trimmed)) >= 2 else None
