"""The ledger: everything the log has said, exactly once, joined and ready to learn from.

Numbers (seq) are given when an event becomes usable: when the last completion that it is
about has arrived, or at once for a retraction. Waiting events have none. So what happens
later, however late, gets a higher number, nothing at or below a number that was given ever
changes, and `judged(upto_seq=n)` is the same for every n up to `max_seq`, whenever and after
however many crashes it is asked. A vote that its completion reaches late is learned from by
the next cycle. Numbers are one ledger's own: another ledger of the same log may give others.

A later vote on the same target replaces an earlier one for good: retracting it does not
bring the earlier one back, since its author had already left it behind.

Forgetting a person is the one thing that changes what `judged` and `prompts` give for a number
that was given: what goes with the person is erased, and what comes late is not taken in. The
others' numbers stay as they are, and none is given twice.
"""

import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from feedback.errors import FeedbackError
from feedback.failpoints import failpoint
from feedback.ledger.intake import RecordIngester
from feedback.ledger.rows import (
    SCHEMA,
    DeadLetter,
    Erasure,
    JoinedEvent,
    LedgerCounts,
    max_seq,
    restrict_to_recorded,
)
from feedback.log.event_log import EventLog, LogRecord, NewRecord, RecordKey, Topic
from feedback.log.events import event_completion_ids, feedback_kind
from feedback.log.records import dead_letter_record
from feedback.log.sqlite import connect, must_wipe, transaction, wipe
from feedback.privacy.forgetting import ERASE_ORDER
from feedback.privacy.lineage import NON_TRAINING_KINDS, read_coverage
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import DeadLetter as DeadLetterMessage
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from protos.plaudit.v1.policy_pb2 import Lessons

FOLLOWED_TOPICS: Final[tuple[Topic, ...]] = ("completions", "feedback")
_EFFECTIVE_EVENTS = """
SELECT seq, value FROM events AS e
WHERE seq > :after AND seq <= :upto AND retracts IS NULL
AND NOT EXISTS (SELECT 1 FROM events AS r
    WHERE r.retracts = e.event_id AND r.owner = e.owner AND r.seq <= :upto)
AND NOT EXISTS (SELECT 1 FROM events AS l
    WHERE l.owner = e.owner AND l.subject = e.subject AND l.target = e.target
    AND l.seq > e.seq AND l.seq <= :upto)
ORDER BY seq
"""
_PROMPTS = """
SELECT value FROM completions WHERE arrival IN (
    SELECT MAX(arrival) FROM completions
    WHERE chat = 1 AND after_seq < :upto GROUP BY messages_hash)
ORDER BY arrival DESC LIMIT :limit
"""
_NO_END: Final = 2**63 - 1


class LedgerError(FeedbackError):
    """The ledger's file is followed by two processes at once, or cannot be used."""


