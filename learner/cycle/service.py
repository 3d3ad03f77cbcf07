"""The learner service: follows the log and runs a learning cycle when there are enough votes.

One learner works on a home folder at a time (a file lock). Learners that share a Kafka each have
their own home folder; one of them holds the lease, and the others keep their ledgers up to date
and take over when it fails.
"""

import logging
import os
import socket
import threading
import time
from pathlib import Path

import torch

from feedback.control.policies import PolicyFollower
from feedback.home import prepare_home
from feedback.ledger.store import Ledger
from feedback.log.event_log import EventLog, LogUnavailable
from feedback.log.kafka_offsets import OffsetReporter
from feedback.log.kafka_settings import KafkaSettings
from feedback.opening import open_log
from learner.cycle.context import CycleContext
from learner.cycle.lease import FileLease, KafkaLease, Lease
from learner.cycle.metrics import Metrics
from learner.cycle.publishing import Publisher
from learner.cycle.runner import run_cycle
from learner.cycle.state import CycleState, latest_cycle
from learner.cycle.waiting import Expiry, Trials, VoteReader, VoteWatch
from learner.errors import Interrupted
from learner.settings import LearnerSettings

logger = logging.getLogger(__name__)


def run(home: Path, settings: LearnerSettings, stop: threading.Event) -> None:
    """Run the learner until `stop` is set; the next run resumes an interrupted cycle.

    Args:
        home: Home folder, with the log, the ledger, the registry and the learner's state.
        settings: Settings of the learner.
        stop: Set by the caller to stop the learner.

    Raises:
        LearnerError: There is no version 1, or saved state cannot be used.
        HomeUnusable: The home folder cannot be created or written.

    """
    prepare_home(home)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    metrics = Metrics()
    if settings.metrics_port:
        metrics.serve(settings.metrics_host, settings.metrics_port, home)
    metrics.set_gate_bounds(settings.gate)
    metrics.set_stage("standby")
    with FileLease(home / "learner" / "lease.lock") as home_lease:
        if not home_lease.acquire(0):
            logger.info("another learner uses %s; this one waits until it stops", home)
        while not stop.is_set():
            if home_lease.acquire(settings.poll_seconds):
                _run_learner(home, settings, stop, metrics, home_lease)


def _run_learner(
    home: Path,
    settings: LearnerSettings,
    stop: threading.Event,
    metrics: Metrics,
    home_lease: FileLease,
) -> None:
    """Keep the ledger up to date, and run cycles while this learner holds the lease."""
    log = open_log(home)
    ledger = Ledger(home / "ledger.db")
    kafka = KafkaSettings()
    offset_reporter = OffsetReporter(kafka, home) if kafka.servers else None
    follower = _Follower(log, ledger, metrics, settings.poll_seconds, offset_reporter)
    follower.start()
    lease: Lease = KafkaLease(kafka) if kafka.servers else home_lease
    learner = _Learner(home, settings, stop, metrics, log, ledger, follower, lease)
    try:
        while not stop.is_set():
            if lease.acquire(settings.poll_seconds):
                learner.run_cycles()
            follower.raise_if_failed()
    finally:
        lease.close()
        follower.stop_and_join()
        ledger.close()
        log.close()


class _Follower(threading.Thread):
    """Keeps the ledger up to date, also while a cycle runs."""

    def __init__(
        self,
        log: EventLog,
        ledger: Ledger,
        metrics: Metrics,
        poll_seconds: float,
        offset_reporter: OffsetReporter | None = None,
    ) -> None:
        super().__init__(name="ledger-follower", daemon=True)
        self._log = log
        self._ledger = ledger
        self._metrics = metrics
        self._policies = PolicyFollower(log)
        self._poll_seconds = poll_seconds
        self._offset_reporter = offset_reporter
        self._halted = threading.Event()
        self.last_progress = time.monotonic()  # when the ledger last ingested a record
        self.stopped_cleanly = False

    def run(self) -> None:
        while not self._halted.is_set():
            try:
                ingested = self._ledger.follow(self._log)
                self._ledger.mirror_dead_letters(self._log)
                self._ledger.erase_forgotten(self._log)
                # After an empty read there is no lag, even if tombstones follow the last record.
                lag = self._ledger.lag(self._log) if ingested else 0
                self._metrics.set_ledger(lag, self._ledger.counts())
                self._metrics.set_policies(self._policies.poll())
                if self._offset_reporter is not None:
                    self._offset_reporter.show(self._ledger.positions())
            except LogUnavailable as error:
                logger.warning("the log is unavailable, trying again: %s", error)
                ingested = 0
            if ingested:
                self.last_progress = time.monotonic()
            else:
                self._halted.wait(self._poll_seconds)
        if self._offset_reporter is not None:
            self._offset_reporter.close()
        self.stopped_cleanly = True

    def stop_and_join(self) -> None:
        """Stop the thread and wait until it has stopped."""
        self._halted.set()
        self.join()

    def raise_if_failed(self) -> None:
        """Raise an error if the thread no longer follows the log.

        Raises:
            RuntimeError: The thread failed, so no new votes would ever arrive.

        """
        if not self.is_alive() and not self.stopped_cleanly:
            raise RuntimeError("the ledger follower thread failed; see its traceback above")


