"""Invariants that must hold after every fault, and the table of faults."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feedback.control.policies import current_state
from feedback.log.event_log import EventLog
from protos.plaudit.v1.policy_pb2 import PolicyEvent


@dataclass
class Observed:
    """The final state, observed after recovery and the end of voting.

    A vote is identified by its reason, which the voter makes unique.

    Attributes:
        accepted: Reasons of the votes that were answered with 201 or 200, by event id.
        refused: Answers with a status other than 200, 201 and 503.
        events: Event id and reason of each row of the ledger, without retractions.
        dead: Keys of the dead letters.
        replaced: Votes that their author replaced by a later one, where both were accepted.
        retracted: Votes whose DELETE was answered with 200.
        counted: Votes that the ledger returns as effective.
        positions: Next offset that the ledger reads, by topic and partition.
        ends: End offset of the log, by topic and partition.
        committed: Offsets that Kafka stores for the ledger's group.
        waiting: Number of events that wait for their completion.

    """

    accepted: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    retracted: set[str] = field(default_factory=set)
    counted: list[str] = field(default_factory=list)
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    waiting: int = 0

    @property
    def lost(self) -> set[str]:
        """Event ids that were accepted but are neither in the ledger nor dead letters."""
        return set(self.accepted) - {event_id for event_id, _ in self.events} - set(self.dead)

    @property
    def twice(self) -> set[str]:
        """Votes that the ledger has more than once, under the same event id or different ones."""
        return _more_than_once([reason for _, reason in self.events])

    @property
    def lag(self) -> int:
        """Number of records that the ledger has not read."""
        return sum(end - self.positions.get(at, 0) for at, end in self.ends.items())


def _more_than_once(names: Sequence[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def check(seen: Observed) -> None:
    """Check all invariants."""
    assert not seen.refused, f"votes were refused: {seen.refused[:3]}"
    assert seen.accepted, "nothing was accepted, so the test shows nothing"
    assert not seen.lost, f"{len(seen.lost)} accepted events were lost"
    assert not seen.twice, f"votes are in the ledger twice: {sorted(seen.twice)[:3]}"
    assert seen.lag == 0, f"the ledger stays {seen.lag} records behind"
    assert seen.waiting == 0, f"{seen.waiting} events wait for answers that never came"
    check_offsets(seen.committed, seen.positions)
    counted = set(seen.counted)
    assert not counted & seen.replaced, "a vote counts that its author replaced"
    assert not counted & seen.retracted, "a vote counts that its author took back"
    expected = set(seen.accepted.values()) - seen.replaced - seen.retracted
    assert expected <= counted, f"{len(expected - counted)} votes do not count"


def check_offsets(
    committed: Mapping[tuple[str, int], int], positions: Mapping[tuple[str, int], int]
) -> None:
    """Check that Kafka has no committed offset above the ledger's position."""
    ahead = {at for at, offset in committed.items() if offset > positions.get(at, 0)}
    assert not ahead, f"offsets were committed before the ledger was: {sorted(ahead)}"


def check_publishers(log: EventLog) -> None:
    """Check that every version that counts was published by the leader of that moment."""
    counts = set(current_state(log).published)
    leader, seen = "", set()
    for record in log.read("policies", {}):
        event = PolicyEvent.FromString(record.value)
        if event.WhichOneof("kind") == "leads":
            leader = event.event_id
        elif event.WhichOneof("kind") == "published":
            version = event.published.version
            by_leader = event.published.leader == leader
            if version in counts - seen and (by_leader or not event.published.leader):
                assert by_leader, f"version {version} was published by another than the leader"
                seen.add(version)
    assert seen == counts


@dataclass
class Row:
    """A row of the table of faults."""

    fault: str
    seen: Observed
    seconds: float | None

    def cells(self) -> tuple[str, ...]:
        """Return the printed cells."""
        seen = self.seen
        counts = (seen.accepted, seen.events, seen.dead, seen.twice, seen.lost)
        took = "-" if self.seconds is None else f"{self.seconds:.1f} s"
        return (self.fault, *(str(len(counted)) for counted in counts), took)


HEAD = ("fault", "accepted", "in ledger", "dead letters", "twice", "lost", "recovered in")
TABLE: list[Row] = []


def as_text(rows: Sequence[Row]) -> list[str]:
    """Return the table as lines."""
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    return [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in cells
    ]
