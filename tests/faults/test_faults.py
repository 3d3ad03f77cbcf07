"""Faults under load: no accepted vote is lost or counted twice.

The loop has the feedback routes without vLLM, the learner's ledger follower, and a real Kafka.
"""

import signal
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import InvalidRecordError

from deploy.local.broker import Broker
from feedback.log.kafka_log import TYPE_HEADER
from feedback.log.records import FEEDBACK_TYPE
from tests.support.faults.harness import running_harness, wait_until

SEED = 20


def test_broker_killed_and_restarted(broker: Broker, tmp_path: Path) -> None:
    with running_harness(tmp_path / "home", broker, SEED) as harness:
        time.sleep(harness.rng.uniform(0.5, 1.5))
        broker.kill()
        time.sleep(harness.rng.uniform(0.5, 1.5))
        restored_at = time.monotonic()
        broker.start(print)
        harness.finish("broker killed, restarted", harness.wait_for_recovery(restored_at))


def test_broker_down_for_longer_than_the_append_timeout(broker: Broker, tmp_path: Path) -> None:
    # An abandoned batch in flight once left kafka-python's producer hanging.
    with running_harness(tmp_path / "home", broker, SEED + 1) as harness:
        time.sleep(harness.rng.uniform(0.2, 0.5))
        broker.kill()
        time.sleep(5)
        restored_at = time.monotonic()
        broker.start(print)
        harness.finish(
            "broker away for 5 s, then restarted", harness.wait_for_recovery(restored_at)
        )


def test_broker_paused_past_the_session_timeout(broker: Broker, tmp_path: Path) -> None:
    with running_harness(tmp_path / "home", broker, SEED + 2) as harness:
        time.sleep(harness.rng.uniform(0.2, 0.8))
        broker.signal(signal.SIGSTOP)
        time.sleep(8)  # a lease's session is 6 s here, the broker's own 3 s
        restored_at = time.monotonic()
        broker.signal(signal.SIGCONT)
        harness.finish("broker paused for 8 s", harness.wait_for_recovery(restored_at))


@pytest.mark.parametrize("log", ["kafka", "sqlite"])
def test_app_killed_around_the_append(
    request: pytest.FixtureRequest, tmp_path: Path, log: str
) -> None:
    broker = request.getfixturevalue("broker") if log == "kafka" else None
    for number, point in enumerate(
        ["feedback.append.before", "feedback.append.after", "completions.append.after"]
    ):
        with running_harness(tmp_path / point, broker, SEED + 10 + number) as harness:
            time.sleep(harness.rng.uniform(0.2, 0.8))
            harness.arm("app", f"{point}=kill")
            assert harness.app is not None
            assert harness.app.wait(10) == -signal.SIGKILL
            restored_at = time.monotonic()
            harness.start_app()
            harness.finish(f"app killed at {point} ({log})", harness.wait_for_recovery(restored_at))


@pytest.mark.parametrize(
    "point",
    [
        "ledger.commit.before",
        "ledger.commit.after",
        "offsets.commit.before",
        "offsets.commit.after",
    ],
)
def test_learner_killed_around_its_commits(broker: Broker, tmp_path: Path, point: str) -> None:
    with running_harness(tmp_path / "home", broker, SEED + 20) as harness:
        time.sleep(harness.rng.uniform(0.2, 0.8))
        harness.arm("follower", f"{point}=kill")
        assert harness.follower is not None
        harness.follower.join(10)
        assert harness.follower.exitcode == -signal.SIGKILL
        harness.check_offset_order()
        restored_at = time.monotonic()
        harness.start_follower()
        harness.finish(f"learner killed at {point}", harness.wait_for_recovery(restored_at))


def test_partitions_added_while_running(broker: Broker, tmp_path: Path) -> None:
    with running_harness(tmp_path / "home", broker, SEED + 30) as harness:
        time.sleep(harness.rng.uniform(0.2, 0.8))
        settings = harness.kafka()
        admin = KafkaAdminClient(**settings.client())
        more = {f"{settings.prefix}.feedback": 9, f"{settings.prefix}.completions": 8}
        restored_at = time.monotonic()
        admin.create_partitions(more)
        admin.close()
        seconds = harness.wait_for_recovery(restored_at)
        wait_until("nothing goes to a new partition", 40, lambda: harness.new_partitions(6))
        seen = harness.finish("partitions raised from 6 to 9", seconds)
        assert {number for topic, number in seen.ends if topic == "feedback"} > set(range(6))


