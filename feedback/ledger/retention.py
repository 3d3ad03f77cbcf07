"""Retention: answers that nobody voted on are deleted when they are old, or take too much.

Completions that any feedback refers to are kept: they teach for as long as the feedback exists.
A completion id accepts feedback for 30 days, so nothing of an older answer can be used any more but
its prompt.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_YOUNG_MS: Final = 3_600_000  # an answer that may be voted on right now is never deleted
_UNUSED: Final = """
SELECT completion_id, created_ms, LENGTH(value) FROM completions
WHERE created_ms < ? AND completion_id NOT IN (
    SELECT used.value FROM events, json_each(events.completions) AS used)
ORDER BY arrival
"""


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """How long and how much is kept of answers without feedback.

    Attributes:
        age_ms: Longest age, in milliseconds; 0 for no limit.
        size: Largest size of the ledger's rows, in bytes, for which the oldest go; 0 for no limit.

    """

    age_ms: int
    size: int


def used_bytes(db: sqlite3.Connection) -> int:
    """Return the size of the rows in a file; what was deleted is free for new ones."""
    row = db.execute(
        "SELECT (page_count - freelist_count) * page_size FROM "
        "pragma_page_count(), pragma_freelist_count(), pragma_page_size()"
    ).fetchone()
    return int(row[0])


def expired_completions(db: sqlite3.Connection, limits: RetentionLimits, now_ms: int) -> list[str]:
    """Return the ids of the completions to delete, oldest first."""
    excess = used_bytes(db) - limits.size if limits.size else 0
    oldest_ms = now_ms - limits.age_ms if limits.age_ms else 0
    before_ms = now_ms - _YOUNG_MS if excess > 0 else min(oldest_ms, now_ms - _YOUNG_MS)
    expired = []
    for completion_id, created_ms, size in db.execute(_UNUSED, (before_ms,)):
        if created_ms >= oldest_ms and excess <= 0:
            continue
        expired.append(completion_id)
        excess -= size
    return expired


def delete_completions(db: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Delete completions from the ledger, in the caller's transaction."""
    db.executemany("DELETE FROM completions WHERE completion_id = ?", [(i,) for i in ids])


class Schedule:
    """Says when retention is due: at once, and then after each interval."""

    def __init__(
        self, seconds: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start; `clock` returns a time in seconds."""
        self._seconds = seconds
        self._clock = clock
        self._next = clock()

    def due(self) -> bool:
        """Return whether it is due, and begin the next interval if so."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
