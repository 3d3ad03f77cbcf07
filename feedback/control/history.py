"""What people are told of the policy events: versions, refusals, the loop, keys, who did what.

A fold, as the state itself is (`feedback.control.policies`); one for each process that shows it.
"""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from feedback.control.audit import AuditEntry, audit_entry
from feedback.control.keys import KeyRing
from feedback.control.policies import PolicyFollower, PolicyState
from feedback.log.event_log import EventLog
from feedback.privacy.lineage import Lineage
from protos.plaudit.v1.policy_pb2 import PolicyEvent

_MAX_REFUSALS: Final = 20
_MAX_FAILURES: Final = 20
_MAX_AUDIT_ENTRIES: Final = 1000


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version that counts.

    Attributes:
        created_ms: When it was published.
        votes: Opinions that it learned from and its ancestors did not, by kind.

    """

    version: int
    parent: int
    created_ms: int
    votes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A candidate that the gate kept back."""

    parent: int
    created_ms: int
    reasons: tuple[str, ...]
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LearnerStatus:
    """Where the learner that leads is.

    Attributes:
        stage: See `Stage` in policy.proto; "unknown" where no learner has said.
        since_ms: When the stage began.

    """

    stage: str = "unknown"
    cycle: int = 0
    since_ms: int = 0
    iteration: int = 0
    iterations: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A replica could not load a version."""

    created_ms: int
    replica: str
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class HistorySnapshot:
    """What the events up to some point tell; the tuples begin with the oldest.

    Attributes:
        deeds: Who did what, the latest 1,000.

    """

    state: PolicyState
    publications: Mapping[int, PublishedVersion]
    refused: tuple[Refusal, ...]
    failures: tuple[Failure, ...]
    audit_entries: tuple[AuditEntry, ...]
    learner_status: LearnerStatus
    lineage: Lineage
    keys: KeyRing


class History(PolicyFollower):
    """Follows topic `policies`; any thread may poll and look."""

    def __init__(self, log: EventLog) -> None:
        """Follow `log`; nothing is read before the first `poll`."""
        super().__init__(log)
        self._lock = threading.Lock()
        self._publications: dict[int, PublishedVersion] = {}
        self._refused: deque[Refusal] = deque(maxlen=_MAX_REFUSALS)
        self._failures: deque[Failure] = deque(maxlen=_MAX_FAILURES)
        self._audit_entries: deque[AuditEntry] = deque(maxlen=_MAX_AUDIT_ENTRIES)
        self._learner_status = LearnerStatus()
        self.lineage = Lineage()
        self.keys = KeyRing()

    def poll(self) -> PolicyState:
        """Read what is new, and give the state after it.

        Raises:
            LogUnavailable: The log did not give its records; what came before is kept.

        """
        with self._lock:
            return super().poll()

    def snapshot(self) -> HistorySnapshot:
        """Return what was read so far."""
        with self._lock:
            return HistorySnapshot(
                self.state,
                dict(self._publications),
                tuple(self._refused),
                tuple(self._failures),
                tuple(self._audit_entries),
                self._learner_status,
                self.lineage,
                self.keys,
            )

    def _fold(self, event: PolicyEvent) -> None:
        before = self.state
        super()._fold(event)
        deed = audit_entry(event, before, self.state)
        if deed is not None:
            self._audit_entries.append(deed)
        match event.WhichOneof("kind"):
            case "published":
                self._publish(event, before)
            case "refused":
                told = event.refused
                self._refused.append(
                    Refusal(told.parent, event.created_ms, tuple(told.reasons), dict(told.gate))
                )
            case "swap_failed":
                failed = event.swap_failed
                self._failures.append(
                    Failure(event.created_ms, failed.replica, failed.version, failed.reason)
                )
            case "leads":
                self._learner_status = LearnerStatus()  # what the one before said is over
            case "stage":
                self._update_learner_status(event)
            case "key_made":
                self.keys = self.keys.add_key(event.key_made, event.created_ms)
            case "key_revoked":
                self.keys = self.keys.revoke(event.key_revoked, event.created_ms)

    def _publish(self, event: PolicyEvent, before: PolicyState) -> None:
        if self.state.published == before.published:
            return  # it does not count
        told = event.published
        self._publications[told.version] = PublishedVersion(
            told.version, told.parent, event.created_ms, dict(told.votes)
        )
        self.lineage = self.lineage.with_version(told.version, told.lessons)

    def _update_learner_status(self, event: PolicyEvent) -> None:
        told = event.stage
        if told.leader != self.state.leader:
            return
        at = LearnerStatus(
            told.stage, told.cycle, event.created_ms, told.iteration, told.iterations
        )
        same = (at.stage, at.cycle) == (self._learner_status.stage, self._learner_status.cycle)
        self._learner_status = replace(at, since_ms=self._learner_status.since_ms) if same else at
