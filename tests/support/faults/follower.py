"""The learner's way of keeping its ledger, in a process of its own, without training."""

import multiprocessing
import os
import time
from collections.abc import Mapping
from pathlib import Path

from feedback.ledger.store import Ledger
from feedback.log.kafka_offsets import OffsetReporter
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.opening import open_log
from learner.cycle.metrics import Metrics
from learner.cycle.service import _Follower

# A process that is to be killed, forked from a server that has imported it all already.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.faults.follower", "tests.support.faults.leader"])


def follow(home: Path, environment: Mapping[str, str]) -> None:
    """Follow until killed."""
    os.environ.update(environment)
    log, ledger, kafka = open_log(home), Ledger(home / "ledger.db"), KafkaSettings()
    shown = OffsetReporter(kafka, home) if kafka.servers else None
    follower = _Follower(log, ledger, Metrics(), 0.05, shown)
    follower.start()
    while True:
        follower.raise_if_failed()
        time.sleep(0.1)
