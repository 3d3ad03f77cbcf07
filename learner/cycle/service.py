"""The learner as a service: follow the log, and learn whenever there is enough to learn from.

One learner works on a home at a time (a file lock). Of those that share a Kafka, each with a home
of its own, one has the lease; the others keep their ledgers up to date, and take over when it
dies.
"""

import logging
import os
import socket
import threading
import time
from pathlib import Path

import torch

from feedback.control.policies import PolicyFollower
from feedback.ledger.store import Ledger
from feedback.log.event_log import EventLog, LogUnavailable
from feedback.log.kafka_offsets import OffsetReporter
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.opening import open_log
from learner.cycle.lease import FileLease, KafkaLease, Lease
from learner.cycle.metrics import Metrics
from learner.cycle.publishing import Publisher
from learner.cycle.stages import Cycle
from learner.cycle.state import CycleState, latest
from learner.cycle.trial import Trials
from learner.errors import Interrupted
from learner.settings import LearnerSettings

logger = logging.getLogger(__name__)


def run(home: Path, settings: LearnerSettings, stop: threading.Event) -> None:
    """Learn until `stop` is set; whatever is under way then is taken up by the next run.

    Args:
        home: Folder with the log, the ledger, the registry and the learner's own state.

    Raises:
        LearnerError: There is no version 1, or saved state cannot be used.

    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    metrics = Metrics()
    if settings.metrics_port:
        metrics.serve(settings.metrics_host, settings.metrics_port, home)
    metrics.limits(settings.gate)
    metrics.stage("standby")
    with FileLease(home / "learner" / "lease.lock") as own:
        if not own.acquire(0):
            logger.info("another learner works on %s; this one stands by", home)
        while not stop.is_set():
            if own.acquire(settings.poll_seconds):
                _run_learner(home, settings, stop, metrics, own)


def _run_learner(
    home: Path, settings: LearnerSettings, stop: threading.Event, metrics: Metrics, own: FileLease
) -> None:
    """Keep the ledger up to date, and learn while this learner has the lease."""
    log = open_log(home)
    ledger = Ledger(home / "ledger.db")
    kafka = KafkaSettings()
    shown = OffsetReporter(kafka, home) if kafka.servers else None
    follower = _Follower(log, ledger, metrics, settings.poll_seconds, shown)
    follower.start()
    lease: Lease = KafkaLease(kafka) if kafka.servers else own
    learner = _Learner(home, settings, stop, metrics, log, ledger, follower, lease)
    try:
        while not stop.is_set():
            if lease.acquire(settings.poll_seconds):
                learner.lead()
            follower.check()
    finally:
        lease.close()
        follower.stop_and_join()
        ledger.close()
        log.close()


class _Follower(threading.Thread):
    """Keeps the ledger up to date, also while a cycle is under way."""

    def __init__(
        self,
        log: EventLog,
        ledger: Ledger,
        metrics: Metrics,
        poll_seconds: float,
        shown: OffsetReporter | None = None,
    ) -> None:
        super().__init__(name="ledger-follower", daemon=True)
        self._log = log
        self._ledger = ledger
        self._metrics = metrics
        self._policies = PolicyFollower(log)
        self._poll_seconds = poll_seconds
        self._shown = shown
        self._halted = threading.Event()
        self.moved = time.monotonic()  # when the ledger last took something in
        self.ended_well = False

    def run(self) -> None:
        while not self._halted.is_set():
            try:
                taken = self._ledger.follow(self._log)
                self._ledger.mirror_dead_letters(self._log)
                self._ledger.erase_forgotten(self._log)
                # Nothing taken is no lag, also where tombstones follow the last record.
                lag = self._ledger.lag(self._log) if taken else 0
                self._metrics.followed(lag, self._ledger.counts())
                self._metrics.policies(self._policies.poll())
                if self._shown is not None:
                    self._shown.show(self._ledger.positions())
            except LogUnavailable as error:
                logger.warning("the log is away, trying again: %s", error)
                taken = 0
            if taken:
                self.moved = time.monotonic()
            else:
                self._halted.wait(self._poll_seconds)
        if self._shown is not None:
            self._shown.close()
        self.ended_well = True

    def stop_and_join(self) -> None:
        """Stop, and wait until it has."""
        self._halted.set()
        self.join()

    def check(self) -> None:
        """Fail if following has failed: a learner without news would learn nothing for ever."""
        if not self.is_alive() and not self.ended_well:
            raise RuntimeError("following the log has failed; its error stands above")


class _Learner:
    """Decides when a cycle starts, and does them one after the other."""

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
        self._trials = Trials(ledger, self._publisher, metrics, settings.duel)
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def _stopped(self) -> bool:
        return self._stop.is_set() or not self._lease.held()

    def lead(self) -> None:
        """Do cycles until stopped, or until another learner leads."""
        try:
            self._publisher.lead(self._name)
            logger.info("this learner (%s) leads", self._name)
            while not self._stopped():
                self._do_cycle()
        except LogUnavailable as error:
            logger.warning("the log is away, trying again: %s", error)
            self._stop.wait(self._settings.poll_seconds)
        except Interrupted:
            pass
        if self._stop.is_set():
            logger.info("stopped; the next start goes on from here")
            self._publisher.report_stage("standby")
        elif not self._lease.held():
            logger.warning("another learner leads now; this one stands by")
            self._metrics.stage("standby")

    def _do_cycle(self) -> None:
        done = Cycle(
            self._home,
            self._next(),
            settings=self._settings,
            ledger=self._ledger,
            publisher=self._publisher,
            metrics=self._metrics,
            stopped=self._stopped,
        ).run()
        logger.info("cycle %d: %s %s", done.number, done.outcome, "; ".join(done.reasons))

    def _next(self) -> CycleState:
        """Return the cycle that a stop left undone, or wait for the next one.

        Raises:
            Interrupted: The service stops.

        """
        self._wait_for_trial()
        last = latest(self._home)
        if last is not None and last.stage != "done":
            logger.info("cycle %d: going on with %s", last.number, last.stage)
            return last
        self._report_waiting()
        number, upto = (last.number + 1, last.upto_seq) if last else (1, 0)
        return self._wait_for_votes(number, upto)

    def _report_waiting(self) -> None:
        self._metrics.stage("waiting")
        self._publisher.report_stage("waiting")

    def _wait_for_trial(self) -> None:
        """Wait while a version is on trial: what is learned next starts from the one that wins.

        Raises:
            Interrupted: The service stops.

        """
        while self._trials.running(self._publisher.state()):
            self._follower.check()
            if self._stop.wait(self._settings.poll_seconds) or self._stopped():
                raise Interrupted

    def _wait_for_votes(self, number: int, upto: int) -> CycleState:
        enough_since: float | None = None
        while not (self._stop.wait(self._settings.poll_seconds) or self._stopped()):
            self._follower.check()
            policies = self._publisher.state()
            if policies.challenger:
                self._wait_for_trial()
                self._report_waiting()
                continue
            max_seq = self._ledger.counts().max_seq
            if max_seq - upto < self._settings.min_events:
                continue
            if policies.held or policies.live == 0:
                continue
            now = time.monotonic()
            enough_since = now if enough_since is None else enough_since
            settled = now - self._follower.moved >= self._settings.settle_seconds
            if not settled and now - enough_since < self._settings.patience_seconds:
                continue
            if len(self._ledger.effective_events(upto, max_seq)) < self._settings.min_events:
                continue
            after = self._publisher.learned_upto(policies.live)
            forgettings = self._ledger.last_forgetting()  # before the opinions are looked at
            return CycleState(
                number=number,
                parent=policies.live,
                after_seq=after,
                upto_seq=max_seq,
                forgettings=forgettings,
                events=len(self._ledger.effective_events(after, max_seq)),
            )
        raise Interrupted
