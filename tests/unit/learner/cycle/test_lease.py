"""A lease that was lost does not count as held, even if it came back at once."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kafka import ConsumerRebalanceListener
from kafka.structs import TopicPartition

from feedback.log.kafka_settings import KafkaSettings
from learner.cycle import lease as module
from learner.cycle.lease import KafkaLease

PARTITION = TopicPartition("lease", 0)


class Consumer:
    """A consumer that holds the partition; on request it loses it and gets it back in one poll."""

    lose_and_regain = threading.Event()

    def __init__(self, **_: Any) -> None:
        self.listener: ConsumerRebalanceListener | None = None

    def subscribe(self, _: list[str], listener: ConsumerRebalanceListener | None = None) -> None:
        self.listener = listener

    def poll(self, timeout_ms: int) -> None:
        time.sleep(timeout_ms / 1000)
        if self.lose_and_regain.is_set() and self.listener is not None:
            self.listener.on_partitions_lost([PARTITION])
            self.listener.on_partitions_assigned([PARTITION])
            self.lose_and_regain.clear()

    def assignment(self) -> set[TopicPartition]:
        return {PARTITION}

    def close(self) -> None:
        pass


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_lease_lost_and_regained_within_one_poll_must_be_acquired_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another learner may have announced that it leads: this one must announce it again."""
    monkeypatch.setattr(module, "KafkaConsumer", Consumer)
    lease = KafkaLease(KafkaSettings(), poll_seconds=0.01)
    try:
        assert lease.acquire(10)
        assert lease.held()
        Consumer.lose_and_regain.set()
        wait_until(lambda: not Consumer.lose_and_regain.is_set())
        time.sleep(0.1)
        assert not lease.held()
        wait_until(lambda: lease.acquire(0.1))
        assert lease.held()
    finally:
        lease.close()
