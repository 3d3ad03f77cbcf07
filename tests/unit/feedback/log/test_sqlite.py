"""SQLite files: their modes and the versions of their schemas."""

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pytest

from feedback.ledger.store import Ledger
from feedback.log.sqlite import (
    SchemaTooNew,
    connect,
    mark_for_wiping,
    must_wipe,
    schema_version,
    transaction,
    wipe,
)
from feedback.log.sqlite_log import SqliteLog
from feedback.view.feedback_view import View
from serving.http.usage import Usage


class Closable(Protocol):
    def close(self) -> None: ...


# Each store with the version of its schema.
STORES: tuple[tuple[Callable[[Path], Closable], int], ...] = (
    (SqliteLog, 1),
    (Ledger, 2),
    (View, 1),
    (Usage, 2),
)
TABLE = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER)"


def open_numbers(path: Path, version: int = 1) -> sqlite3.Connection:
    return connect(path, TABLE, version=version, synchronous="FULL", busy_seconds=1)


def user_version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def set_user_version(path: Path, value: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={value}")


def test_a_new_file_and_its_wal_are_for_their_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with closing(open_numbers(tmp_path / "n.db")) as db:
            db.execute("INSERT INTO numbers VALUES (1)")
            modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()}
    finally:
        os.umask(old)
    assert modes == {"n.db": 0o600, "n.db-wal": 0o600, "n.db-shm": 0o600}


@pytest.mark.parametrize(("store", "version"), STORES)
def test_a_file_of_a_newer_version_is_refused(
    store: Callable[[Path], Closable], version: int, tmp_path: Path
) -> None:
    path = tmp_path / "file.db"
    store(path).close()
    assert user_version(path) == 2 * version, "not marked"
    set_user_version(path, 2 * version + 2)
    before = path.read_bytes()
    message = rf"file\.db has schema version {version + 1}, .* up to {version}; install"
    with pytest.raises(SchemaTooNew, match=message):
        store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("store", "version"), STORES)
def test_a_file_without_a_version_gets_one(
    store: Callable[[Path], Closable], version: int, tmp_path: Path
) -> None:
    path = tmp_path / "file.db"
    store(path).close()
    set_user_version(path, 1)  # of release 0.1, with bytes to wipe
    store(path).close()
    assert user_version(path) == 2 * version + 1


def test_an_older_file_is_migrated_once(tmp_path: Path) -> None:
    def migrate(db: sqlite3.Connection, found: int) -> None:
        seen.append(found)
        if found == 1:
            db.execute("ALTER TABLE numbers ADD COLUMN name TEXT")

    seen: list[int] = []
    path = tmp_path / "n.db"
    open_numbers(path).close()
    for _ in range(2):
        connect(path, TABLE, version=2, synchronous="FULL", busy_seconds=1, migrate=migrate).close()
    assert seen == [1]
    with closing(open_numbers(path, version=2)) as db:
        db.execute("INSERT INTO numbers (n, name) VALUES (1, 'one')")


def test_the_mark_for_wiping_keeps_the_version(tmp_path: Path) -> None:
    with closing(open_numbers(tmp_path / "n.db", version=5)) as db:
        with transaction(db):
            mark_for_wiping(db)
        assert (must_wipe(db), schema_version(db)) == (True, 5)
        assert wipe(db)
        assert (must_wipe(db), schema_version(db)) == (False, 5)
