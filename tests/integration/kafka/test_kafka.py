"""Behaviour specific to Kafka: topics, partitions, outages and the outbox."""

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from deploy.local.broker import Broker
from feedback.log.event_log import LogError, LogUnavailable, NewRecord, RecordKey
from feedback.log.kafka_log import KafkaLog, partition_of
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import list_risks
from feedback.log.outbox import OutboxLog
from feedback.log.records import decode_dead_letter
from feedback.log.sqlite_log import SqliteLog
from tests.support.servers import free_port


def new(key: str, value: bytes = b"v") -> NewRecord:
    return NewRecord(key, "some.Type", value)


def keys(log: KafkaLog | OutboxLog, topic: str = "completions") -> list[str]:
    return [r.key for r in log.read(topic, {})]  # type: ignore[arg-type]


@pytest.fixture
def settings(kafka: Broker) -> KafkaSettings:
    return KafkaSettings(
        servers=kafka.address,
        prefix=f"t{uuid.uuid4().hex}",
        append_seconds=3,
        read_seconds=3,
        connect_seconds=5,
    )


@pytest.fixture
def private_broker(tmp_path: Path, kafka: Broker) -> Iterator[Broker]:
    """Start a broker that the test may stop."""
    broker = Broker(tmp_path / "broker", free_port(), free_port())
    broker.start(print)
    yield broker
    broker.kill()


def test_topics_are_created_with_their_partitions(settings: KafkaSettings) -> None:
    KafkaLog(settings).close()
    admin = KafkaAdminClient(**settings.client())
    topics = {t["name"]: t for t in admin.describe_topics() if settings.prefix in t["name"]}
    admin.close()
    partitions = {
        n.removeprefix(f"{settings.prefix}."): len(t["partitions"]) for n, t in topics.items()
    }
    single = {"policies": 1, "dead-letter": 1, "lease": 1}
    assert partitions == {"completions": 6, "feedback": 6, **single}


@pytest.mark.parametrize(
    ("topic", "wrong", "message"),
    [
        ("feedback", {"configs": {"cleanup.policy": "delete"}}, "deletes old records"),
        (
            "completions",
            {"configs": {"cleanup.policy": "delete", "retention.ms": -1, "retention.bytes": 9**9}},
            "retention.bytes=-1",
        ),
        ("policies", {"num_partitions": 3}, "must have exactly one"),
    ],
)
def test_topics_that_could_lose_records_are_refused(
    settings: KafkaSettings, topic: str, wrong: dict[str, object], message: str
) -> None:
    admin = KafkaAdminClient(**settings.client())
    name = f"{settings.prefix}.{topic}"
    right = {"num_partitions": 1, "replication_factor": 1, "configs": {"cleanup.policy": "compact"}}
    admin.create_topics({name: right | wrong}, wait_for_metadata=True)
    admin.close()
    with pytest.raises(LogError, match=message) as caught:
        KafkaLog(settings)
    assert name in str(caught.value)


def test_a_topic_for_smaller_records_is_warned_of(
    settings: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    admin = KafkaAdminClient(**settings.client())
    name = f"{settings.prefix}.completions"
    configs = {"cleanup.policy": "compact", "max.message.bytes": 1_000_000}
    admin.create_topics(
        {name: {"num_partitions": 1, "replication_factor": 1, "configs": configs}},
        wait_for_metadata=True,
    )
    admin.close()
    KafkaLog(settings).close()
    assert f"The Kafka topic {name} refuses records above 1000000 bytes" in caplog.text
    (risk,) = list_risks(settings.client(), settings.prefix)
    assert name in risk


def test_partitions_match_those_of_kafkas_own_clients() -> None:
    # Hashes from Kafka's UtilsTest.testMurmur2, without the sign bit, modulo ten partitions.
    assert partition_of("21", 10) == (-973932308 & 0x7FFFFFFF) % 10
    assert partition_of("foobar", 10) == (-790332482 & 0x7FFFFFFF) % 10


def test_an_unreachable_kafka_raises_promptly() -> None:
    settings = KafkaSettings(servers=f"127.0.0.1:{free_port()}", connect_seconds=1)
    started = time.monotonic()
    with pytest.raises(LogUnavailable, match=r"cannot reach Kafka at 127\.0\.0\.1"):
        KafkaLog(settings)
    assert time.monotonic() - started < 15


def test_appends_fail_during_an_outage_and_recover(
    private_broker: Broker, settings: KafkaSettings
) -> None:
    log = KafkaLog(settings.model_copy(update={"servers": private_broker.address}))
    log.append("feedback", [new("before")])
    private_broker.kill()
    with pytest.raises(LogUnavailable):
        log.append("feedback", [new("lost")])
    private_broker.start(print)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(LogUnavailable):
            log.append("feedback", [new("after")])
            break
    assert {"before", "after"} <= set(keys(log, "feedback"))
    log.close()


def test_a_record_that_is_repeated_during_an_outage_arrives_once(
    private_broker: Broker, settings: KafkaSettings
) -> None:
    log = KafkaLog(
        settings.model_copy(
            update={"servers": private_broker.address, "append_seconds": 1, "max_pending": 3}
        )
    )
    log.append("completions", [new("before")])
    private_broker.kill()
    for _ in range(5):
        with pytest.raises(LogUnavailable):
            log.append("completions", [new("a"), new("b")])
    with pytest.raises(LogUnavailable, match="too many"):
        log.append("completions", [new("c"), new("d")])
    private_broker.start(print)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(LogUnavailable):
            log.append("completions", [new("a"), new("b")])
            break
    found = Counter(keys(log))
    assert min(found["a"], found["b"]) >= 1
    assert max(found["a"], found["b"]) <= 2, "one attempt before the outage's end, and the last"
    log.close()


def limit_topic(settings: KafkaSettings, size: int) -> None:
    """Set the largest record that Kafka takes in the topic of completions."""
    admin = KafkaAdminClient(**settings.client())
    name, limit = f"{settings.prefix}.completions", {"max.message.bytes": str(size)}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, limit)])
    admin.close()


