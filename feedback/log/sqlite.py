"""SQLite files in WAL mode: opening, transactions, write locks, and wiping deleted rows.

The bytes of a deleted row stay in the file and in its `-wal` until they happen to be overwritten.
If they must not stay, the deleting transaction marks the file and `wipe` rewrites it. The mark
survives a crash and is removed only after the rewrite.
"""

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

RETRY_SECONDS = 0.01


def connect(
    path: Path, schema: str, *, synchronous: Literal["FULL", "NORMAL"], busy_seconds: float
) -> sqlite3.Connection:
    """Open or create a file in WAL mode and run the idempotent statements in `schema`.

    The connection is in autocommit mode and may be used by any thread, one at a time.

    Args:
        path: SQLite file; its folder is created if absent.
        schema: `CREATE ... IF NOT EXISTS` statements.
        synchronous: With FULL, a commit survives a power failure; with NORMAL, the latest
            transactions may be lost as a whole.
        busy_seconds: Longest wait for the write lock of another connection.

    Raises:
        sqlite3.OperationalError: The file cannot be opened, or stayed locked.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        _enter_wal(connection, time.monotonic() + busy_seconds)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        with transaction(connection):
            for statement in schema.split(";"):
                connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _enter_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Switch to WAL mode, with retries: SQLite itself does not wait for the lock here."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit everything that the block writes, or nothing if it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def hold_lock(lock_file: IO[bytes], seconds: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock on `lock_file`.

    Args:
        lock_file: Open file to lock.
        seconds: Longest wait; None waits without a limit.

    Raises:
        TimeoutError: Another process held the lock all the time.

    """
    if seconds is None:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
    else:
        deadline = time.monotonic() + seconds
        while not _try_lock(lock_file):
            if time.monotonic() > deadline:
                raise TimeoutError("another process holds the lock")
            time.sleep(0.005)
    try:
        yield
    finally:
        fcntl.flock(lock_file, fcntl.LOCK_UN)


def _try_lock(lock_file: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def must_wipe(connection: sqlite3.Connection) -> bool:
    """Return whether the file may still contain bytes of rows that had to be erased."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0])


def mark_for_wiping(connection: sqlite3.Connection) -> None:
    """Mark, in the transaction that deletes rows, that their bytes must be wiped."""
    if not must_wipe(connection):
        connection.execute("PRAGMA user_version=1")


def wipe(connection: sqlite3.Connection) -> bool:
    """Rewrite a marked file without deleted bytes and empty its `-wal`; not in a transaction.

    This takes the time and the disk space of a copy of the file; others may read meanwhile.

    Returns:
        Whether the file is clean. False: another connection blocked it; call again later.

    Raises:
        sqlite3.OperationalError: The file cannot be written.

    """
    if not must_wipe(connection):
        return True
    try:
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
        return False
    blocked, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if not blocked:
        connection.execute("PRAGMA user_version=0")
    return not blocked