class Ledger:
    """A ledger in one SQLite file, followed by one process; others may read it.

    Every method may be called from any thread, and raises sqlite3.OperationalError where
    the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the ledger at `path`."""
        self.path = path
        self._db = connect(path, SCHEMA, synchronous="FULL", busy_seconds=10)
        self._lock = threading.RLock()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def follow(self, log: EventLog, limit: int = 1000) -> int:
        """Take in up to `limit` new records of each topic; give how many there were.

        Rows, positions and dead letters are one transaction. An event id that the ledger
        has is skipped, so a record may come any number of times. 0: nothing new for now.

        Raises:
            LogUnavailable: The log did not give its records; the ledger is as it was.
            LedgerError: Another process follows with the same file.

        """
        with self._lock:
            wipe(self._db)  # what a crash, or a reader, kept from being wiped
            before = self.positions()
            batches = {topic: log.read(topic, before[topic], limit) for topic in FOLLOWED_TOPICS}
            if not any(batches.values()):
                return 0
            with transaction(self._db):
                if before != self.positions():
                    raise LedgerError(f"another process follows with the ledger {self.path}")
                intake = RecordIngester(self._db)
                intake.ingest_completions(batches["completions"])
                intake.ingest_feedback(batches["feedback"])
                for batch in batches.values():
                    self._advance(batch)
                failpoint("ledger.commit.before")
            failpoint("ledger.commit.after")
            wipe(self._db)
            return sum(map(len, batches.values()))

    def positions(self) -> dict[Topic, dict[int, int]]:
        """Give, by topic and partition, the offset that is read next."""
        with self._lock:
            return {topic: self._positions(topic) for topic in FOLLOWED_TOPICS}

    def lag(self, log: EventLog) -> int:
        """Return how many records the log has that the ledger has not, tombstones included.

        Raises:
            LogUnavailable: The log did not say where it ends.

        """
        lag = 0
        for topic, positions in self.positions().items():
            ends = log.ends(topic)
            lag += sum(max(0, end - positions.get(part, 0)) for part, end in ends.items())
        return lag

    def counts(self) -> LedgerCounts:
        """Count what the ledger holds."""
        with self._lock:
            row = self._db.execute(
                "SELECT (SELECT COUNT(*) FROM events WHERE dead = 0), "
                "(SELECT COUNT(*) FROM completions), "
                "(SELECT COUNT(DISTINCT arrival) FROM needs), "
                "(SELECT COUNT(*) FROM dead_letters)"
            ).fetchone()
            events, completions, waiting, dead = row
            return LedgerCounts(events, completions, waiting, dead, max_seq(self._db))

    def event_ids(self) -> list[str]:
        """Return the ids of all events, in order of arrival, dead ones left out."""
        with self._lock:
            rows = self._db.execute("SELECT event_id FROM events WHERE dead = 0 ORDER BY arrival")
            return [row[0] for row in rows]

    def dead_letters(self) -> list[DeadLetter]:
        """Return the records set aside, in the order of their topics and offsets."""
        columns = "topic, partition, offset, key, type, value, reason"
        with self._lock:
            rows = self._db.execute(
                f"SELECT {columns} FROM dead_letters ORDER BY topic, partition, offset"
            )
            return [DeadLetter(*row) for row in rows]

    def mirror_dead_letters(self, log: EventLog) -> int:
        """Append the records set aside since the last time to topic `dead-letter`; give how many.

        Raises:
            LogUnavailable: The log did not take them; mirror again.

        """
        with self._lock:
            rows = self._db.execute(
                "SELECT topic, partition, offset, key, type, value, reason FROM dead_letters "
                "WHERE mirrored = 0"
            ).fetchall()
            if not rows:
                return 0
            names = ("topic", "partition", "offset", "key", "type", "value", "reason")
            letters = [
                dead_letter_record(DeadLetterMessage(**dict(zip(names, row, strict=True))))
                for row in rows
            ]
            log.append("dead-letter", letters)
            with transaction(self._db):
                self._db.executemany(
                    "UPDATE dead_letters SET mirrored = 1 "
                    "WHERE topic = ? AND partition = ? AND offset = ?",
                    [row[:3] for row in rows],
                )
        return len(rows)

    def retry_dead_letters(self, log: EventLog) -> int:
        """Send every record set aside through its topic once more; give how many there were.

        For use after what set them aside has changed (a newer version knows their kind). What
        still cannot be used is set aside again.

        Raises:
            LogUnavailable: The log did not take them; they are where they were.

        """
        with self._lock, transaction(self._db):
            letters = self.dead_letters()
            self._db.execute("DELETE FROM dead_letters")
            self._db.execute("DELETE FROM events WHERE dead = 1")
            for topic in FOLLOWED_TOPICS:
                own = [NewRecord(d.key, d.type, d.value) for d in letters if d.topic == topic]
                log.append(topic, own)
        return len(letters)

    def erase_forgotten(self, log: EventLog) -> int:
        """Erase from the log what was erased here or came too late; give how many records.

        Raises:
            LogUnavailable: The log did not take it all; erase again.

        """
        with self._lock:
            rows = self._db.execute("SELECT topic, key, partition_key FROM to_erase").fetchall()
        if not rows:
            return 0
        for topic in ERASE_ORDER:
            keys = [RecordKey(*row[1:]) for row in rows if row[0] == topic]
            if keys:
                log.erase(topic, keys)
        with self._lock, transaction(self._db):
            self._db.executemany(
                "DELETE FROM to_erase WHERE topic = ? AND key = ? AND partition_key = ?", rows
            )
        return len(rows)

    def erasures(self, owner: str, subject: str) -> list[Erasure]:
        """Return what forgetting a person has erased, each time, the first one first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT number, event_id, first_seq, events, completions "
                "FROM forgotten JOIN erasures USING (number) "
                "WHERE owner = ? AND subject = ? ORDER BY number",
                (owner, subject),
            )
            return [Erasure(*row) for row in rows]

    def last_forgetting(self) -> int:
        """Return the number of the last forgetting that erased something to learn from; 0: none."""
        with self._lock:
            row = self._db.execute("SELECT MAX(number) FROM erasures WHERE first_seq IS NOT NULL")
            return int(row.fetchone()[0] or 0)

    def is_erasure_complete(self) -> bool:
        """Tell whether the file holds no byte of what was erased."""
        with self._lock:
            return not must_wipe(self._db)

    def coverage(self, upto_seq: int) -> list[Lessons]:
        """Return where in the log the events are that are numbered up to `upto_seq`."""
        with self._lock:
            return read_coverage(self._db, upto_seq)

    def effective_events(
        self, after_seq: int = 0, upto_seq: int | None = None
    ) -> list[JoinedEvent]:
        """Return the opinions numbered `(after_seq, upto_seq]` that count as of `upto_seq`.

        Retracted and replaced ones are left out; what is numbered above `upto_seq` is not
        looked at. An empty subject is its owner's one anonymous subject.

        Args:
            after_seq: Leave out what is numbered up to this.
            upto_seq: The snapshot, at most `max_seq` for it to be reproducible; None for now.

        """
        with self._lock:
            upto = max_seq(self._db) if upto_seq is None else upto_seq
            rows = self._db.execute(
                _EFFECTIVE_EVENTS, {"after": after_seq, "upto": upto}
            ).fetchall()
            events = [(seq, FeedbackEvent.FromString(value)) for seq, value in rows]
            needed = {c for _, event in events for c in event_completion_ids(event)}
            records = self._completions(needed)
        judged = []
        for seq, event in events:
            own = {c: records[c] for c in sorted(event_completion_ids(event))}
            held = restrict_to_recorded(event, own)
            assert held is not None, "an event of which nothing is held is given no seq"
            judged.append(JoinedEvent(seq, held, own))
        return judged

    def count_votes(self, after_seq: int, upto_seq: int) -> dict[str, int]:
        """Count the opinions of `judged` that teach something, by kind."""
        kinds = (
            str(feedback_kind(one.event)) for one in self.effective_events(after_seq, upto_seq)
        )
        return dict(Counter(kind for kind in kinds if kind not in NON_TRAINING_KINDS))

    def prompts(self, limit: int, upto_seq: int | None = None) -> list[list[dict[str, str]]]:
        """Return the distinct lists of messages that people asked, the latest first.

        Each is `[{"role": ..., "content": ...}, ...]`. Text completions and what could not
        be recorded are left out.

        Args:
            limit: How many at most.
            upto_seq: Only completions that arrived before this number was given, which
                is reproducible; None for all.

        """
        with self._lock:
            upto = _NO_END if upto_seq is None else upto_seq
            rows = self._db.execute(_PROMPTS, {"upto": upto, "limit": limit}).fetchall()
        records = (CompletionRecord.FromString(row[0]) for row in rows)
        return [[{"role": m.role, "content": m.content} for m in r.messages] for r in records]

    def _positions(self, topic: Topic) -> dict[int, int]:
        rows = self._db.execute("SELECT partition, next FROM positions WHERE topic = ?", (topic,))
        return dict(rows.fetchall())

    def _advance(self, batch: Iterable[LogRecord]) -> None:
        self._db.executemany(
            "INSERT INTO positions VALUES (?, ?, ?) "
            "ON CONFLICT (topic, partition) DO UPDATE SET next = excluded.next",
            [(r.topic, r.partition, r.offset + 1) for r in batch],
        )

    def _completions(self, ids: Iterable[str]) -> dict[str, CompletionRecord]:
        found = {}
        for completion_id in ids:
            row = self._db.execute(
                "SELECT value FROM completions WHERE completion_id = ?", (completion_id,)
            ).fetchone()
            if row is not None:
                found[completion_id] = CompletionRecord.FromString(row[0])
        return found
