"""The event log in one SQLite file: embedded, durable, shared by the processes of one machine.

Each topic is a table whose row ids are the offsets. SQLite's write lock serialises writers, so
ids are committed in order, and a reader that has seen one has seen all below it.

Writers also hold a lock on a file beside the log, for two reasons. SQLite waits by sleeping and
trying again, which can starve one of several busy processes for seconds. And before 3.51.3 it
may, rarely, damage a file when one connection commits while another makes a checkpoint
(https://www.sqlite.org/wal.html#walresetbug); commits make the checkpoints, so the lock covers
both.

Not supported: several partitions (there is only 0), network file systems (WAL
needs shared memory).
"""

import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

from feedback.failpoints import failpoint
from feedback.log.event_log import (
    LogError,
    LogRecord,
    LogUnavailable,
    NewRecord,
    Positions,
    RecordKey,
    Topic,
)
from feedback.log.sqlite import connect, hold_lock, mark_for_wiping, transaction, wipe
from feedback.metrics import APPEND_SECONDS

logger = logging.getLogger(__name__)

TOPICS: Final[tuple[Topic, ...]] = get_args(Topic)
MAX_BATCH_CALLS: Final = 512
_READ_BYTES: Final = 32 << 20  # at which a read ends
_SCANNED_TOGETHER: Final = 5000
_WIPE_SECONDS: Final = 3600.0
_VERSION: Final = 1  # of the schema
_SCHEMA = ";".join(
    f"""CREATE TABLE IF NOT EXISTS "{topic}" (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, type TEXT NOT NULL,
        value BLOB NOT NULL, timestamp_ms INTEGER NOT NULL)"""
    for topic in TOPICS
)


# Errors caused by the records of one call, not by the file.
_BAD_RECORDS = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    UnicodeError,
)


_Row = tuple[int, str, str, bytes, int]


@dataclass(frozen=True, slots=True)
class _Append:
    topic: Topic
    rows: list[tuple[str, str, bytes, int]]
    delete_before: int = 0  # deletes the records below this offset
    erased: Sequence[RecordKey] = ()
    expired: Sequence[int] = ()  # ids
    wipes: bool = False
    done: "Future[None]" = field(default_factory=Future)


def _table(topic: Topic) -> str:
    if topic not in TOPICS:
        raise ValueError(f"unknown topic {topic!r}; the topics are {', '.join(TOPICS)}")
    return f'"{topic}"'


