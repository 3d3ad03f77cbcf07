"""The ledger: every record of the log exactly once, joined and numbered for training.

An event gets its sequence number (seq) when it becomes usable: when the last completion that it
refers to has arrived, or at once for a retraction. Waiting events have none. Later records always
get higher numbers, so `effective_events(upto_seq=n)` returns the same for every n up to `max_seq`
at any time and after any number of crashes. A vote whose completion arrives late is used by the
next cycle. Numbers belong to one ledger; another ledger of the same log may assign others.

A later vote on the same target supersedes an earlier one for good: retracting the later vote does
not restore the earlier one.

Two things change what `effective_events` and `prompts` return for an assigned number: forgetting a
person, whose records are erased, and late ones dropped; and setting an event aside that the learner
cannot use. Other events keep their numbers, and no number is assigned twice.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from feedback.errors import FeedbackError
from feedback.failpoints import failpoint
from feedback.ledger.intake import RecordIngester, restore_events, set_event_aside
from feedback.ledger.retention import (
    RetentionLimits,
    delete_completions,
    expired_completions,
    used_bytes,
)
from feedback.ledger.rows import (
    EFFECTIVE_EVENTS,
    PROMPTS,
    SCHEMA,
    VERSION,
    DeadLetter,
    Erasure,
    JoinedEvent,
    LedgerCounts,
    RecordedLengths,
    RecordedPrompt,
    max_seq,
    migrate,
    restrict_to_recorded,
)
from feedback.ledger.sampling import sample_evenly
from feedback.log.event_log import (
    EventLog,
    LogRecord,
    NewRecord,
    RecordKey,
    RecordsRefused,
    Topic,
)
from feedback.log.events import event_completion_ids, feedback_kind
from feedback.log.records import dead_letter_record
from feedback.log.sqlite import connect, must_wipe, transaction, wipe
from feedback.privacy.forgetting import ERASE_ORDER
from feedback.privacy.lineage import NON_TRAINING_KINDS, read_coverage
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import DeadLetter as DeadLetterMessage
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from protos.plaudit.v1.policy_pb2 import Lessons

logger = logging.getLogger(__name__)

FOLLOWED_TOPICS: Final[tuple[Topic, ...]] = ("completions", "feedback")
_JOINED_TOGETHER: Final = 200
_EXPIRED_TOGETHER: Final = 500
_NO_END: Final = 2**63 - 1
_MIRRORED_TOGETHER: Final = 8  # dead letters, each of which may be as large as a record can be


class LedgerError(FeedbackError):
    """Another process follows the log with the same ledger file."""


class Ledger:
    """A ledger in one SQLite file. One process may follow the log; others may read.

    Every method may be called from any thread, and raises sqlite3.OperationalError if the file
    cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the ledger at `path`.

        Raises:
            SchemaTooNew: A newer release has written the file.

        """
        self.path = path
        self._db = connect(
            path, SCHEMA, version=VERSION, synchronous="FULL", busy_seconds=10, migrate=migrate
        )
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def follow(self, log: EventLog, limit: int = 1000) -> int:
        """Ingest up to `limit` new records of each topic; return their number.

        Rows, positions and dead letters are written in one transaction. Known event ids are
        skipped, so a record may arrive any number of times.

        Raises:
            LogUnavailable: The log did not return its records; the ledger is unchanged.
            LedgerError: Another process follows with the same file.

        """
        with self._lock:
            wipe(self._db)  # in case a crash or a reader prevented it earlier
            before = self.positions()
            batches = {topic: log.read(topic, before[topic], limit) for topic in FOLLOWED_TOPICS}
            if not any(batches.values()):
                return 0
            with transaction(self._db):
                if before != self.positions():
                    raise LedgerError(f"another process follows with the ledger {self.path}")
                ingester = RecordIngester(self._db)
                ingester.ingest_completions(batches["completions"])
                ingester.ingest_feedback(batches["feedback"])
                for batch in batches.values():
                    self._advance(batch)
                failpoint("ledger.commit.before")
            failpoint("ledger.commit.after")
            wipe(self._db)
            return sum(map(len, batches.values()))

    def positions(self) -> dict[Topic, dict[int, int]]:
        """Return the next offset to read, by topic and partition."""
        with self._lock:
            return {topic: self._positions(topic) for topic in FOLLOWED_TOPICS}

    def lag(self, log: EventLog) -> int:
        """Return how many records the ledger is behind the log, including tombstones.

        Raises:
            LogUnavailable: The log did not return its end.

        """
        lag = 0
        for topic, positions in self.positions().items():
            ends = log.ends(topic)
            lag += sum(max(0, end - positions.get(part, 0)) for part, end in ends.items())
        return lag

    def counts(self) -> LedgerCounts:
        """Count the rows of the ledger."""
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
        """Return the ids of all events in order of arrival, without dead letters."""
        with self._lock:
            rows = self._db.execute("SELECT event_id FROM events WHERE dead = 0 ORDER BY arrival")
            return [row[0] for row in rows]

    def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters, ordered by topic and offset."""
        columns = "topic, partition, offset, key, type, value, reason"
        with self._lock:
            rows = self._db.execute(
                f"SELECT {columns} FROM dead_letters ORDER BY topic, partition, offset"
            )
            return [DeadLetter(*row) for row in rows]

    def mirror_dead_letters(self, log: EventLog) -> int:
        """Append new dead letters to topic `dead-letter`; return their number.

        Raises:
            LogUnavailable: The log did not accept them; call this again.

        """
        count = 0
        with self._lock:
            while rows := self._db.execute(
                "SELECT topic, partition, offset, key, type, value, reason FROM dead_letters "
                "WHERE mirrored = 0 LIMIT ?",
                (_MIRRORED_TOGETHER,),
            ).fetchall():
                self._mirror(log, rows)
                count += len(rows)
        return count

    def _mirror(self, log: EventLog, rows: Sequence[tuple[Any, ...]]) -> None:
        names = ("topic", "partition", "offset", "key", "type", "value", "reason")
        letters = [
            dead_letter_record(DeadLetterMessage(**dict(zip(names, row, strict=True))))
            for row in rows
        ]
        with suppress(RecordsRefused):  # the ledger has them
            log.append("dead-letter", letters)
        with transaction(self._db):
            self._db.executemany(
                "UPDATE dead_letters SET mirrored = 1 "
                "WHERE topic = ? AND partition = ? AND offset = ?",
                [row[:3] for row in rows],
            )

    def set_aside(self, reasons: Mapping[int, str]) -> None:
        """Make dead letters of events that the learner cannot use.

        They are no longer effective, also not at numbers that were assigned before.

        Args:
            reasons: Reason of each event, by its sequence number.

        """
        with self._lock, transaction(self._db):
            for seq, reason in reasons.items():
                logger.warning("vote %d is set aside as a dead letter: %s", seq, reason)
                set_event_aside(self._db, seq, reason)

    def retry_dead_letters(self, log: EventLog) -> int:
        """Append every dead letter to its topic again; return their number.

        Use this after the cause was fixed, for example by a release that knows their kind.
        Records that still cannot be used become dead letters again. Events that the learner has
        set aside are not appended again; they get new numbers.

        Raises:
            LogUnavailable: The log did not accept them; the ledger is unchanged.

        """
        with self._lock, transaction(self._db):
            restored = restore_events(self._db)
            letters = [
                d for d in self.dead_letters() if (d.topic, d.partition, d.offset) not in restored
            ]
            self._db.execute("DELETE FROM dead_letters")
            self._db.execute("DELETE FROM events WHERE dead = 1")
            for topic in FOLLOWED_TOPICS:
                records = [NewRecord(d.key, d.type, d.value) for d in letters if d.topic == topic]
                log.append(topic, records)
        return len(letters) + len(restored)

    def erase_forgotten(self, log: EventLog) -> int:
        """Erase the queued records of forgotten people from the log; return their number.

        Raises:
            LogUnavailable: Some records may not be erased; call this again.

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

    def expire(self, log: EventLog, limits: RetentionLimits, now_ms: int) -> int:
        """Delete answers without feedback that are over the limits; return their number.

        They are deleted from the log first, then here. Call it while no cycle runs, since `prompts`
        returns theirs no more.

        Raises:
            LogUnavailable: Some may be deleted and others not; call this again.

        """
        with self._lock:
            expired = expired_completions(self._db, limits, now_ms)
        for start in range(0, len(expired), _EXPIRED_TOGETHER):
            batch = expired[start : start + _EXPIRED_TOGETHER]
            log.expire("completions", [RecordKey(key) for key in batch])
            with self._lock, transaction(self._db):
                delete_completions(self._db, batch)
        return len(expired)

    def used_bytes(self) -> int:
        """Return the size of the rows, in bytes."""
        with self._lock:
            return used_bytes(self._db)

    def erasures(self, owner: str, subject: str) -> list[Erasure]:
        """Return what each request to forget a person has erased, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT number, event_id, first_seq, events, completions "
                "FROM forgotten JOIN erasures USING (number) "
                "WHERE owner = ? AND subject = ? ORDER BY number",
                (owner, subject),
            )
            return [Erasure(*row) for row in rows]

    def last_forgetting(self) -> int:
        """Return the number of the last forgetting that erased training data; 0 for none."""
        with self._lock:
            row = self._db.execute("SELECT MAX(number) FROM erasures WHERE first_seq IS NOT NULL")
            return int(row.fetchone()[0] or 0)

    def is_erasure_complete(self) -> bool:
        """Return whether no byte of erased rows is left in the file."""
        with self._lock:
            return not must_wipe(self._db)

    def coverage(self, upto_seq: int) -> list[Lessons]:
        """Return the log positions of the events numbered up to `upto_seq`."""
        with self._lock:
            return read_coverage(self._db, upto_seq)

    def effective_events(
        self, after_seq: int = 0, upto_seq: int | None = None
    ) -> list[JoinedEvent]:
        """Return the events numbered in `(after_seq, upto_seq]` that are effective at `upto_seq`.

        Retracted and superseded events are left out; events numbered above `upto_seq` have no
        effect. All events of an owner without a subject count as one subject's.

        Args:
            after_seq: Number after which events are returned.
            upto_seq: Number of the snapshot; reproducible up to `max_seq`. None: the current one.

        """
        return list(self.stream_events(after_seq, upto_seq))

    def stream_events(
        self, after_seq: int = 0, upto_seq: int | None = None
    ) -> Iterator[JoinedEvent]:
        """Yield what `effective_events` returns, with few of them in memory at once."""
        with self._lock:
            upto = max_seq(self._db) if upto_seq is None else upto_seq
        while batch := self._join_next(after_seq, upto):
            yield from batch
            after_seq = batch[-1].seq

    def _join_next(self, after_seq: int, upto_seq: int) -> list[JoinedEvent]:
        """Return the next few effective events; none at the end."""
        numbers = {"after": after_seq, "upto": upto_seq, "limit": _JOINED_TOGETHER}
        with self._lock:
            rows = self._db.execute(f"{EFFECTIVE_EVENTS} LIMIT :limit", numbers).fetchall()
            events = [(seq, FeedbackEvent.FromString(value)) for seq, value in rows]
            needed = {c for _, event in events for c in event_completion_ids(event)}
            records = self._completions(needed)
        joined = []
        for seq, event in events:
            completions = {c: records[c] for c in sorted(event_completion_ids(event))}
            restricted = restrict_to_recorded(event, completions)
            assert restricted is not None, "an event without recorded candidates gets no seq"
            joined.append(JoinedEvent(seq, restricted, completions))
        return joined

    def count_effective(self, after_seq: int, upto_seq: int) -> int:
        """Return the number of `effective_events`, without reading them."""
        with self._lock:
            sql = f"SELECT COUNT(*) FROM ({EFFECTIVE_EVENTS})"
            row = self._db.execute(sql, {"after": after_seq, "upto": upto_seq}).fetchone()
            return int(row[0])

    def count_votes(self, after_seq: int, upto_seq: int) -> dict[str, int]:
        """Count the votes among `effective_events`, by kind."""
        kinds = (
            str(feedback_kind(joined.event)) for joined in self.stream_events(after_seq, upto_seq)
        )
        return dict(Counter(kind for kind in kinds if kind not in NON_TRAINING_KINDS))

    def prompts(
        self, limit: int, upto_seq: int | None = None, *, max_characters: int | None = None
    ) -> list[RecordedPrompt]:
        """Return distinct prompts of chat completions, even over owners and time.

        Owners take turns, each with its latest first. Text completions and prompts that could
        not be recorded are left out.

        Args:
            limit: Largest number of prompts.
            upto_seq: Use only completions that arrived before this number was assigned, which is
                reproducible; None: all.
            max_characters: Largest number of characters in the messages of a prompt; those with
                more are left out, so that any number of prompts fits into memory. None: any.

        """
        found = []
        for record in self._prompted(limit, upto_seq):
            size = sum(len(message.content) for message in record.messages)
            if max_characters is None or size <= max_characters:
                messages = [{"role": m.role, "content": m.content} for m in record.messages]
                found.append(RecordedPrompt(messages, list(record.prompt_token_ids)))
        return found

    def lengths(self, limit: int, upto_seq: int | None = None) -> RecordedLengths:
        """Return the lengths of the prompts that `prompts` chooses from, and of their answers.

        Args:
            limit: Largest number of prompts.
            upto_seq: Last ledger row to read from.

        """
        prompts: list[int] = []
        answers: list[int] = []
        for record in self._prompted(limit, upto_seq):
            prompts.append(len(record.prompt_token_ids))
            answers += (len(c.token_ids) for c in record.choices if c.finish_reason != "abort")
        return RecordedLengths(tuple(filter(None, prompts)), tuple(filter(None, answers)))

    def _prompted(self, limit: int, upto_seq: int | None) -> Iterator[CompletionRecord]:
        """Yield the latest record of each distinct prompt, even over owners and time."""
        upto = _NO_END if upto_seq is None else upto_seq
        with self._lock:
            owners = self._db.execute(PROMPTS, {"upto": upto}).fetchall()
            for index in sample_evenly([owner for _, owner in owners], limit):
                yield self._completion(owners[index][0])

    def _completion(self, arrival: int) -> CompletionRecord:
        sql = "SELECT value FROM completions WHERE arrival = ?"
        return CompletionRecord.FromString(self._db.execute(sql, (arrival,)).fetchone()[0])

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
