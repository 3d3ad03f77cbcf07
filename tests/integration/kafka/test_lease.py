"""The lease among learners that share a Kafka: a killed, a paused and a released leader."""

import os
import signal
import time
import uuid
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from feedback.log.kafka_log import KafkaLog
from feedback.log.kafka_settings import KafkaSettings
from learner.cycle.lease import KafkaLease
from tests.support.forks import FORKS

SESSION = 6.0  # the minimum that Kafka allows


@pytest.fixture
def settings(kafka: Broker) -> KafkaSettings:
    found = KafkaSettings(servers=kafka.address, prefix=f"t{uuid.uuid4().hex}")
    KafkaLog(found).close()  # creates the topics
    return found


def hold_lease(settings: str, held_file: Path) -> None:
    """Hold the lease whenever it is granted; `held_file` exists while it is held."""
    lease = KafkaLease(
        KafkaSettings.model_validate_json(settings), session_seconds=SESSION, poll_seconds=0.1
    )
    while True:
        if lease.held() or lease.acquire(0):
            held_file.touch()
        else:
            held_file.unlink(missing_ok=True)
        time.sleep(0.05)


def wait_until(what: str, seconds: float, condition: object) -> float:
    """Wait for a condition; return the seconds until it held."""
    started = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < started + seconds, what
        time.sleep(0.05)
    return time.monotonic() - started


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_lease_passes_on_when_its_holder_dies_or_is_paused(
    settings: KafkaSettings, tmp_path: Path, how: signal.Signals
) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    learners = [
        FORKS.Process(target=hold_lease, args=(settings.model_dump_json(), file)) for file in files
    ]
    try:
        learners[0].start()
        wait_until("nobody leads", 60, files[0].exists)
        learners[1].start()
        time.sleep(SESSION / 2)
        assert [f.exists() for f in files] == [True, False]
        os.kill(learners[0].pid or 0, how)
        seconds = wait_until("nobody took over", 10 * SESSION, files[1].exists)
        print(f"{how.name}: the other led after {seconds:.1f} s")
        if how == signal.SIGSTOP:
            os.kill(learners[0].pid or 0, signal.SIGCONT)
            # Kafka may give the lease to either learner, including the resumed one.
            wait_until("both lead", 10 * SESSION, lambda: sum(f.exists() for f in files) == 1)
            time.sleep(1)
            assert sum(f.exists() for f in files) < 2
    finally:
        for learner in learners:
            if learner.pid is not None:
                learner.kill()
                learner.join()


def test_a_released_lease_can_be_acquired_at_once(settings: KafkaSettings) -> None:
    first = KafkaLease(settings, session_seconds=SESSION, poll_seconds=0.1)
    assert first.acquire(30)
    second = KafkaLease(settings, session_seconds=SESSION, poll_seconds=0.1)
    assert not second.acquire(SESSION / 2)
    first.close()
    assert not first.held()
    assert second.acquire(SESSION)
    second.close()


def test_a_learner_that_starts_before_the_topics_exist_leads_soon_after(kafka: Broker) -> None:
    settings = KafkaSettings(servers=kafka.address, prefix=f"t{uuid.uuid4().hex}")
    lease = KafkaLease(settings, session_seconds=SESSION, poll_seconds=0.1)
    assert not lease.acquire(SESSION / 2)
    KafkaLog(settings).close()  # creates the topics
    assert lease.acquire(5 * SESSION)
    lease.close()
