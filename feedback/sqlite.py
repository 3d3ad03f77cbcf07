"""Opening SQLite files in WAL mode, and transactions that take the write lock at once."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

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
