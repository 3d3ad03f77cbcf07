"""A learner that only leads and publishes: the real lease and the real publishing, no training."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from feedback.log.event_log import LogUnavailable
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.opening import open_log
from learner.cycle.lease import KafkaLease
from learner.cycle.publishing import Publisher
from learner.cycle.state import CycleState
from learner.errors import LeadershipLost

SESSION = 6.0  # the least that Kafka allows


def lead(home: Path, candidate: Path, environment: Mapping[str, str]) -> None:
    """Publish a version a second while this learner leads; say in the home's file what came."""
    os.environ.update(environment)
    log, lease = open_log(home), KafkaLease(KafkaSettings(), session_seconds=SESSION)
    publisher = Publisher(home, log)
    while True:
        if not lease.acquire(0.1):
            continue
        publisher.claim_leadership(home.name)
        told(home, "leads")
        while lease.held():
            version = publisher.next_version()
            cycle = CycleState(number=1, parent=version - 1, after_seq=0, upto_seq=0, events=0)
            cycle.version = version
            try:
                publisher.publish(candidate, cycle)
                told(home, f"published {version}")
            except LeadershipLost:
                told(home, f"overtaken {version}")
            except LogUnavailable:
                told(home, f"unsure {version}")
            time.sleep(0.5)
        told(home, "stands by")


def told(home: Path, what: str) -> None:
    with (home / "told").open("a") as file:
        file.write(f"{what}\n")