def test_a_record_that_kafka_refuses_is_set_aside_and_nothing_waits_behind_it(
    settings: KafkaSettings, tmp_path: Path
) -> None:
    KafkaLog(settings).close()
    limit_topic(settings, 6 << 20)
    log = OutboxLog(KafkaLog(settings), SqliteLog(tmp_path / "outbox.db"))
    sizes = {"small": 1, "large": 5 << 20, "over-the-topic": 7 << 20, "over-all": 9 << 20}
    for key, size in sizes.items():
        log.append("completions", [new(key, bytes(size))])
    log.append("completions", [new("next")])
    assert log.wait_until_empty(60)
    limit_topic(settings, 2 << 20)
    for key in ("over-the-new-limit", "last"):
        log.append("completions", [new(key, bytes((3 << 20) if key != "last" else 1))])
    assert log.wait_until_empty(60)
    assert {"small", "large", "next", "last"} == set(keys(log))
    refused = {decode_dead_letter(r).key for r in log.read("dead-letter", {})}
    assert refused == {"over-the-topic", "over-all", "over-the-new-limit"}
    log.append("feedback", [new("vote")])
    assert keys(log, "feedback") == ["vote"]
    log.close()


def test_completions_wait_in_the_outbox_during_an_outage(
    private_broker: Broker, settings: KafkaSettings, tmp_path: Path
) -> None:
    private_settings = settings.model_copy(update={"servers": private_broker.address})
    log = OutboxLog(KafkaLog(private_settings), SqliteLog(tmp_path / "outbox.db"))
    log.append("completions", [new("0")])
    assert log.wait_until_empty(60)
    private_broker.kill()
    started = time.monotonic()
    for i in range(1, 20):
        log.append("completions", [new(str(i))])
    assert time.monotonic() - started < 3
    assert log.waiting() >= 19
    log.close()  # as in a restart of the process
    private_broker.start(print)
    log = OutboxLog(KafkaLog(private_settings), SqliteLog(tmp_path / "outbox.db"))
    assert log.wait_until_empty(60)
    assert set(keys(log)) == {str(i) for i in range(20)}
    log.close()


def test_a_full_outbox_refuses_completions(settings: KafkaSettings, tmp_path: Path) -> None:
    log = OutboxLog(KafkaLog(settings), SqliteLog(tmp_path / "outbox.db"), max_bytes=0)
    with pytest.raises(LogUnavailable, match=r"outbox .* is full"):
        log.append("completions", [new("a")])
    log.append("feedback", [new("b")])
    log.close()


def test_records_older_than_added_partitions_are_erased_too(
    settings: KafkaSettings,
) -> None:
    log = KafkaLog(settings)
    keys = [str(i) for i in range(12)]
    log.append("feedback", [new(key) for key in keys])
    before = {(r.key, r.partition) for r in log.read("feedback", {})}
    log.close()
    admin = KafkaAdminClient(**settings.client())
    admin.create_partitions({f"{settings.prefix}.feedback": 9})
    admin.close()
    log = KafkaLog(settings)
    log.erase("feedback", [RecordKey(key) for key in keys])
    log.close()
    consumer = KafkaConsumer(**settings.client(), group_id=None, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(f"{settings.prefix}.feedback", n) for n in range(6)])
    tombstones, deadline = set(), time.monotonic() + 20
    while not before <= tombstones and time.monotonic() < deadline:
        for partition, batch in consumer.poll(500).items():
            erased = {(r.key.decode(), partition.partition) for r in batch if r.value is None}
            tombstones |= erased
    consumer.close()
    assert len(before) == 12
    assert before <= tombstones