def test_votes_sent_twice(broker: Broker, tmp_path: Path) -> None:
    with running_harness(
        tmp_path / "home", broker, SEED + 40, hurried_share=0.4, duplicate_share=0.4
    ) as harness:
        start = time.monotonic()
        wait_until(
            "no vote sent again was accepted as a duplicate",
            20,
            lambda: sum(v.repeated for v in harness.voters) > 4 and time.monotonic() > start + 2,
        )
        harness.finish("posts sent twice, and again after a time-out", None)


def test_poison_records(broker: Broker, tmp_path: Path) -> None:
    with running_harness(tmp_path / "home", broker, SEED + 50) as harness:
        settings = harness.kafka()
        producer = KafkaProducer(bootstrap_servers=broker.address)
        for number in range(40):
            name = f"{settings.prefix}.{harness.rng.choice(['feedback', 'completions'])}"
            headers = [(TYPE_HEADER, FEEDBACK_TYPE.encode())] if number % 2 else []
            value, key = (
                harness.rng.randbytes(harness.rng.randrange(1, 400)),
                harness.rng.randbytes(8),
            )
            producer.send(name, value, key=key, headers=headers).get(10)
        for name in ("feedback", "completions"):
            producer.send(f"{settings.prefix}.{name}", b"", key=b"\xff\xfe").get(10)
        with pytest.raises(InvalidRecordError):  # compacted topics accept no record without a key
            producer.send(f"{settings.prefix}.feedback", b"v").get(10)
        producer.close()
        restored_at = time.monotonic()
        seen = harness.finish("poison: random bytes", harness.wait_for_recovery(restored_at))
        assert len(seen.dead) == 42


def test_foreign_records_of_kafkas_verifiable_producer(broker: Broker, tmp_path: Path) -> None:
    with running_harness(tmp_path / "home", broker, SEED + 51) as harness:
        topic = f"{harness.kafka().prefix}.feedback"
        options = ["--bootstrap-server", broker.address, "--topic", topic, "--max-messages", "200"]
        options += ["--repeating-keys", "200"]
        tool = broker.tool("org.apache.kafka.tools.VerifiableProducer", *options)
        assert tool.wait(60) == 0
        restored_at = time.monotonic()
        seen = harness.finish(
            "poison: Kafka's verifiable producer", harness.wait_for_recovery(restored_at)
        )
        assert len(seen.dead) == 200


@pytest.mark.parametrize("log", ["kafka", "sqlite"])
@pytest.mark.parametrize("seconds", [3600, -3600])
def test_clock_step(request: pytest.FixtureRequest, tmp_path: Path, log: str, seconds: int) -> None:
    broker = request.getfixturevalue("broker") if log == "kafka" else None
    with running_harness(tmp_path / "home", broker, SEED + 60) as harness:
        time.sleep(harness.rng.uniform(0.2, 0.8))
        restored_at = time.monotonic()
        harness.step_clock(seconds)
        harness.finish(
            f"clock stepped by {seconds // 3600:+} h ({log})",
            harness.wait_for_recovery(restored_at),
        )


def test_disk_full(tmp_path: Path) -> None:
    with running_harness(tmp_path / "home", None, SEED + 70) as harness:
        time.sleep(harness.rng.uniform(0.2, 0.8))
        harness.fill_disk()
        before = sum(v.unavailable_answers for v in harness.voters)
        wait_until(
            "no voter gets a 503",
            10,
            lambda: sum(v.unavailable_answers for v in harness.voters) > before + 10,
        )
        accepted = len(harness.accepted())
        time.sleep(0.5)
        assert len(harness.accepted()) == accepted, "a vote was accepted on a full disk"
        restored_at = time.monotonic()
        harness.free_disk()
        harness.finish("disk full (sqlite)", harness.wait_for_recovery(restored_at))
