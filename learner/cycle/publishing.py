"""Handing a candidate over: registry first, then the event, each step safe to repeat."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from feedback.control.policies import PolicyFollower, PolicyState, append_policy_event
from feedback.failpoints import failpoint
from feedback.log.event_log import EventLog, LogUnavailable
from learner.cycle.state import CycleState
from learner.errors import LeadershipLost
from learner.gate.duel import TrialResult
from learner.models.adapters import is_adapter
from protos.checkpoints.registry import VersionTaken
from protos.checkpoints.shared_registry import open_registry
from protos.plaudit.v1.checkpoint_pb2 import LedgerRange
from protos.plaudit.v1.policy_pb2 import DuelEnded, Leads, Lessons, Published, Refused, Stage

logger = logging.getLogger(__name__)

_REPORT_SECONDS: Final = 3.0  # between two words on how far a stage has come
_BACKOFF_SECONDS: Final = 60.0  # of silence where the log was away


class Publisher:
    """Publishes candidates of one home, and knows which policy is live."""

    def __init__(self, home: Path, log: EventLog, *, trials: bool = True) -> None:
        """Publish to the home's registry and to `log`.

        Args:
            home: Folder of the installation.
            log: Where policy events are.
            trials: An adapter goes on trial against the live version; else it goes live at once.

        """
        self._registry = open_registry(home)
        self._log = log
        self._follower = PolicyFollower(log)
        self._trials = trials
        self._leader = ""
        self._told: tuple[str, int] = ("", 0)  # stage and cycle
        self._told_at = 0.0
        self._quiet_until = 0.0

    def lead(self, learner: str) -> None:
        """Say that this learner has the lease; what others publish from now on does not count.

        Raises:
            LogUnavailable: It may or may not be known; say it again.

        """
        self._leader = append_policy_event(self._log, Leads(learner=learner)).event_id
        self._told = ("", 0)

    def report_stage(
        self, stage: str, cycle: int = 0, iteration: int = 0, iterations: int = 0
    ) -> None:
        """Tell people where the learner is: once a stage, then how far it has come, now and then.

        Nothing hangs on it, so a log that is away is none of the caller's business; it is asked
        again after a minute, so that training does not wait for it time and again.
        """
        now = time.monotonic()
        new = (stage, cycle) != self._told
        if now < self._quiet_until or not (new or iteration):
            return
        if not new and now - self._told_at < _REPORT_SECONDS:
            return
        told = Stage(
            stage=stage,
            cycle=cycle,
            iteration=iteration,
            iterations=iterations,
            leader=self._leader,
        )
        try:
            append_policy_event(self._log, told)
        except LogUnavailable as error:
            self._quiet_until = time.monotonic() + _BACKOFF_SECONDS
            logger.warning("nobody is told of stage '%s': %s", stage, error)
        else:
            self._told, self._told_at = (stage, cycle), now

    def state(self) -> PolicyState:
        """Return what the policy events say now.

        Raises:
            LogUnavailable: The log did not give its records.

        """
        return self._follower.poll()

    def learned_upto(self, version: int) -> int:
        """Return the last ledger row that a version learned from; 0 for the first."""
        return int(self._registry.manifest(version).learned_from.to_seq)

    def weights_of(self, version: int) -> int:
        """Return the version that holds a version's full weights: under an adapter, or itself."""
        return int(self._registry.manifest(version).adapter_base) or version

    def has(self, version: int) -> bool:
        """Tell whether the registry has a version, made known or not."""
        return version > 0 and version in self._registry.versions()

    def base(self) -> str:
        """Return what the family of policies descends from."""
        return str(self._registry.manifest(1).base)

    def next_version(self) -> int:
        """Return a number above all that were ever published."""
        return max([0, *self._registry.versions(), *self.state().published]) + 1

    def wait_while_held(self, stopped: Callable[[], bool], poll_seconds: float) -> bool:
        """Wait until publishing is not held; false where it was stopped."""
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
        lessons: Sequence[Lessons] = (),
        votes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Publish as `cycle.version`, and say so; does what a crash left undone.

        Args:
            candidate: Model folder.
            cycle: That made it.
            lessons: Where in the log is what it learned from.
            votes: What of that its ancestors did not learn from, by kind.

        Raises:
            Overtaken: Another learner leads now, or published that version.
            LogUnavailable: The event may or may not be in the log; publish again.

        """
        if cycle.version not in self._registry.versions():
            self._put_into_registry(candidate, cycle)
        failpoint("learner.published")
        if cycle.version in self.state().published:
            return
        append_policy_event(
            self._log,
            Published(
                version=cycle.version,
                parent=cycle.parent,
                leader=self._leader,
                trial=self._goes_on_trial(cycle.version),
                lessons=lessons,
                votes=votes,
            ),
        )
        failpoint("learner.announced")
        if cycle.version not in self.state().published:
            raise LeadershipLost(
                f"version {cycle.version} does not count: another learner leads now"
            )

    def _goes_on_trial(self, version: int) -> bool:
        """Tell whether replicas can serve a version beside the live one: an adapter of its base."""
        adapter_base, live = self._registry.manifest(version).adapter_base, self.state().live
        if not self._trials or not adapter_base or not live:
            return False
        return bool(adapter_base == (self._registry.manifest(live).adapter_base or live))

    def end_duel(self, policies: PolicyState, standing: TrialResult) -> None:
        """Say what becomes of the version on trial.

        Raises:
            LogUnavailable: The event may or may not be in the log; say it again.

        """
        append_policy_event(
            self._log,
            DuelEnded(
                version=policies.challenger,
                against=policies.live,
                promoted=bool(standing.promoted),
                wins=standing.wins,
                losses=standing.losses,
                ties=standing.ties,
                reason=standing.reason,
                leader=self._leader,
            ),
        )

    def _put_into_registry(self, candidate: Path, cycle: CycleState) -> None:
        try:
            self._registry.publish(
                candidate,
                version=cycle.version,
                parent=cycle.parent,
                base=self.base(),
                learned_from=LedgerRange(
                    from_seq=cycle.after_seq,
                    to_seq=cycle.upto_seq,
                    events=cycle.events,
                    forgettings=cycle.forgettings,
                ),
                gate=cycle.figures,
                adapter_base=self.weights_of(cycle.parent) if is_adapter(candidate) else 0,
            )
        except VersionTaken as error:
            raise LeadershipLost(str(error)) from error

    def refuse(self, cycle: CycleState) -> None:
        """Say that the gate kept a candidate back, and why (again, after a crash in between)."""
        append_policy_event(
            self._log, Refused(parent=cycle.parent, reasons=cycle.reasons, gate=cycle.figures)
        )
