"""The table of faults: what is done to the loop under load, and what came of every vote.

Feedback's routes without vLLM, the learner's own follower, and Kafka itself.
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
from tests.support.faults.harness import wait_until, world

SEED = 20


def test_broker_killed_and_started_again(broker: Broker, tmp_path: Path) -> None:
    with world(tmp_path / "home", broker, SEED) as it:
        time.sleep(it.rng.uniform(0.5, 1.5))
        broker.kill()
        time.sleep(it.rng.uniform(0.5, 1.5))
        back = time.monotonic()
        broker.start(print)
        it.finish("broker killed, restarted", it.recovered(back))


def test_broker_away_for_longer_than_an_append_waits(broker: Broker, tmp_path: Path) -> None:
    # A batch given up under way once left kafka-python's producer mute for ever.
    with world(tmp_path / "home", broker, SEED + 1) as it:
        time.sleep(it.rng.uniform(0.2, 0.5))
        broker.kill()
        time.sleep(5)
        back = time.monotonic()
        broker.start(print)
        it.finish("broker away for 5 s, then restarted", it.recovered(back))


def test_broker_paused_past_the_session_timeout(broker: Broker, tmp_path: Path) -> None:
    with world(tmp_path / "home", broker, SEED + 2) as it:
        time.sleep(it.rng.uniform(0.2, 0.8))
        broker.signal(signal.SIGSTOP)
        time.sleep(8)  # a lease's session is 6 s here, the broker's own 3 s
        back = time.monotonic()
        broker.signal(signal.SIGCONT)
        it.finish("broker paused for 8 s", it.recovered(back))


@pytest.mark.parametrize("log", ["kafka", "sqlite"])
def test_app_killed_around_the_append(
    request: pytest.FixtureRequest, tmp_path: Path, log: str
) -> None:
    broker = request.getfixturevalue("broker") if log == "kafka" else None
    for number, point in enumerate(
        ["feedback.append.before", "feedback.append.after", "completions.append.after"]
    ):
        with world(tmp_path / point, broker, SEED + 10 + number) as it:
            time.sleep(it.rng.uniform(0.2, 0.8))
            it.arm("app", f"{point}=kill")
            assert it.app is not None
            assert it.app.wait(10) == -signal.SIGKILL
            back = time.monotonic()
            it.start_app()
            it.finish(f"app killed at {point} ({log})", it.recovered(back))


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
    with world(tmp_path / "home", broker, SEED + 20) as it:
        time.sleep(it.rng.uniform(0.2, 0.8))
        it.arm("follower", f"{point}=kill")
        assert it.follower is not None
        it.follower.join(10)
        assert it.follower.exitcode == -signal.SIGKILL
        it.offsets_in_order()
        back = time.monotonic()
        it.start_follower()
        it.finish(f"learner killed at {point}", it.recovered(back))


def test_partitions_added_while_running(broker: Broker, tmp_path: Path) -> None:
    with world(tmp_path / "home", broker, SEED + 30) as it:
        time.sleep(it.rng.uniform(0.2, 0.8))
        settings = it.kafka()
        admin = KafkaAdminClient(**settings.client())
        more = {f"{settings.prefix}.feedback": 9, f"{settings.prefix}.completions": 8}
        back = time.monotonic()
        admin.create_partitions(more)
        admin.close()
        took = it.recovered(back)
        wait_until("nothing goes to a new partition", 40, lambda: it.new_partitions(6))
        seen = it.finish("partitions raised from 6 to 9", took)
        assert {number for topic, number in seen.ends if topic == "feedback"} > set(range(6))


def test_the_same_post_again(broker: Broker, tmp_path: Path) -> None:
    with world(tmp_path / "home", broker, SEED + 40, hurried=0.4, doubled=0.4) as it:
        start = time.monotonic()
        wait_until(
            "no copy after a time-out was known already",
            20,
            lambda: sum(v.repeated for v in it.voters) > 4 and time.monotonic() > start + 2,
        )
        it.finish("posts sent twice, and again after a time-out", None)


def test_poison_records(broker: Broker, tmp_path: Path) -> None:
    with world(tmp_path / "home", broker, SEED + 50) as it:
        settings = it.kafka()
        producer = KafkaProducer(bootstrap_servers=broker.address)
        for number in range(40):
            name = f"{settings.prefix}.{it.rng.choice(['feedback', 'completions'])}"
            headers = [(TYPE_HEADER, FEEDBACK_TYPE.encode())] if number % 2 else []
            value, key = it.rng.randbytes(it.rng.randrange(1, 400)), it.rng.randbytes(8)
            producer.send(name, value, key=key, headers=headers).get(10)
        for name in ("feedback", "completions"):
            producer.send(f"{settings.prefix}.{name}", b"", key=b"\xff\xfe").get(10)
        with pytest.raises(InvalidRecordError):  # compacted topics take none without a key
            producer.send(f"{settings.prefix}.feedback", b"v").get(10)
        producer.close()
        back = time.monotonic()
        seen = it.finish("poison: random bytes", it.recovered(back))
        assert len(seen.dead) == 42


def test_kafkas_verifiable_producer_on_our_topic(broker: Broker, tmp_path: Path) -> None:
    with world(tmp_path / "home", broker, SEED + 51) as it:
        topic = f"{it.kafka().prefix}.feedback"
        given = ["--bootstrap-server", broker.address, "--topic", topic, "--max-messages", "200"]
        given += ["--repeating-keys", "200"]
        tool = broker.tool("org.apache.kafka.tools.VerifiableProducer", *given)
        assert tool.wait(60) == 0
        back = time.monotonic()
        seen = it.finish("poison: Kafka's verifiable producer", it.recovered(back))
        assert len(seen.dead) == 200


@pytest.mark.parametrize("log", ["kafka", "sqlite"])
@pytest.mark.parametrize("seconds", [3600, -3600])
def test_clock_step(request: pytest.FixtureRequest, tmp_path: Path, log: str, seconds: int) -> None:
    broker = request.getfixturevalue("broker") if log == "kafka" else None
    with world(tmp_path / "home", broker, SEED + 60) as it:
        time.sleep(it.rng.uniform(0.2, 0.8))
        back = time.monotonic()
        it.step_clock(seconds)
        it.finish(f"clock stepped by {seconds // 3600:+} h ({log})", it.recovered(back))


def test_disk_full(tmp_path: Path) -> None:
    with world(tmp_path / "home", None, SEED + 70) as it:
        time.sleep(it.rng.uniform(0.2, 0.8))
        it.fill_disk()
        before = sum(v.turned_away for v in it.voters)
        wait_until(
            "nobody is told 503", 10, lambda: sum(v.turned_away for v in it.voters) > before + 10
        )
        accepted = len(it.accepted())
        time.sleep(0.5)
        assert len(it.accepted()) == accepted, "a vote was accepted that had no room"
        back = time.monotonic()
        it.free_disk()
        it.finish("disk full (sqlite)", it.recovered(back))
