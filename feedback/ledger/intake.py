"""How records enter the ledger, inside the caller's transaction."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from feedback.ledger.forget import erase_late_completion, forget, to_erase
from feedback.ledger.rows import max_seq, only_held
from feedback.log.event_log import LogRecord
from feedback.log.events import (
    FORGETTING,
    RETRACTION,
    completions_of,
    defect_of,
    kind_of,
    target_of,
)
from feedback.log.records import (
    FEEDBACK_TYPE,
    Undecodable,
    decode_completion,
    decode_feedback,
    messages_hash,
)
from feedback.privacy.forgetting import event_key, goes_with_forgotten, was_forgotten
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent


@dataclass(frozen=True, slots=True)
class _Completion:
    owner: str
    prompt: bytes
    record: CompletionRecord


class Intake:
    """Takes records in, within one transaction; what it has looked up is good for no longer."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Use the ledger's connection, in a transaction."""
        self._db = db
        self._seq = max_seq(db)
        self._looked_up: dict[str, _Completion | None] = {}
        self._anybody_forgotten = self._holds_any("forgotten")
        self._anything_waits = self._holds_any("needs")

    def take_completions(self, batch: Iterable[LogRecord]) -> None:
        """Store completion records, and number the events that waited for nothing else."""
        after_seq = self._seq
        released: set[int] = set()
        for record in batch:
            try:
                completion = decode_completion(record)
            except Undecodable as error:
                _bury(self._db, record, str(error))
                continue
            if self._anybody_forgotten and was_forgotten(self._db, completion):
                erase_late_completion(self._db, completion)
                continue
            self._store(completion, record.value, after_seq)
            if self._anything_waits:
                rows = self._db.execute(
                    "DELETE FROM needs WHERE completion_id = ? RETURNING arrival",
                    (completion.completion_id,),
                )
                released.update(row[0] for row in rows.fetchall())
        for arrival in sorted(released):
            self._number_if_joined(arrival)

    def take_feedback(self, batch: Iterable[LogRecord]) -> None:
        """Store feedback events, and number those whose completions are all here."""
        for record in batch:
            try:
                event = decode_feedback(record)
            except Undecodable as error:
                _bury(self._db, record, str(error))
                continue
            if self._anybody_forgotten and goes_with_forgotten(self._db, event):
                to_erase(self._db, "feedback", [event_key(event)])
                continue
            defect = defect_of(event)
            if defect is not None:
                _bury(self._db, record, defect)
            elif kind_of(event) == FORGETTING:
                forget(self._db, event)
                self._anybody_forgotten = True
                self._looked_up.clear()
            else:
                self._add(event, record)

    def _holds_any(self, table: str) -> bool:
        row = self._db.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()
        return bool(row[0])

    def _store(self, completion: CompletionRecord, value: bytes, after_seq: int) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO completions "
            "(completion_id, owner, messages_hash, chat, after_seq, value) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                completion.completion_id,
                completion.owner,
                messages_hash(completion),
                bool(completion.messages) and not completion.multimodal,
                after_seq,
                value,
            ),
        )
        self._looked_up.pop(completion.completion_id, None)

    def _completion(self, completion_id: str) -> _Completion | None:
        if completion_id not in self._looked_up:
            row = self._db.execute(
                "SELECT owner, messages_hash, value FROM completions WHERE completion_id = ?",
                (completion_id,),
            ).fetchone()
            self._looked_up[completion_id] = (
                None
                if row is None
                else _Completion(row[0], row[1], CompletionRecord.FromString(row[2]))
            )
        return self._looked_up[completion_id]

    def _add(self, event: FeedbackEvent, record: LogRecord) -> None:
        needed = completions_of(event)
        missing = [one for one in needed if self._completion(one) is None]
        reason = None if missing else self._misfit(event, needed)
        usable = not missing and reason is None
        row = self._db.execute(
            "INSERT OR IGNORE INTO events "
            "(event_id, owner, subject, target, retracts, value, topic, partition, offset, "
            "seq, dead) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING arrival",
            (
                event.event_id,
                event.owner,
                event.subject,
                target_of(event),
                event.retraction.event_id if kind_of(event) == RETRACTION else None,
                record.value,
                record.topic,
                record.partition,
                record.offset,
                self._seq + 1 if usable else None,
                reason is not None,
            ),
        ).fetchone()
        if row is None:
            return  # it came before
        if usable:
            self._seq += 1
        elif reason is not None:
            _bury(self._db, record, reason)
        for completion_id in missing:
            self._db.execute("INSERT INTO needs VALUES (?, ?)", (completion_id, row[0]))

    def _number_if_joined(self, arrival: int) -> None:
        """Give an event its seq if it waits for nothing more, or bury it if it does not fit."""
        waits = self._db.execute("SELECT 1 FROM needs WHERE arrival = ?", (arrival,))
        if waits.fetchone() is not None:
            return
        value, topic, partition, offset = self._db.execute(
            "SELECT value, topic, partition, offset FROM events WHERE arrival = ?", (arrival,)
        ).fetchone()
        event = FeedbackEvent.FromString(value)
        reason = self._misfit(event, completions_of(event))
        if reason is None:
            self._seq += 1
            self._db.execute("UPDATE events SET seq = ? WHERE arrival = ?", (self._seq, arrival))
            return
        self._db.execute("UPDATE events SET dead = 1 WHERE arrival = ?", (arrival,))
        record = LogRecord(topic, partition, offset, event.event_id, FEEDBACK_TYPE, value, 0)
        _bury(self._db, record, reason)

    def _misfit(self, event: FeedbackEvent, needed: Iterable[str]) -> str | None:
        """Say why an event cannot be joined to its completions, all of which are here."""
        records = {}
        prompts = set()
        for completion_id in sorted(needed):
            completion = self._completion(completion_id)
            assert completion is not None, "an event that waits is not joined"
            if completion.owner != event.owner:
                return f"completion {completion_id} is another owner's"
            records[completion_id] = completion.record
            prompts.add(completion.prompt)
        if len(prompts) > 1:
            return "its completions do not answer the same messages"
        if needed and only_held(event, records) is None:
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
