"""SQLite files in WAL mode: opening, transactions, writers' turns, and wiping what was deleted.

A deleted row's bytes stay in the file, and in its `-wal`, until they happen to be written over.
Where they must be gone, the deleting transaction marks the file, and `wipe` rewrites it; the
mark lasts until it has, also over a crash.
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
    """Open (or create) a WAL file and run `schema`, statements that are idempotent.

    The connection is in autocommit mode and may be used from any thread, by one at a time.

    Args:
        path: The file; its folder is created if absent.
        schema: `CREATE ... IF NOT EXISTS` statements.
        synchronous: FULL survives a power cut from the moment of commit; after NORMAL the
            last transactions may be gone, whole ones and the latest only.
        busy_seconds: How long to wait for another connection's write lock.

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
    """Switch to WAL; SQLite does not wait for the lock here when others do the same."""
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
    """Commit what the block writes, or, if it raises, none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def hold_lock(turn: IO[bytes], seconds: float | None = None) -> Iterator[None]:
    """Hold the lock that the writers of a file take turns by, waiting `seconds`, or for ever.

    Raises:
        TimeoutError: Another process held it for so long.

    """
    if seconds is None:
        fcntl.flock(turn, fcntl.LOCK_EX)
    else:
        deadline = time.monotonic() + seconds
        while not _try_lock(turn):
            if time.monotonic() > deadline:
                raise TimeoutError("another process holds its lock")
            time.sleep(0.005)
    try:
        yield
    finally:
        fcntl.flock(turn, fcntl.LOCK_UN)


def _try_lock(turn: IO[bytes]) -> bool:
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def must_wipe(connection: sqlite3.Connection) -> bool:
    """Tell whether rows were deleted whose bytes may still be in the file."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0])


def mark_for_wiping(connection: sqlite3.Connection) -> None:
    """Say, in the transaction that deletes rows, that their bytes must go."""
    if not must_wipe(connection):
        connection.execute("PRAGMA user_version=1")


def wipe(connection: sqlite3.Connection) -> bool:
    """Rewrite a marked file with what it still holds, and empty its `-wal`; outside transactions.

    Takes as long as copying the file, and room on disk for a copy of it; others may read
    meanwhile. False: another connection was in the way, so wipe again.

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
    in_the_way, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if not in_the_way:
        connection.execute("PRAGMA user_version=0")
    return not in_the_way
