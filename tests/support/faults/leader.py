"""A learner that leads and publishes, with the real lease and publisher but without training."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from feedback.log.event_log import LogUnavailable
from feedback.log.kafka_settings import KafkaSettings
from feedback.opening import open_log
from learner.cycle.lease import KafkaLease
from learner.cycle.publishing import Publisher
from learner.cycle.state import CycleState
from learner.errors import LeadershipLost

SESSION = 6.0  # the minimum that Kafka allows


def lead(home: Path, candidate: Path, environment: Mapping[str, str]) -> None:
    """Publish a version every 0.5 s while this learner leads; record the results in the home."""
    os.environ.update(environment)
    log, lease = open_log(home), KafkaLease(KafkaSettings(), session_seconds=SESSION)
    publisher = Publisher(home, log)
    while True:
        if not lease.acquire(0.1):
            continue
        publisher.claim_leadership(home.name)
        record_event(home, "leads")
        while lease.held():
            version = publisher.next_version()
            cycle = CycleState(number=1, parent=version - 1, after_seq=0, upto_seq=0, events=0)
            cycle.version = version
            try:
                publisher.publish(candidate, cycle)
                record_event(home, f"published {version}")
            except LeadershipLost:
                record_event(home, f"overtaken {version}")
            except LogUnavailable:
                record_event(home, f"unsure {version}")
            time.sleep(0.5)
        record_event(home, "stands by")


def record_event(home: Path, event: str) -> None:
    with (home / "events").open("a") as file:
        file.write(f"{event}\n")
