"""The history of the policies: published versions, refusals, learner status, keys, audit trail.

Like the policy state (`feedback.control.policies`), it is a fold over the policy events; each
process that shows it keeps its own.
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
    """A published version.

    Attributes:
        version: Version number.
        parent: Version that it was trained from; 0 for none.
        created_ms: Time of publishing in milliseconds since the epoch.
        votes: Number of votes that it learned from and its ancestors did not, by kind.

    """

    version: int
    parent: int
    created_ms: int
    votes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A candidate policy that the gate refused."""

    parent: int
    created_ms: int
    reasons: tuple[str, ...]
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LearnerStatus:
    """What the leading learner is doing.

    Attributes:
        stage: Current stage, see `Stage` in policy.proto; "unknown" if none was reported.
        cycle: Number of the cycle; 0 between cycles.
        since_ms: Start of the stage in milliseconds since the epoch.
        iteration: PPO iterations done.
        iterations: PPO iterations planned.
        votes_needed: Estimated number of votes, of those that the live version did not learn
            from, at which the next cycle starts; 0 if unknown.
        reason: Why there are not enough votes yet, as a sentence; empty if unknown.

    """

    stage: str = "unknown"
    cycle: int = 0
    since_ms: int = 0
    iteration: int = 0
    iterations: int = 0
    votes_needed: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of a replica to load a version."""

    created_ms: int
    replica: str
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class HistorySnapshot:
    """The history as of some policy event; tuples are ordered oldest first.

    Attributes:
        state: Policy state.
        publications: Published versions by number.
        refused: Latest candidate policies that the gate refused.
        failures: Latest failures of replicas to load a version.
        audit_entries: Latest 1,000 entries of the audit trail.
        learner_status: What the leading learner is doing.
        lineage: Which feedback each version learned from.
        keys: API keys.

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
    """Follows topic `policies`. Any thread may poll it and read it."""

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
        """Ingest new events and return the state after them.

        Raises:
            LogUnavailable: The log did not return its records; earlier events are kept.

        """
        with self._lock:
            return super().poll()

    def snapshot(self) -> HistorySnapshot:
        """Return the history of the events ingested so far."""
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
        entry = audit_entry(event, before, self.state)
        if entry is not None:
            self._audit_entries.append(entry)
        match event.WhichOneof("kind"):
            case "published":
                self._publish(event, before)
            case "refused":
                refused = event.refused
                self._refused.append(
                    Refusal(
                        refused.parent,
                        event.created_ms,
                        tuple(refused.reasons),
                        dict(refused.gate),
                    )
                )
            case "swap_failed":
                failed = event.swap_failed
                self._failures.append(
                    Failure(event.created_ms, failed.replica, failed.version, failed.reason)
                )
            case "leads":
                self._learner_status = LearnerStatus()  # forget what the previous leader reported
            case "stage":
                self._update_learner_status(event)
            case "key_made":
                self.keys = self.keys.add_key(event.key_made, event.created_ms)
            case "key_revoked":
                self.keys = self.keys.revoke(event.key_revoked, event.created_ms)

    def _publish(self, event: PolicyEvent, before: PolicyState) -> None:
        if self.state.published == before.published:
            return  # it has no effect
        published = event.published
        self._publications[published.version] = PublishedVersion(
            published.version, published.parent, event.created_ms, dict(published.votes)
        )
        self.lineage = self.lineage.with_version(published.version, published.lessons)

    def _update_learner_status(self, event: PolicyEvent) -> None:
        stage = event.stage
        if stage.leader != self.state.leader:
            return
        old = self._learner_status
        new = LearnerStatus(
            stage.stage,
            stage.cycle,
            event.created_ms,
            stage.iteration,
            stage.iterations,
            stage.votes_needed,
            stage.reason,
        )
        same_stage = (new.stage, new.cycle) == (old.stage, old.cycle)
        self._learner_status = replace(new, since_ms=old.since_ms) if same_stage else new
