"""A learner is paused past its lease while it publishes, and another takes over."""

import os
import shutil
import signal
import time
import uuid
from pathlib import Path

from deploy.local.broker import Broker
from feedback.control.policies import append_policy_event, current_state
from feedback.log.kafka_log import KafkaLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.privacy.identity import load_or_create_secret
from feedback.registry import open_registry
from protos.plaudit.v1.policy_pb2 import Published
from tests.support.faults.checks import check_publishers
from tests.support.faults.harness import environment, wait_until
from tests.support.faults.leader import SESSION, lead
from tests.support.forks import FORKS


def events(home: Path) -> list[str]:
    file = home / "events"
    return file.read_text().splitlines() if file.exists() else []


def published(homes: list[Path]) -> list[int]:
    lines = [line for home in homes for line in events(home)]
    return sorted(int(line.split()[1]) for line in lines if line.startswith("published"))


def test_a_learner_paused_past_its_lease_does_not_publish_over_its_successor(
    broker: Broker, tmp_path: Path
) -> None:
    # Each learner publishes weights of its own.
    candidates = [tmp_path / f"candidate-{name}" for name in "ab"]
    for candidate in candidates:
        candidate.mkdir()
        (candidate / "model.safetensors").write_text(f"weights of {candidate.name}")
    variables = {
        "PLAUDIT_KAFKA_SERVERS": broker.address,
        "PLAUDIT_KAFKA_PREFIX": f"t{uuid.uuid4().hex[:8]}",
        "PLAUDIT_REGISTRY": f"file://{tmp_path}/shared",
    }
    log = KafkaLog(KafkaSettings(servers=broker.address, prefix=variables["PLAUDIT_KAFKA_PREFIX"]))
    homes = [tmp_path / "a", tmp_path / "b"]
    load_or_create_secret(homes[0] / "secret.json")
    homes[1].mkdir()
    shutil.copy2(homes[0] / "secret.json", homes[1])
    with environment(variables):
        open_registry(homes[0]).publish(candidates[0], version=1, parent=0, base="tiny")
    append_policy_event(log, Published(version=1))
    failpoints = tmp_path / "failpoints"
    learners = [
        FORKS.Process(
            target=lead,
            args=(home, candidate, {**variables, "PLAUDIT_FAILPOINTS": str(failpoints)}),
        )
        for home, candidate in zip(homes, candidates, strict=True)
    ]
    try:
        learners[0].start()
        wait_until(
            "the first learner does not publish", 60, lambda: "published 2" in events(homes[0])
        )
        learners[1].start()
        time.sleep(1)
        # Pause it after the version is in the registry and before it is announced.
        failpoints.write_text("learner.published=stop\n")
        wait_until("the leader is not paused", 30, lambda: not failpoints.read_text())
        paused = time.monotonic()
        wait_until("nobody takes over", 10 * SESSION, lambda: "leads" in events(homes[1]))
        takeover_seconds = time.monotonic() - paused
        wait_until("the successor does not publish", 60, lambda: len(events(homes[1])) > 2)
        os.kill(learners[0].pid or 0, signal.SIGCONT)
        # Kafka may give the lease to either learner, including the resumed one.
        wait_until("both lead", 10 * SESSION, lambda: any("stands by" in events(h) for h in homes))
        before = published(homes)
        wait_until("nobody publishes any more", 60, lambda: len(published(homes)) > len(before) + 2)
        print(f"taken over after {takeover_seconds:.1f} s")
    finally:
        ended = [learner.exitcode for learner in learners]
        for learner in learners:
            learner.kill()
            learner.join()
        first, second = events(homes[0]), events(homes[1])
        print(f"the first: {first}; the second: {second}; exit codes: {ended}")
    assert any(line.startswith("overtaken") for line in first), (
        "the paused learner published after it lost the lease"
    )
    versions = published(homes)
    assert len(versions) == len(set(versions)), "a version was published twice"
    assert [1, *versions] == list(current_state(log).published)
    check_publishers(log)
    log.close()
