"""An app, a ledger follower and voters, on which a fault test acts and whose state it checks."""

import contextlib
import os
import random
import resource
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
from kafka import KafkaAdminClient

from deploy.local.broker import Broker
from feedback.ledger.store import FOLLOWED_TOPICS, Ledger
from feedback.log.kafka_offsets import group_of
from feedback.log.kafka_settings import KafkaSettings
from feedback.opening import open_log
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from tests.support.faults.checks import TABLE, Observed, Row, check, check_offsets
from tests.support.faults.follower import follow
from tests.support.faults.voters import Voter
from tests.support.forks import FORKS
from tests.support.servers import free_port

VOTERS = 6
KAFKA = {
    "APPEND_SECONDS": "3",
    "READ_SECONDS": "3",
    "CONNECT_SECONDS": "5",
    "METADATA_SECONDS": "3",
}


def wait_until(what: str, seconds: float, condition: object) -> float:
    """Wait for a condition; return the seconds until it held."""
    started = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < started + seconds, what
        time.sleep(0.02)
    return time.monotonic() - started


class FaultHarness:
    """A home folder, its app, its follower and voters; failpoints can be armed while they run."""

    def __init__(self, home: Path, broker: Broker | None, seed: int) -> None:
        home.mkdir(parents=True)
        self.home = home
        self.rng = random.Random(seed)
        self.environment: dict[str, str] = {}
        if broker is not None:
            settings = {"SERVERS": broker.address, "PREFIX": f"t{uuid.uuid4().hex[:8]}", **KAFKA}
            self.environment = {f"PLAUDIT_KAFKA_{name}": value for name, value in settings.items()}
        self.port = free_port()
        self.app: subprocess.Popen[bytes] | None = None
        self.follower: BaseProcess | None = None
        self.voters: list[Voter] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kafka(self) -> KafkaSettings:
        values = {k.removeprefix("PLAUDIT_KAFKA_").lower(): v for k, v in self.environment.items()}
        return KafkaSettings.model_validate(values)

    def start_app(self) -> None:
        """Start the app without waiting until it is ready."""
        with (self.home / "app.txt").open("ab") as output:
            self.app = subprocess.Popen(
                [sys.executable, "-m", "tests.support.faults.app", str(self.home), str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment, **self._failpoints("app")},
            )

    def start_follower(self) -> None:
        """Start the follower."""
        environment = {**self.environment, **self._failpoints("follower")}
        self.follower = FORKS.Process(target=follow, args=(self.home, environment))
        self.follower.start()

    def _failpoints(self, who: str) -> dict[str, str]:
        return {"PLAUDIT_FAILPOINTS": str(self.home / f"{who}.failpoints")}

    def arm(self, who: str, failpoint: str) -> None:
        """Arm a failpoint in the app or the follower, running or not."""
        pending = self.home / "failpoints.new"
        pending.write_text(f"{failpoint}\n")
        pending.rename(self.home / f"{who}.failpoints")

    def step_clock(self, seconds: int) -> None:
        """Offset the app's clock by `seconds`."""
        (self.home / "clock").write_text(str(seconds))

    def fill_disk(self) -> None:
        """Stop all files of the app and the follower from growing, so that most writes fail."""
        self._limit_files(1)

    def free_disk(self) -> None:
        """Let files grow again, and restart the follower if it died."""
        self._limit_files(resource.RLIM_INFINITY)
        assert self.follower is not None
        if not self.follower.is_alive():
            self.start_follower()

    def _limit_files(self, size: int) -> None:
        assert self.app is not None
        assert self.follower is not None
        for pid in (self.app.pid, self.follower.pid or 0):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def new_partitions(self, before: int) -> bool:
        """Return whether feedback was written to a partition with the number `before` or higher."""
        return any(topic == "feedback" and number >= before for topic, number in self.ends())

    def up(self) -> bool:
        """Return whether the app answers."""
        assert self.app is not None
        assert self.app.poll() is None, (self.home / "app.txt").read_text()[-3000:]
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/openapi.json", timeout=1).status_code == 200
        return False

    def vote(self, hurried_share: float, duplicate_share: float) -> None:
        """Start the voters, and wait until a vote reaches the ledger."""
        wait_until("the app does not start", 90, self.up)
        seeds = [self.rng.randrange(2**32) for _ in range(VOTERS)]
        self.voters = [
            Voter(self.url, i, s, hurried_share, duplicate_share) for i, s in enumerate(seeds)
        ]
        for voter in self.voters:
            voter.start()
        self.wait_for_recovery(time.monotonic(), 60)

    def accepted(self) -> dict[str, tuple[float, str]]:
        """Return the time of acceptance and the reason of each accepted vote, by event id."""
        return {k: v for voter in self.voters for k, v in dict(voter.accepted).items()}

    def wait_for_recovery(self, since: float, seconds: float = 40.0) -> float:
        """Wait until a vote accepted after `since` is in the ledger; return the seconds taken."""
        wait_until("no vote is accepted", seconds, lambda: self._first_after(since))
        event_id = self._first_after(since)
        assert event_id is not None
        wait_until("a vote does not reach the ledger", seconds, lambda: self._in_ledger(event_id))
        return time.monotonic() - since

    def _first_after(self, since: float) -> str | None:
        later = [(when, key) for key, (when, _) in self.accepted().items() if when > since]
        return min(later)[1] if later else None

    def _in_ledger(self, event_id: str) -> bool:
        with contextlib.suppress(sqlite3.Error), self.rows() as database:
            found = database.execute("SELECT 1 FROM events WHERE event_id = ?", (event_id,))
            return found.fetchone() is not None
        return False

    @contextlib.contextmanager
    def rows(self) -> Iterator[sqlite3.Connection]:
        """Open the ledger's file read-only while the follower writes it."""
        database = sqlite3.connect(f"file:{self.home}/ledger.db?mode=ro", uri=True, timeout=5)
        try:
            yield database
        finally:
            database.close()

    def observe(self) -> Observed:
        """Return the present state of the ledger, the log and Kafka."""
        ledger = Ledger(self.home / "ledger.db")
        try:
            committed = self.committed()  # first, since the ledger advances
            positions = _flatten(ledger.positions())
            dead = [letter.key for letter in ledger.dead_letters()]
            counted = [joined.event.reason for joined in ledger.effective_events()]
            waiting = ledger.counts().waiting
        finally:
            ledger.close()
        with self.rows() as database:
            sql = "SELECT event_id, value FROM events WHERE retracts IS NULL AND dead = 0"
            events = [(i, FeedbackEvent.FromString(v).reason) for i, v in database.execute(sql)]
        return Observed(
            accepted={key: reason for key, (_, reason) in self.accepted().items()},
            refused=[text for voter in self.voters for text in voter.refused],
            events=events,
            dead=dead,
            replaced={reason for voter in self.voters for reason in voter.replaced},
            retracted={reason for voter in self.voters for reason in voter.retracted},
            counted=counted,
            positions=positions,
            ends=self.ends(),
            committed=committed,
            waiting=waiting,
        )

    def ends(self) -> dict[tuple[str, int], int]:
        """Return the end offsets of the log, without empty partitions."""
        with environment(self.environment):
            log = open_log(self.home)
        try:
            return {
                at: e for at, e in _flatten({t: log.ends(t) for t in FOLLOWED_TOPICS}).items() if e
            }
        finally:
            log.close()

    def committed(self) -> dict[tuple[str, int], int]:
        """Return the offsets that Kafka stores for the ledger's group."""
        if not self.environment:
            return {}
        settings = self.kafka()
        group = group_of(settings.prefix, self.home)
        admin = KafkaAdminClient(**settings.client())
        try:
            found = admin.list_group_offsets({group: None})[group]
        finally:
            admin.close()
        skip = len(settings.prefix) + 1
        return {(p.topic[skip:], p.partition): offset.offset for p, offset in found.items()}

    def check_offset_order(self) -> None:
        """Check that Kafka has no committed offset above the ledger's position at this moment."""
        committed = self.committed()
        with self.rows() as database:
            rows = database.execute("SELECT topic, partition, next FROM positions").fetchall()
        check_offsets(committed, {(topic, number): offset for topic, number, offset in rows})

    def finish(self, fault: str, seconds: float | None) -> Observed:
        """End the voting, wait for the ledger, add a row to the table, and check all invariants."""
        for voter in self.voters:
            voter.done.set()
        for voter in self.voters:
            voter.join(30)
            assert not voter.is_alive(), "a vote is never accepted"
        deadline = time.monotonic() + 20
        seen = self.observe()
        while time.monotonic() < deadline and not self._settled(seen):
            time.sleep(0.2)
            seen = self.observe()
        TABLE.append(Row(fault, seen, seconds))
        print(f"{fault}: {TABLE[-1].cells()}")
        check(seen)
        assert self.follower is not None
        assert self.follower.is_alive(), "the follower has ended"
        if self.environment:
            assert seen.committed == seen.positions, "Kafka's own tools show another lag"
        return seen

    def _settled(self, seen: Observed) -> bool:
        offsets_committed = seen.committed == seen.positions or not self.environment
        return not seen.lag and not seen.lost and not seen.waiting and offsets_committed

    def close(self) -> None:
        """Stop the voters, and kill the app and the follower."""
        for voter in self.voters:
            voter.done.set()
        if self.app is not None:
            self.app.kill()
            self.app.wait()
        if self.follower is not None:
            self.follower.kill()
            self.follower.join()


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables within the block."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _flatten(positions: object) -> dict[tuple[str, int], int]:
    return {
        (topic, number): offset
        for topic, partitions in positions.items()  # type: ignore[attr-defined]
        for number, offset in partitions.items()
    }


@contextlib.contextmanager
def running_harness(
    home: Path,
    broker: Broker | None,
    seed: int,
    hurried_share: float = 0.05,
    duplicate_share: float = 0.05,
) -> Iterator[FaultHarness]:
    """Start the app, the follower and the voters.

    Args:
        hurried: Share of votes whose client hangs up at once and sends them again.
        doubled: Share of votes that are sent again after they were accepted.

    """
    harness = FaultHarness(home, broker, seed)
    try:
        harness.start_app()
        wait_until("the app does not start", 90, harness.up)
        harness.start_follower()
        harness.vote(hurried_share, duplicate_share)
        yield harness
    finally:
        harness.close()
