"""How records enter the ledger. Every function works inside its caller's transaction."""

import sqlite3
from collections.abc import Iterable

from feedback.events import (
    FORGETTING,
    RETRACTION,
    completions_of,
    defect_of,
    kind_of,
    target_of,
)
from feedback.forgetting import event_key, goes_with_forgotten, was_forgotten
from feedback.ledger_forget import erase_late_completion, forget, to_erase
from feedback.ledger_rows import max_seq, only_held
from feedback.log import LogRecord
from feedback.records import (
    FEEDBACK_TYPE,
    Undecodable,
    decode_completion,
    decode_feedback,
    messages_hash,
)
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent


def take_completions(db: sqlite3.Connection, batch: Iterable[LogRecord]) -> None:
    """Store completion records, and number the events that waited for nothing else."""
    after_seq = max_seq(db)
    released: set[int] = set()
    for record in batch:
        try:
            completion = decode_completion(record)
        except Undecodable as error:
            _bury(db, record, str(error))
            continue
        if was_forgotten(db, completion):
            erase_late_completion(db, completion)
            continue
        chat = bool(completion.messages) and not completion.multimodal
        db.execute(
            "INSERT OR IGNORE INTO completions "
            "(completion_id, owner, messages_hash, chat, after_seq, value) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                completion.completion_id,
                completion.owner,
                messages_hash(completion),
                chat,
                after_seq,
                record.value,
            ),
        )
        rows = db.execute(
            "DELETE FROM needs WHERE completion_id = ? RETURNING arrival",
            (completion.completion_id,),
        )
        released.update(row[0] for row in rows.fetchall())
    for arrival in sorted(released):
        _number_if_joined(db, arrival)


def take_feedback(db: sqlite3.Connection, batch: Iterable[LogRecord]) -> None:
    """Store feedback events, and number those whose completions are all here."""
    for record in batch:
        try:
            event = decode_feedback(record)
        except Undecodable as error:
            _bury(db, record, str(error))
            continue
        if goes_with_forgotten(db, event):
            to_erase(db, "feedback", [event_key(event)])
            continue
        defect = defect_of(event)
        if defect is not None:
            _bury(db, record, defect)
        elif kind_of(event) == FORGETTING:
            forget(db, event)
        else:
            _add(db, event, record)


def _add(db: sqlite3.Connection, event: FeedbackEvent, record: LogRecord) -> None:
    retracts = event.retraction.event_id if kind_of(event) == RETRACTION else None
    row = db.execute(
        "INSERT OR IGNORE INTO events "
        "(event_id, owner, subject, target, retracts, value, topic, partition, offset) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING arrival",
        (
            event.event_id,
            event.owner,
            event.subject,
            target_of(event),
            retracts,
            record.value,
            record.topic,
            record.partition,
            record.offset,
        ),
    ).fetchone()
    if row is None:
        return  # it came before
    for completion_id in completions_of(event):
        db.execute(
            "INSERT INTO needs SELECT :completion, :arrival WHERE NOT EXISTS "
            "(SELECT 1 FROM completions WHERE completion_id = :completion)",
            {"completion": completion_id, "arrival": row[0]},
        )
    _number_if_joined(db, row[0])


def _number_if_joined(db: sqlite3.Connection, arrival: int) -> None:
    """Give an event its seq if it waits for nothing, or bury it if it does not fit."""
    if db.execute("SELECT 1 FROM needs WHERE arrival = ?", (arrival,)).fetchone() is not None:
        return
    value, topic, partition, offset = db.execute(
        "SELECT value, topic, partition, offset FROM events WHERE arrival = ?", (arrival,)
    ).fetchone()
    event = FeedbackEvent.FromString(value)
    reason = _misfit(db, event)
    if reason is None:
        db.execute("UPDATE events SET seq = ? WHERE arrival = ?", (max_seq(db) + 1, arrival))
        return
    db.execute("UPDATE events SET dead = 1 WHERE arrival = ?", (arrival,))
    record = LogRecord(topic, partition, offset, event.event_id, FEEDBACK_TYPE, value, 0)
    _bury(db, record, reason)


def _misfit(db: sqlite3.Connection, event: FeedbackEvent) -> str | None:
    """Say why an event cannot be joined to its completions, all of which are here."""
    if kind_of(event) == RETRACTION:
        return None
    records = {}
    prompts = set()
    for completion_id in sorted(completions_of(event)):
        owner, prompt, value = db.execute(
            "SELECT owner, messages_hash, value FROM completions WHERE completion_id = ?",
            (completion_id,),
        ).fetchone()
        if owner != event.owner:
            return f"completion {completion_id} is another owner's"
        records[completion_id] = CompletionRecord.FromString(value)
        prompts.add(prompt)
    if len(prompts) > 1:
        return "its completions do not answer the same messages"
    if only_held(event, records) is None:
        return "the records of its completions do not hold the choices it is about"
    return None


def _bury(db: sqlite3.Connection, record: LogRecord, reason: str) -> None:
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