class SqliteLog:
    """An `EventLog` in one SQLite file. Open it after forking, not before.

    Appends that arrive while another is being committed share the next commit.
    """

    def __init__(
        self, path: Path, *, busy_seconds: float = 5.0, append_seconds: float = 15.0
    ) -> None:
        """Open or create the log.

        Args:
            path: SQLite file; SQLite's `-wal` and `-shm` and the log's `.lock` lie beside it.
            busy_seconds: Longest wait of one commit for another process, in seconds.
            append_seconds: Longest wait of an append in total, in seconds.

        Raises:
            LogUnavailable: The file cannot be opened or created, or is locked.
            SchemaTooNew: A newer release has written the file.

        """
        self.path = path
        self._append_seconds = append_seconds
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._state = threading.Lock()  # nothing is queued after _closed is set
        self._closed = False
        self._reading = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opened:  # closes everything if a later step fails
                lock_file = path.with_name(f"{path.name}.lock").open("ab")
                self._write_lock = opened.enter_context(lock_file)
                with hold_lock(lock_file, busy_seconds):
                    self._write = self._connect(_SCHEMA, busy_seconds)
                    opened.callback(self._write.close)
                    self._read = self._connect("", busy_seconds)
                opened.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise LogUnavailable(f"cannot open the log {path}: {error}") from error
        self._writer = threading.Thread(target=self._run, name="plaudit-log", daemon=True)
        self._writer.start()

    def _connect(self, schema: str, busy_seconds: float) -> sqlite3.Connection:
        return connect(
            self.path, schema, version=_VERSION, synchronous="FULL", busy_seconds=busy_seconds
        )

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        """Append all records or none; return once they are on disk.

        Raises:
            LogUnavailable: The disk is full, the file is locked or the append timed out; the
                records may or may not be in the log.
            LogError: The log is closed.

        """
        _table(topic)
        now_ms = int(time.time() * 1000)
        call = _Append(topic, [(r.key, r.type, r.value, now_ms) for r in records])
        with APPEND_SECONDS.labels(topic).time():
            failpoint(f"{topic}.append.before")
            self._commit_soon(call, self._append_seconds)
            failpoint(f"{topic}.append.after")

    def erase(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Delete the records with these keys and wipe the bytes of all deleted records.

        The file is rewritten (see `feedback.log.sqlite.wipe`); appends wait meanwhile.

        Raises:
            LogUnavailable: The file cannot be written, or another process was reading it all
                the time; the records may be deleted, but their bytes still there.
            LogError: The log is closed.

        """
        self._commit_soon(_Append(topic, [], erased=keys, wipes=True), _WIPE_SECONDS)

    def expire(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Delete the oldest records with these keys; new records are written over their bytes.

        Raises:
            LogUnavailable: The file cannot be read or written.
            LogError: The log is closed.

        """
        ids = self._ids(topic, {key.key for key in keys})
        self._commit_soon(_Append(topic, [], expired=ids), self._append_seconds)

    def _ids(self, topic: Topic, keys: set[str]) -> list[int]:
        """Return the ids of the first records with these keys, of each the oldest."""
        found: dict[str, int] = {}
        last = 0
        while len(found) < len(keys):
            rows = self._select(
                f"SELECT id, key FROM {_table(topic)} WHERE id > ? ORDER BY id LIMIT ?",
                (last, _SCANNED_TOGETHER),
            )
            if not rows:
                break
            last = rows[-1][0]
            for number, key, *_ in rows:
                if key in keys:
                    found.setdefault(key, number)
        return list(found.values())

    def _commit_soon(self, call: _Append, seconds: float) -> None:
        with self._state:
            if self._closed:
                raise LogError(f"the log {self.path} is closed")
            if not (call.rows or call.delete_before or call.wipes or call.expired):
                return
            self._queue.put(call)
        try:
            call.done.result(seconds)
        except TimeoutError as error:
            call.done.cancel()  # the writer skips it unless it has started
            raise LogUnavailable(
                f"the log {self.path} did not commit within {seconds:g} s"
            ) from error

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        """Return up to `limit` records at or after `positions`, oldest first.

        There are fewer if these are large: no more than one beyond 32 MiB in total.

        Raises:
            LogUnavailable: The file cannot be read.
            LogError: The log is closed.

        """
        rows = self._select(
            f"SELECT id, key, type, value, timestamp_ms FROM {_table(topic)} "
            "WHERE id > ? ORDER BY id LIMIT ?",
            (positions.get(0, 0), limit),
            lambda cursor: _take(cursor, _READ_BYTES),
        )
        return [LogRecord(topic, 0, row[0] - 1, *row[1:]) for row in rows]

    def ends(self, topic: Topic) -> dict[int, int]:
        """Return the offset of the next record, by partition: `{0: offset}`.

        Raises:
            LogUnavailable: The file cannot be read.
            LogError: The log is closed.

        """
        rows = self._select(f"SELECT COALESCE(MAX(id), 0) FROM {_table(topic)}", ())
        return {0: rows[0][0]}

    def count(self, topic: Topic) -> int:
        """Return the number of records.

        Raises:
            LogUnavailable: The file cannot be read.
            LogError: The log is closed.

        """
        return self._select(f"SELECT COUNT(*) FROM {_table(topic)}", ())[0][0]

    def size(self) -> int:
        """Return the size of the records on disk in bytes.

        Raises:
            LogUnavailable: The file cannot be read.
            LogError: The log is closed.

        """
        rows = self._select(
            "SELECT (page_count - freelist_count) * page_size FROM "
            "pragma_page_count(), pragma_freelist_count(), pragma_page_size()",
            (),
        )
        return rows[0][0]

    def delete_before(self, topic: Topic, offset: int) -> None:
        """Delete the records below `offset`: for an outbox, which has forwarded them.

        Raises:
            LogUnavailable: The file cannot be written.
            LogError: The log is closed.

        """
        self._commit_soon(_Append(topic, [], delete_before=offset), self._append_seconds)

    def close(self) -> None:
        """Commit queued appends, then release the file and the thread.

        After `append_seconds` this stops waiting for the writer thread.
        """
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._writer.join(self._append_seconds)
        with self._reading:
            self._read.close()

    def failure(self) -> str | None:
        """Return why nothing can be written any more, or None."""
        if self._closed or self._writer.is_alive():
            return None
        return f"the thread that writes the log {self.path} has ended"

    def _select(
        self,
        sql: str,
        values: tuple[int, ...],
        fetch: Callable[[sqlite3.Cursor], list[_Row]] = sqlite3.Cursor.fetchall,
    ) -> list[_Row]:
        with self._reading:
            if self._closed:
                raise LogError(f"the log {self.path} is closed")
            try:
                return fetch(self._read.execute(sql, values))
            except sqlite3.Error as error:
                raise LogUnavailable(f"cannot read the log {self.path}: {error}") from error

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._commit(batch)
        except BaseException:
            logger.critical("The thread that writes the log %s has ended", self.path, exc_info=True)
            raise
        finally:
            self._write.close()
            self._write_lock.close()

    def _next_batch(self) -> list[_Append] | None:
        """Wait for a call and return it with those queued behind it; None when closed."""
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < MAX_BATCH_CALLS:
            try:
                call = self._queue.get_nowait()
            except queue.Empty:
                break
            if call is None:
                self._queue.put(None)
                break
            batch.append(call)
        return [call for call in batch if call.done.set_running_or_notify_cancel()]

    def _commit(self, batch: list[_Append]) -> None:
        error = self._try(batch)
        if len(batch) > 1 and isinstance(error, _BAD_RECORDS):
            for call in batch:  # find the call whose records cannot be stored
                _finish([call], self._try([call]))
        else:
            _finish(batch, error)

    def _try(self, batch: list[_Append]) -> Exception | None:
        """Write the calls in one transaction; return the error, if any."""
        try:
            with hold_lock(self._write_lock):
                with transaction(self._write):
                    for call in batch:
                        self._do(call)
                if any(call.wipes for call in batch) and not wipe(self._write):
                    raise TimeoutError("another process blocks wiping it")
        except _BAD_RECORDS as error:
            return error
        except (sqlite3.Error, OSError) as error:
            unavailable = LogUnavailable(f"cannot write the log {self.path}: {error}")
            unavailable.__cause__ = error
            return unavailable
        return None

    def _do(self, call: _Append) -> None:
        table = _table(call.topic)
        self._write.executemany(
            f"INSERT INTO {table} (key, type, value, timestamp_ms) VALUES (?, ?, ?, ?)", call.rows
        )
        if call.expired:
            sql = f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
            self._write.execute(sql, (json.dumps(list(call.expired)),))
        if not (call.delete_before or call.erased):
            return
        gone = self._write.execute(
            f"DELETE FROM {table} WHERE id <= ? OR key IN (SELECT value FROM json_each(?))",
            (call.delete_before, json.dumps([k.key for k in call.erased])),
        )
        if gone.rowcount:
            mark_for_wiping(self._write)


def _take(cursor: sqlite3.Cursor, size: int) -> list[_Row]:
    """Return rows until their values have `size` bytes."""
    rows: list[_Row] = []
    for row in cursor:
        rows.append(row)
        size -= len(row[3])
        if size <= 0:
            cursor.close()  # ends the transaction, which would delay checkpoints
            break
    return rows


def _finish(batch: list[_Append], error: Exception | None) -> None:
    for call in batch:
        if error is None:
            call.done.set_result(None)
        else:
            call.done.set_exception(error)
