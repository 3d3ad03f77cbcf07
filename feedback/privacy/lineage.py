"""Which version learned from which opinion, told by their positions in the log.

Positions are the same for every reader of a log, whereas the numbers of a ledger are its own.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from feedback.log.events import FORGETTING, RETRACTION
from protos.plaudit.v1.policy_pb2 import Lessons

# Opinions of these kinds teach nothing.
NON_TRAINING_KINDS: Final = frozenset({RETRACTION, FORGETTING, "comment"})


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where an event is in topic `feedback`."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """The events that one version could learn from.

    Attributes:
        next: By partition, the offset that ends them.
        missing: Those before it that nobody could use at the time.

    """

    next: Mapping[int, int] = field(default_factory=dict)
    missing: frozenset[LogPosition] = frozenset()

    @classmethod
    def of(cls, lessons: Iterable[Lessons]) -> "Coverage":
        """Read what a `Published` says."""
        lessons = list(lessons)
        missing = (
            LogPosition(part.partition, offset) for part in lessons for offset in part.missing
        )
        return cls({part.partition: part.next for part in lessons}, frozenset(missing))

    def includes(self, place: LogPosition) -> bool:
        """Tell whether an event was there to learn from."""
        return place.offset < self.next.get(place.partition, 0) and place not in self.missing


@dataclass(frozen=True, slots=True)
class Lineage:
    """What each published version could learn from, the first one first."""

    versions: tuple[tuple[int, Coverage], ...] = ()

    @property
    def last(self) -> Coverage:
        """What the latest version could learn from."""
        return self.versions[-1][1] if self.versions else Coverage()

    def with_version(self, version: int, lessons: Iterable[Lessons]) -> "Lineage":
        """Return the lineage with one more version."""
        coverage = Coverage.of(lessons)
        return self if not coverage.next else Lineage((*self.versions, (version, coverage)))

    def learned_in(self, place: LogPosition, ended: LogPosition | None) -> int | None:
        """Return the first version that learned from an opinion; None: none has.

        Args:
            place: Of the opinion.
            ended: Of what retracted or replaced it, if anything did.

        """
        for version, coverage in self.versions:
            if coverage.includes(place):
                return None if ended is not None and coverage.includes(ended) else version
        return None


def read_coverage(ledger: sqlite3.Connection, upto_seq: int) -> list[Lessons]:
    """Return the positions of what a ledger has numbered up to `upto_seq`, by partition."""
    next_offsets: dict[int, int] = dict(
        ledger.execute(
            "SELECT partition, MAX(offset) + 1 FROM events WHERE seq <= ? GROUP BY partition",
            (upto_seq,),
        ).fetchall()
    )
    missing: dict[int, list[int]] = defaultdict(list)
    rows = ledger.execute(
        "SELECT partition, offset FROM events WHERE seq IS NULL OR seq > ? ORDER BY offset",
        (upto_seq,),
    )
    for partition, offset in rows:
        if offset < next_offsets.get(partition, 0):
            missing[partition].append(offset)
    return [
        Lessons(partition=partition, next=offset, missing=missing[partition])
        for partition, offset in sorted(next_offsets.items())
    ]
