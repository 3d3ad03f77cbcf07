"""Lineage: which version learned from which feedback, by positions in the log.

Positions are the same for every reader of a log, unlike the sequence numbers of a ledger.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from feedback.log.events import FORGETTING, RETRACTION
from protos.plaudit.v1.policy_pb2 import Lessons

# Events of these kinds are not votes: no policy learns from them.
NON_TRAINING_KINDS: Final = frozenset({RETRACTION, FORGETTING, "comment"})


@dataclass(frozen=True, slots=True)
class LogPosition:
    """The position of an event in topic `feedback`."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """The events that one version could learn from.

    Attributes:
        next: Offset after the last covered event, by partition.
        missing: Positions before `next` whose events could not be used at the time.

    """

    next: Mapping[int, int] = field(default_factory=dict)
    missing: frozenset[LogPosition] = frozenset()

    @classmethod
    def of(cls, lessons: Iterable[Lessons]) -> "Coverage":
        """Convert the field `lessons` of a `Published`."""
        lessons = list(lessons)
        missing = (
            LogPosition(part.partition, offset) for part in lessons for offset in part.missing
        )
        return cls({part.partition: part.next for part in lessons}, frozenset(missing))

    def includes(self, position: LogPosition) -> bool:
        """Return whether the version could learn from the event at `position`."""
        offset, end = position.offset, self.next.get(position.partition, 0)
        return offset < end and position not in self.missing


@dataclass(frozen=True, slots=True)
class Lineage:
    """The coverage of each published version, oldest first."""

    versions: tuple[tuple[int, Coverage], ...] = ()

    @property
    def last(self) -> Coverage:
        """The coverage of the latest version."""
        return self.versions[-1][1] if self.versions else Coverage()

    def with_version(self, version: int, lessons: Iterable[Lessons]) -> "Lineage":
        """Return the lineage with one more version."""
        coverage = Coverage.of(lessons)
        return self if not coverage.next else Lineage((*self.versions, (version, coverage)))

    def learned_in(self, position: LogPosition, ended: LogPosition | None) -> int | None:
        """Return the first version that learned from an event; None if none has.

        Args:
            position: Position of the event.
            ended: Position of the event that retracted or superseded it, if any.

        """
        for version, coverage in self.versions:
            if coverage.includes(position):
                return None if ended is not None and coverage.includes(ended) else version
        return None


def read_coverage(ledger: sqlite3.Connection, upto_seq: int) -> list[Lessons]:
    """Return the coverage of a ledger's events numbered up to `upto_seq`, by partition."""
    next_offsets: dict[int, int] = dict(
        ledger.execute(
            "SELECT partition, MAX(offset) + 1 FROM events WHERE seq <= ? GROUP BY partition",
            (upto_seq,),
        ).fetchall()
    )
    missing: dict[int, list[int]] = defaultdict(list)
    rows = ledger.execute(
        "SELECT partition, offset FROM events WHERE seq IS NULL OR seq > ? OR dead = 1 "
        "ORDER BY offset",
        (upto_seq,),
    )
    for partition, offset in rows:
        if offset < next_offsets.get(partition, 0):
            missing[partition].append(offset)
    return [
        Lessons(partition=partition, next=offset, missing=missing[partition])
        for partition, offset in sorted(next_offsets.items())
    ]
