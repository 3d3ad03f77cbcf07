"""SQLite files in WAL mode: opening, transactions, write locks, and wiping deleted rows.

A file's `user_version` contains the version of its schema and, in the lowest bit, a mark.

The bytes of a deleted row stay in the file and in its `-wal` until they happen to be overwritten.
If they must not stay, the deleting transaction marks the file and `wipe` rewrites it. The mark
survives a crash and is removed only after the rewrite.
"""

import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Literal

from feedback.errors import FeedbackError
from feedback.home import FILE_MODE, FOLDER_MODE
from protos.checkpoints.durable import create_file

RETRY_SECONDS = 0.01
_WIPE_MARK: Final = 1
Migrate = Callable[[sqlite3.Connection, int], None]


class SchemaTooNew(FeedbackError):
    """A file was written by a newer release, which this one cannot read."""


def connect(
    path: Path,
    schema: str,
    *,
    version: int,
    synchronous: Literal["FULL", "NORMAL"],
    busy_seconds: float,
    migrate: Migrate | None = None,
) -> sqlite3.Connection:
    """Open or create a file in WAL mode and run the idempotent statements in `schema`.

    A new file and its `-wal` and `-shm` are readable by their owner alone. The connection is in
    autocommit mode and may be used by any thread, one at a time.

    Args:
        path: SQLite file; its folder is created if absent.
        schema: `CREATE ... IF NOT EXISTS` statements.
        version: Version of the schema, from 1; files that have none yet are of version 0.
        synchronous: With FULL, a commit survives a power failure; with NORMAL, the latest
            transactions may be lost as a whole.
        busy_seconds: Longest wait for the write lock of another connection.
        migrate: Called before the statements of `schema`, in the same transaction, with the
            connection and the version of an older or new file.

    Raises:
        sqlite3.OperationalError: The file cannot be opened, or stayed locked.
        SchemaTooNew: A newer release has written the file.

    """
    path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    if not path.exists():
        with suppress(FileExistsError):  # another process was faster
            create_file(path, b"", FILE_MODE)  # SQLite gives -wal and -shm the same mode
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        _enter_wal(connection, time.monotonic() + busy_seconds)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        with transaction(connection):
            found = schema_version(connection)
            _check_version(path, found, version)
            if migrate is not None and found < version:
                migrate(connection, found)
            for statement in schema.split(";"):
                connection.execute(statement)
            if found < version:
                _set_user_version(connection, 2 * version + must_wipe(connection))
    except BaseException:
        connection.close()
        raise
    return connection


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the version of a file's schema; 0 for a new file or one of release 0.1."""
    return _user_version(connection) // 2


def _check_version(path: Path, found: int, known: int) -> None:
    if found > known:
        raise SchemaTooNew(
            f"{path} has schema version {found}, but this release of Plaudit reads only versions "
            f"up to {known}; install the release that wrote it, or restore a backup that is older"
        )


def _user_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _set_user_version(connection: sqlite3.Connection, value: int) -> None:
    connection.execute(f"PRAGMA user_version={value}")


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
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """Undo what the block writes if it raises; the transaction around it goes on."""
    connection.execute("SAVEPOINT block")
    try:
        yield
        connection.execute("RELEASE block")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled it back already
            connection.execute("ROLLBACK TO block")
            connection.execute("RELEASE block")
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
    return bool(_user_version(connection) & _WIPE_MARK)


def mark_for_wiping(connection: sqlite3.Connection) -> None:
    """Mark, in the transaction that deletes rows, that their bytes must be wiped."""
    if not must_wipe(connection):
        _set_user_version(connection, _user_version(connection) | _WIPE_MARK)


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
        _set_user_version(connection, _user_version(connection) & ~_WIPE_MARK)
    return not blocked
