"""Run the learner's ledger follower in its own process, without training."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from feedback.ledger.store import Ledger
from feedback.log.kafka_offsets import OffsetReporter
from feedback.log.kafka_settings import KafkaSettings
from feedback.opening import open_log
from learner.cycle.metrics import Metrics
from learner.cycle.service import _Follower


def follow(home: Path, environment: Mapping[str, str]) -> None:
    """Follow the log until killed."""
    os.environ.update(environment)
    log, ledger, kafka = open_log(home), Ledger(home / "ledger.db"), KafkaSettings()
    reporter = OffsetReporter(kafka, home) if kafka.servers else None
    follower = _Follower(log, ledger, Metrics(), 0.05, reporter)
    follower.start()
    while True:
        follower.raise_if_failed()
        time.sleep(0.1)
