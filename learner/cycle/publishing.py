"""Publishes candidates: first to the registry, then as a policy event.

Every step can be repeated after a crash.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from feedback.control.history import History
from feedback.control.policies import PolicyState, append_policy_event
from feedback.failpoints import failpoint
from feedback.log.event_log import EventLog, LogUnavailable
from feedback.registry import open_registry
from learner.cycle.state import CycleState
from learner.errors import LeadershipLost
from learner.gate.duel import TrialResult
from learner.models.adapters import is_adapter
from protos.checkpoints.folder_registry import file_digests
from protos.checkpoints.registry import VersionTaken
from protos.plaudit.v1.checkpoint_pb2 import LedgerRange
from protos.plaudit.v1.policy_pb2 import DuelEnded, Leads, Lessons, Published, Refused, Stage

logger = logging.getLogger(__name__)

_REPORT_SECONDS: Final = 3.0  # between two reports of the progress within a stage
_NO_STAGE: Final = ("", 0, 0, "")  # stage, cycle, votes needed and why
_BACKOFF_SECONDS: Final = 60.0  # without reports after the log was unavailable


class Publisher:
    """Writes the policy events of one learner and publishes its candidates."""

    def __init__(self, home: Path, log: EventLog, *, trials: bool = True) -> None:
        """Publish to the registry of `home` and to `log`.

        Args:
            home: Home folder.
            log: Log of the policy events.
            trials: Put adapters on trial against the live version; otherwise they go live at once.

        """
        self._registry = open_registry(home)
        self._log = log
        self._follower = History(log)
        self._trials = trials
        self._leader = ""
        self._last_stage = _NO_STAGE
        self._last_report_time = 0.0
        self._quiet_until = 0.0

    def claim_leadership(self, learner: str) -> None:
        """Announce that this learner has the lease; versions that others publish are now ignored.

        Raises:
            LogUnavailable: The event may or may not be in the log; call this again.

        """
        self._leader = append_policy_event(self._log, Leads(learner=learner)).event_id
        self._last_stage = _NO_STAGE

    def report_stage(
        self,
        stage: str,
        cycle: int = 0,
        iteration: int = 0,
        iterations: int = 0,
        *,
        votes_needed: int = 0,
        reason: str = "",
    ) -> None:
        """Report the learner's stage: once when it begins, then its progress every few seconds.

        Votes needed, with the reason, are reported whenever they change.

        Reports are best-effort. If the log is unavailable, they are dropped for a minute, so that
        training does not wait for the log again and again.
        """
        now = time.monotonic()
        current = (stage, cycle, votes_needed, reason)
        new = current != self._last_stage
        if now < self._quiet_until or not (new or iteration):
            return
        if not new and now - self._last_report_time < _REPORT_SECONDS:
            return
        event = Stage(
            stage=stage,
            cycle=cycle,
            iteration=iteration,
            iterations=iterations,
            leader=self._leader,
            votes_needed=votes_needed,
            reason=reason,
        )
        try:
            append_policy_event(self._log, event)
        except LogUnavailable as error:
            self._quiet_until = time.monotonic() + _BACKOFF_SECONDS
            logger.warning(
                "stage '%s' was not reported, because the log is unavailable: %s", stage, error
            )
        else:
            self._last_stage, self._last_report_time = current, now

    def state(self) -> PolicyState:
        """Return the current state of the policies, by their events.

        Raises:
            LogUnavailable: The log could not be read.

        """
        return self._follower.poll()

    def trusted_owners(self) -> frozenset[str]:
        """Return the owners whose users are trusted, as of the last `state`."""
        return self._follower.keys.trusted_owners()

    def learned_upto(self, version: int) -> int:
        """Return the last ledger row that a version learned from; 0 for version 1."""
        return int(self._registry.manifest(version).learned_from.to_seq)

    def base_version(self, version: int) -> int:
        """Return the version with the full weights: the base of an adapter, or the version."""
        return int(self._registry.manifest(version).adapter_base) or version

    def has_version(self, version: int) -> bool:
        """Return whether the registry has a version, announced or not."""
        return version > 0 and version in self._registry.versions()

    def base_model(self) -> str:
        """Return the model that the family of policies descends from."""
        return str(self._registry.manifest(1).base)

    def next_version(self) -> int:
        """Return a version number above all published ones."""
        return max([0, *self._registry.versions(), *self.state().published]) + 1

    def wait_while_held(self, stopped: Callable[[], bool], poll_seconds: float) -> bool:
        """Wait until publishing is not on hold; return False if the learner must stop."""
        while self.state().held:
            if stopped():
                return False
            time.sleep(poll_seconds)
        return not stopped()

    def publish(
        self,
        candidate: Path,
        cycle: CycleState,
        *,
        coverage: Sequence[Lessons] = (),
        votes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Publish a candidate as version `cycle.version`, or finish publishing it after a crash.

        Args:
            candidate: Folder of the candidate's checkpoint.
            cycle: State of the cycle that trained it.
            coverage: Log offsets of the feedback that the version learned from.
            votes: Number of votes that the version learned from and its ancestors did not, by
                kind.

        Raises:
            LeadershipLost: Another learner leads now or has published this version.
            LogUnavailable: The event may or may not be in the log; call this again.

        """
        if cycle.version not in self._registry.versions():
            self._add_to_registry(candidate, cycle)
        elif not self._has_weights_of(candidate, cycle.version):
            raise LeadershipLost(f"another learner published version {cycle.version}")
        failpoint("learner.published")
        if cycle.version in self.state().published:
            return
        event = Published(
            version=cycle.version,
            parent=cycle.parent,
            leader=self._leader,
            trial=self._goes_on_trial(cycle.version),
            lessons=coverage,
            votes=votes,
        )
        append_policy_event(self._log, event)
        failpoint("learner.announced")
        if cycle.version not in self.state().published:
            raise LeadershipLost(
                f"version {cycle.version} was not accepted, because another learner leads now"
            )

    def _has_weights_of(self, candidate: Path, version: int) -> bool:
        """Return whether a version in the registry has the candidate's weights."""
        weights = {
            digest.path: digest.sha256
            for digest in self._registry.manifest(version).files
            if digest.path.endswith(".safetensors")
        }
        return weights == {
            digest.path: digest.sha256
            for digest in file_digests(candidate)
            if digest.path.endswith(".safetensors")
        }

    def _goes_on_trial(self, version: int) -> bool:
        """Return whether a version goes on trial: an adapter on the same base as the live one."""
        adapter_base, live = self._registry.manifest(version).adapter_base, self.state().live
        if not self._trials or not adapter_base or not live:
            return False
        return bool(adapter_base == (self._registry.manifest(live).adapter_base or live))

    def end_trial(self, policies: PolicyState, result: TrialResult) -> None:
        """Announce whether the version on trial is promoted or rolled back.

        Raises:
            LogUnavailable: The event may or may not be in the log; call this again.

        """
        append_policy_event(
            self._log,
            DuelEnded(
                version=policies.challenger,
                against=policies.live,
                promoted=bool(result.promoted),
                wins=result.wins,
                losses=result.losses,
                ties=result.ties,
                reason=result.reason,
                leader=self._leader,
            ),
        )

    def _add_to_registry(self, candidate: Path, cycle: CycleState) -> None:
        try:
            self._registry.publish(
                candidate,
                version=cycle.version,
                parent=cycle.parent,
                base=self.base_model(),
                learned_from=LedgerRange(
                    from_seq=cycle.after_seq,
                    to_seq=cycle.upto_seq,
                    events=cycle.events,
                    forgettings=cycle.forgettings,
                ),
                gate=cycle.figures,
                adapter_base=self.base_version(cycle.parent) if is_adapter(candidate) else 0,
            )
        except VersionTaken as error:
            raise LeadershipLost(str(error)) from error

    def refuse(self, parent: int, *, reasons: Sequence[str], figures: Mapping[str, float]) -> None:
        """Announce that the gate refused a candidate; after a crash it may be announced twice.

        Args:
            parent: Version that the cycle started from.
            reasons: Reasons of the gate.
            figures: Figures of the cycle.

        """
        append_policy_event(self._log, Refused(parent=parent, reasons=reasons, gate=figures))
