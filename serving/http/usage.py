"""What each key has used today (completions, tokens, bytes), in a file that replicas share.

The replicas of a home share the SQLite file. Counts are kept in memory and written every second, so
that no request waits for a disk. Counts of other replicas are known a second later, and a killed
process loses up to a second's counts.
Replicas with separate homes count separately.
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, get_args

from feedback.control.keys import UsageKind
from feedback.log.sqlite import connect, transaction

logger = logging.getLogger("plaudit.serving")

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS amounts (
    day INTEGER NOT NULL, key_id TEXT NOT NULL, kind TEXT NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (day, key_id, kind))
"""
_VERSION: Final = 2  # of the schema; version 1 had the table `usage`, of requests alone
KINDS: Final[tuple[UsageKind, ...]] = get_args(UsageKind)
_DAY_SECONDS: Final = 86_400
_KEPT_DAYS: Final = 31

_Counts = Counter[tuple[int, str, UsageKind]]


def usage_file(home: Path) -> Path:
    """Return the path of an installation's file."""
    return home / "usage.db"


class Usage:
    """Amounts per key and day (UTC). All methods but `write` are for the event loop."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file at `path`; `clock` returns the Unix time in seconds.

        Raises:
            sqlite3.Error: The file cannot be opened.
            SchemaTooNew: A newer release has written the file.

        """
        self._db = connect(
            path,
            _SCHEMA,
            version=_VERSION,
            synchronous="NORMAL",
            busy_seconds=5,
            migrate=_migrate,
        )
        self._clock = clock
        self._lock = threading.Lock()
        self._new: _Counts = Counter()  # not written yet
        self._writing: _Counts = Counter()  # being written
        self._written = self.write(Counter())

    def close(self) -> None:
        """Write the new counts and close the file."""
        self.write(self._new)
        self._db.close()

    def used(self, key_id: str, kind: UsageKind = "requests") -> int:
        """Return how much a key has used today."""
        entry = (self._today(), key_id, kind)
        return self._written[entry] + self._writing[entry] + self._new[entry]

    def add(self, key_id: str, kind: UsageKind = "requests", amount: int = 1) -> None:
        """Count what a key has used."""
        self._new[self._today(), key_id, kind] += amount

    async def follow(self, seconds: float = 1.0) -> None:
        """Write new counts and read those of other replicas, every `seconds`, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            self._writing, self._new = self._new, Counter()
            try:
                self._written = await asyncio.to_thread(self.write, self._writing)
            except sqlite3.Error as error:
                logger.warning("Cannot write the usage of keys; trying again: %s", error)
                self._new += self._writing
            self._writing = Counter()

    def write(self, new: _Counts) -> _Counts:
        """Add `new` to the counts in the file; return all of today's counts.

        Raises:
            sqlite3.Error: The file cannot be written.

        """
        today = self._today()
        with self._lock:
            if new:
                with transaction(self._db):
                    self._db.executemany(
                        "INSERT INTO amounts VALUES (?, ?, ?, ?) ON CONFLICT (day, key_id, kind) "
                        "DO UPDATE SET used = used + excluded.used",
                        [(*entry, count) for entry, count in new.items()],
                    )
                    self._db.execute("DELETE FROM amounts WHERE day < ?", (today - _KEPT_DAYS,))
            rows = self._db.execute(
                "SELECT key_id, kind, used FROM amounts WHERE day = ?", (today,)
            )
            return Counter({(today, key_id, kind): used for key_id, kind, used in rows})

    def _today(self) -> int:
        return int(self._clock() // _DAY_SECONDS)


def _migrate(db: sqlite3.Connection, _: int) -> None:
    """Take over the counts of requests that earlier releases wrote."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'usage'").fetchone() is None:
        return
    db.execute(_SCHEMA)
    db.execute("INSERT INTO amounts SELECT day, key_id, 'requests', used FROM usage")
    db.execute("DROP TABLE usage")
