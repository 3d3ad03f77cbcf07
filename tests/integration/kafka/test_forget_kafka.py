"""Forgetting a person on Kafka: not a byte of theirs is left in the broker's segments."""

import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from deploy.administration import forget as module
from deploy.administration.exchange import export_feedback
from deploy.administration.forget import forget
from deploy.local.broker import Broker
from feedback.ledger.store import Ledger
from feedback.log.event_log import NewRecord, Topic
from feedback.log.kafka_log import KafkaLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.privacy.identity import LOCAL_OWNER, load_or_create_secret, subject_of
from tests.support.feedback_samples import completion, put, rating, with_target
from tests.support.servers import free_port

PARTITIONS = 3
# As in production, but soon: what has a tombstone is compacted, and old segments are deleted.
FAST_COMPACTION = {
    "cleanup.policy": "compact",
    "max.compaction.lag.ms": "1000",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.01",
    "file.delete.delay.ms": "100",
}
SECRETS = {"ann": "ann's secret", "bob": "bob's secret"}


@pytest.fixture(scope="module")
def compacting_broker(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that looks for what to compact all the time."""
    broker = Broker(
        tmp_path_factory.mktemp("cleaning"),
        free_port(),
        free_port(),
        properties={"log.cleaner.backoff.ms": "200"},
    )
    broker.start(print)
    yield broker
    broker.stop()


@pytest.fixture
def settings(compacting_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    prefix = f"t{uuid.uuid4().hex}"
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", compacting_broker.address)
    monkeypatch.setenv("PLAUDIT_KAFKA_PREFIX", prefix)
    monkeypatch.setattr(module, "_VIEW_SECONDS", 0.2)
    admin = KafkaAdminClient(bootstrap_servers=compacting_broker.address)
    for topic in ("completions", "feedback", "dead-letter"):
        count = 1 if topic == "dead-letter" else PARTITIONS
        definition = {"num_partitions": count, "replication_factor": 1, "configs": FAST_COMPACTION}
        admin.create_topics({f"{prefix}.{topic}": definition}, wait_for_metadata=True)
    admin.close()
    return KafkaSettings()


def segments(broker: Broker, settings: KafkaSettings) -> bytes:
    found = b""
    for file in broker.folder.glob(f"data/{settings.prefix}.*/*"):
        if file.suffix in (".log", ".deleted", ".cleaned", ".swap"):
            with suppress(FileNotFoundError):  # the broker has just deleted or renamed it
                found += file.read_bytes()
    return found


def add_conversations(home: Path, log: KafkaLog) -> None:
    """Both ask three times, and vote on their own answers and on each other's, with a reason."""
    secret = load_or_create_secret(home / "secret.json")
    now = int(time.time() * 1000)
    for name, text in SECRETS.items():
        subject = subject_of(secret, LOCAL_OWNER, name)
        for i in range(6):
            output = {"subject": subject, "created_ms": now}
            put(log, completion(f"{name}{i}", question=f"{text} {i}", **output))  # type: ignore[arg-type]
            for whose in SECRETS:
                vote = rating(f"{name}-{whose}{i}", completion_id=f"{whose}{i}", **output)  # type: ignore[arg-type]
                vote.reason = text
                put(log, with_target(vote))
    # What nobody can use is set aside, and mirrored, with its text.
    broken = rating("broken", completion_id="ann0", **output)  # type: ignore[arg-type]
    broken.subject, broken.reason = subject_of(secret, LOCAL_OWNER, "ann"), SECRETS["ann"]
    broken.ClearField("rating")
    put(log, broken)


def roll(log: KafkaLog) -> None:
    """Append to every partition, so that what came before is in no active segment."""
    topics: tuple[Topic, ...] = ("completions", "feedback", "dead-letter")
    for topic in topics:
        log.append(topic, [NewRecord(f"filler {i}", "none", b"filler") for i in range(30)])


def wait_until_left(
    broker: Broker,
    settings: KafkaSettings,
    log: KafkaLog,
    expected_counts: dict[str, int],
    seconds: float,
) -> bool:
    """Roll, and wait until the segments hold each text so many times; false if they never do."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(1.1)  # more than segment.ms
        roll(log)
        snapshots = [
            segments(broker, settings) for _ in range(2)
        ]  # one may miss a file being renamed
        if all(
            h.count(text.encode()) == count
            for text, count in expected_counts.items()
            for h in snapshots
        ):
            return True
    return False


def follow(home: Path, log: KafkaLog) -> Ledger:
    ledger = Ledger(home / "ledger.db")
    while ledger.follow(log):
        pass
    ledger.mirror_dead_letters(log)
    return ledger


def test_no_byte_of_theirs_is_left_in_the_brokers_segments(
    compacting_broker: Broker, settings: KafkaSettings, tmp_path: Path
) -> None:
    log = KafkaLog(settings)
    add_conversations(tmp_path, log)
    ledger = follow(tmp_path, log)
    assert len(ledger.effective_events()) == 24
    assert [d.key for d in ledger.dead_letters()] == ["broken"]
    ledger.close()
    before = segments(compacting_broker, settings)
    for text in SECRETS.values():
        assert before.count(text.encode()) >= 18
    output: list[str] = []
    forget(tmp_path, "ann", None, output.append)
    # Hers: 6 completions, 12 votes, one that is set aside. Bob's votes on hers go too.
    assert output[0].startswith("Log: erased 6 completions, 19 feedback events and 1 dead letters")
    assert sum("max.compaction.lag.ms=1000" in line for line in output) == 3
    assert "ledger.db: erased 6 completions and 19 feedback events, now and before." in output
    # His 6 completions and 6 votes on them are left; while it compacts, there may be more copies.
    expected_counts = {SECRETS["ann"]: 0, SECRETS["bob"]: 12}
    assert wait_until_left(compacting_broker, settings, log, expected_counts, 60)

    for home in (tmp_path, tmp_path / "another"):  # this ledger, and one built from what is left
        ledger = follow(home, log)
        assert {j.event.event_id for j in ledger.effective_events()} == {
            f"bob-bob{i}" for i in range(6)
        }
        ledger.close()
        export_feedback(home, home / "out.jsonl")
        exported = (home / "out.jsonl").read_text()
        assert exported.count(SECRETS["bob"]) == 6
        assert SECRETS["ann"] not in exported
    log.close()


def test_without_tombstones_the_same_wait_removes_nothing(
    compacting_broker: Broker,
    settings: KafkaSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: it is erasing that empties the segments, and nothing else."""
    log = KafkaLog(settings)
    add_conversations(tmp_path, log)
    monkeypatch.setattr(KafkaLog, "erase", lambda self, topic, keys: None)
    forget(tmp_path, "ann", None, lambda _: None)
    assert not wait_until_left(compacting_broker, settings, log, {SECRETS["ann"]: 0}, 15)
    log.close()


def test_a_ledger_that_reads_it_before_compaction_takes_none_of_it(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the forgetting's partition is read first, or last; and says it is bounded."""
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", kafka.address)
    monkeypatch.setenv("PLAUDIT_KAFKA_PREFIX", f"t{uuid.uuid4().hex}")
    monkeypatch.setattr(module, "_VIEW_SECONDS", 0.2)
    log = KafkaLog(KafkaSettings())
    add_conversations(tmp_path, log)
    output: list[str] = []
    forget(tmp_path, "ann", None, output.append)
    assert sum("within 7 days" in line for line in output) == 2
    for limit in (1, 7, 1000):
        ledger = Ledger(tmp_path / f"{limit}.db")
        while ledger.follow(log, limit):
            pass
        assert {j.event.event_id for j in ledger.effective_events()} == {
            f"bob-bob{i}" for i in range(6)
        }
        assert ledger.counts().waiting == 0
        held = b"".join(p.read_bytes() for p in tmp_path.glob(f"{limit}.db*"))
        assert SECRETS["ann"].encode() not in held
        ledger.close()
    log.close()
