"""What must hold after every fault, and the row that a fault has in the table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feedback.control.policies import current_state
from feedback.log.event_log import EventLog
from protos.plaudit.v1.policy_pb2 import PolicyEvent


@dataclass
class Observed:
    """What came of it all, once everything runs again and nobody votes any more.

    A vote is known by the reason that its voter wrote, which no two votes share.

    Attributes:
        accepted: Reasons of the votes that were answered with 201 or 200, by event id.
        refused: Answers other than these and 503.
        events: Event id and reason of each row of the ledger; retractions left out.
        dead: Keys of the dead letters.
        replaced: Votes that their author replaced by a later one, both accepted.
        retracted: Votes that were taken back, and the DELETE answered with 200.
        counted: Votes that the ledger gives to learn from.
        positions: Where the ledger is, by topic and partition.
        ends: Where the log ends.
        committed: The offsets that Kafka has of the ledger's group.
        waiting: Events that wait for their completion.

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
        """Event ids that were accepted and are nowhere."""
        return set(self.accepted) - {event_id for event_id, _ in self.events} - set(self.dead)

    @property
    def twice(self) -> set[str]:
        """Votes that the ledger has more than once, by the same event id or by another."""
        return _more_than_once([reason for _, reason in self.events])

    @property
    def lag(self) -> int:
        """Records that the ledger has not read."""
        return sum(end - self.positions.get(at, 0) for at, end in self.ends.items())


def _more_than_once(names: Sequence[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def check(seen: Observed) -> None:
    """Fail where an invariant does not hold."""
    assert not seen.refused, f"votes were refused: {seen.refused[:3]}"
    assert seen.accepted, "nothing was accepted, so nothing is shown"
    assert not seen.lost, f"{len(seen.lost)} accepted events were lost"
    assert not seen.twice, f"votes are in the ledger twice: {sorted(seen.twice)[:3]}"
    assert seen.lag == 0, f"the ledger stays {seen.lag} records behind"
    assert seen.waiting == 0, f"{seen.waiting} events wait for answers that never came"
    check_offsets(seen.committed, seen.positions)
    counted = set(seen.counted)
    assert not counted & seen.replaced, "a vote counts that its author replaced"
    assert not counted & seen.retracted, "a vote counts that its author took back"
    should = set(seen.accepted.values()) - seen.replaced - seen.retracted
    assert should <= counted, f"{len(should - counted)} votes do not count"


def check_offsets(
    committed: Mapping[tuple[str, int], int], positions: Mapping[tuple[str, int], int]
) -> None:
    """Fail where Kafka was told of more than the ledger has."""
    ahead = {at for at, offset in committed.items() if offset > positions.get(at, 0)}
    assert not ahead, f"offsets were committed before the ledger was: {sorted(ahead)}"


def check_publishers(log: EventLog) -> None:
    """Fail where a version counts that was not published by who led at that moment."""
    counts = set(current_state(log).published)
    leader, seen = "", set()
    for record in log.read("policies", {}):
        event = PolicyEvent.FromString(record.value)
        if event.WhichOneof("kind") == "leads":
            leader = event.event_id
        elif event.WhichOneof("kind") == "published":
            version = event.published.version
            own = event.published.leader == leader
            if version in counts - seen and (own or not event.published.leader):
                assert own, f"version {version} was published by another than the leader"
                seen.add(version)
    assert seen == counts


@dataclass
class Row:
    """One fault's row of the table."""

    fault: str
    seen: Observed
    seconds: float | None

    def cells(self) -> tuple[str, ...]:
        """Return what is printed."""
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
