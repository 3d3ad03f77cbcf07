"""Deletion of old reports from topic `policies`, so that a start does not read them all.

Learners report every stage and iteration, replicas every version that they serve, and only the
latest reports matter. Without the others the topic has the decisions: versions, holds, keys.
"""

from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from feedback.log.event_log import EventLog, RecordKey
from protos.plaudit.v1.policy_pb2 import PolicyEvent

_KEPT_MS: Final = 86_400_000


@dataclass
class _Reports:
    """The reports of one learner's or replica's kind, oldest first, as (key, time, report)."""

    events: list[tuple[str, int, object]] = field(default_factory=list)

    def superseded(self, before_ms: int) -> list[str]:
        """Remove the old reports that a later one of another kind supersedes; return their keys.

        Reports equal to the latest stay: the first of them says since when.
        """
        latest = self.events[-1][2]
        start = len(self.events)
        while start and self.events[start - 1][2] == latest:
            start -= 1
        old = [key for key, created_ms, _ in self.events[:start] if created_ms < before_ms]
        gone = set(old)
        self.events = [event for event in self.events if event[0] not in gone]
        return old


class ReportPruner:
    """Follows topic `policies` and deletes superseded reports. For one thread."""

    def __init__(self, log: EventLog) -> None:
        """Follow `log`; nothing is read before the first `run`."""
        self._log = log
        self._positions: dict[int, int] = {}
        self._stages = _Reports()
        self._replicas: dict[str, _Reports] = {}

    def run(self, now_ms: int) -> int:
        """Delete superseded reports that are more than a day old; return their number.

        Raises:
            LogUnavailable: Some may be deleted and others not; the rest goes after a restart.

        """
        self._read()
        before_ms = now_ms - _KEPT_MS
        old: list[str] = []
        for reports in (self._stages, *self._replicas.values()):
            if reports.events:
                old += reports.superseded(before_ms)
        for name, reports in list(self._replicas.items()):
            key, created_ms, version = reports.events[-1]
            if version == 0 and created_ms < before_ms and len(reports.events) == 1:
                old.append(key)  # a replica that has ended
                del self._replicas[name]
        self._log.expire("policies", [RecordKey(key) for key in old])
        return len(old)

    def _read(self) -> None:
        while records := self._log.read("policies", self._positions):
            for record in records:
                self._positions[record.partition] = record.offset + 1
                self._note(record.value)

    def _note(self, value: bytes) -> None:
        try:
            event = PolicyEvent.FromString(value)
        except DecodeError:
            return
        match event.WhichOneof("kind"):
            case "stage":
                stage = event.stage
                report = (stage.leader, stage.stage, stage.cycle)
                self._stages.events.append((event.event_id, event.created_ms, report))
            case "swapped":
                replica = self._replicas.setdefault(event.swapped.replica, _Reports())
                replica.events.append((event.event_id, event.created_ms, event.swapped.version))