class _Learner:
    """Decides when a cycle starts, and runs the cycles one after the other."""

    def __init__(
        self,
        home: Path,
        settings: LearnerSettings,
        stop: threading.Event,
        metrics: Metrics,
        log: EventLog,
        ledger: Ledger,
        follower: _Follower,
        lease: Lease,
    ) -> None:
        self._home = home
        self._settings = settings
        self._stop = stop
        self._metrics = metrics
        self._ledger = ledger
        self._follower = follower
        self._lease = lease
        self._publisher = Publisher(home, log, trials=settings.duel.trials)
        self._trials = Trials(
            ledger, self._publisher, metrics, settings.duel, settings.max_owner_votes
        )
        self._votes = VoteReader(
            home, settings, ledger, self._publisher.trusted_owners, self._raise_if_stopped
        )
        self._expiry = Expiry(ledger, log, metrics, settings)
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def _stopped(self) -> bool:
        return self._stop.is_set() or not self._lease.held()

    def _raise_if_stopped(self) -> None:
        if self._stopped():
            raise Interrupted

    def run_cycles(self) -> None:
        """Run cycles until the learner must stop or another learner leads."""
        try:
            self._publisher.claim_leadership(self._name)
            logger.info("this learner (%s) leads", self._name)
            while not self._stopped():
                self._run_next_cycle()
        except LogUnavailable as error:
            logger.warning("the log is unavailable, trying again: %s", error)
            self._stop.wait(self._settings.poll_seconds)
        except Interrupted:
            pass
        if self._stop.is_set():
            logger.info("stopped; the next start resumes from here")
            self._publisher.report_stage("standby")
        elif not self._lease.held():
            logger.warning("another learner leads now; this one stands by")
            self._metrics.set_stage("standby")

    def _run_next_cycle(self) -> None:
        state = run_cycle(
            CycleContext(
                home=self._home,
                state=self._next_cycle(),
                configured=self._settings,
                ledger=self._ledger,
                publisher=self._publisher,
                metrics=self._metrics,
                stopped=self._stopped,
            )
        )
        logger.info("cycle %d ended: %s %s", state.number, state.outcome, "; ".join(state.reasons))

    def _next_cycle(self) -> CycleState:
        """Return the interrupted cycle, or wait for votes and return a new one.

        Raises:
            Interrupted: The learner must stop.

        """
        self._wait_for_trial()
        last = latest_cycle(self._home)
        if last is not None and last.stage != "done":
            logger.info("cycle %d resumes with stage '%s'", last.number, last.stage)
            return last
        return self._wait_for_votes(last)

    def _wait_for_trial(self) -> None:
        """Wait while a version is on trial, since the next cycle starts from the winner.

        Raises:
            Interrupted: The learner must stop.

        """
        while self._trials.advance(self._publisher.state()):
            self._follower.raise_if_failed()
            if self._stop.wait(self._settings.poll_seconds) or self._stopped():
                raise Interrupted

    def _wait_for_votes(self, last: CycleState | None) -> CycleState:
        """Wait for enough votes after those of the last cycle; return the next cycle.

        Raises:
            Interrupted: The learner must stop.

        """
        enough_since: float | None = None
        number, upto = (last.number + 1, last.upto_seq) if last else (1, 0)
        watch = VoteWatch(self._ledger, self._settings, self._votes.look, upto)
        older = self._count_unpublished(last)
        self._report_waiting(watch, older)
        while not (self._stop.wait(self._settings.poll_seconds) or self._stopped()):
            self._follower.raise_if_failed()
            self._expiry.run_if_due()
            policies = self._publisher.state()
            if policies.challenger:
                self._wait_for_trial()
                continue
            max_seq = self._ledger.counts().max_seq
            enough = policies.live > 0 and watch.enough(max_seq)
            self._report_waiting(watch, older)
            if not enough or policies.held:
                continue
            now = time.monotonic()
            enough_since = now if enough_since is None else enough_since
            settled = now - self._follower.last_progress >= self._settings.settle_seconds
            if not settled and now - enough_since < self._settings.patience_seconds:
                continue
            return self._new_cycle(number, policies.live, max_seq)
        raise Interrupted

    def _count_unpublished(self, last: CycleState | None) -> int:
        """Count the votes of earlier cycles that no published version learned from."""
        if last is None or last.outcome == "published":
            return 0
        return self._ledger.count_effective(last.after_seq, last.upto_seq)

    def _report_waiting(self, watch: VoteWatch, older: int) -> None:
        self._metrics.set_stage("waiting")
        needed = watch.needed + older
        self._publisher.report_stage("waiting", votes_needed=needed, reason=watch.reason)

    def _new_cycle(self, number: int, parent: int, upto: int) -> CycleState:
        after = self._publisher.learned_upto(parent)
        forgettings = self._ledger.last_forgetting()  # read before the votes
        return CycleState(
            number=number,
            parent=parent,
            after_seq=after,
            upto_seq=upto,
            forgettings=forgettings,
            trusted_owners=self._publisher.trusted_owners(),
            events=self._ledger.count_effective(after, upto),
        )
