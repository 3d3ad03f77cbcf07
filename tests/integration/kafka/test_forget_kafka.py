"""Forgetting a person on Kafka: none of their text remains in the broker's segments."""

import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from deploy.administration import forget as forget_module
from deploy.administration.forget import forget
from deploy.administration.persons import Sender
from deploy.local.broker import Broker
from deploy.vote_files.exchange import export_feedback
from feedback.ledger.store import Ledger
from feedback.log.event_log import NewRecord, Topic
from feedback.log.kafka_log import KafkaLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.privacy.identity import LOCAL_OWNER, load_or_create_secret, subject_of
from tests.support.feedback_samples import completion, put, rating, with_target
from tests.support.servers import free_port

PARTITIONS = 3
# As in production, but within seconds: compact erased records and delete old segments.
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
    """Start a broker whose log cleaner runs every 200 ms."""
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
    monkeypatch.setattr(forget_module, "_VIEW_SECONDS", 0.2)
    admin = KafkaAdminClient(bootstrap_servers=compacting_broker.address)
    for topic in ("completions", "feedback", "dead-letter"):
        count = 1 if topic == "dead-letter" else PARTITIONS
        topic_config = {
            "num_partitions": count,
            "replication_factor": 1,
            "configs": FAST_COMPACTION,
        }
        admin.create_topics({f"{prefix}.{topic}": topic_config}, wait_for_metadata=True)
    admin.close()
    return KafkaSettings()


def segments(broker: Broker, settings: KafkaSettings) -> bytes:
    """Return the contents of all segment files of the test's topics."""
    found = b""
    for file in broker.folder.glob(f"data/{settings.prefix}.*/*"):
        if file.suffix in (".log", ".deleted", ".cleaned", ".swap"):
            with suppress(FileNotFoundError):  # the broker has just deleted or renamed it
                found += file.read_bytes()
    return found


def add_conversations(home: Path, log: KafkaLog) -> None:
    """Log six completions of each person, and their votes on all answers, each with a reason."""
    secret = load_or_create_secret(home / "secret.json")
    now = int(time.time() * 1000)
    for name, text in SECRETS.items():
        subject = subject_of(secret, LOCAL_OWNER, name)
        for i in range(6):
            fields = {"subject": subject, "created_ms": now}
            put(log, completion(f"{name}{i}", question=f"{text} {i}", **fields))  # type: ignore[arg-type]
            for author in SECRETS:
                vote = rating(f"{name}-{author}{i}", completion_id=f"{author}{i}", **fields)  # type: ignore[arg-type]
                vote.reason = text
                put(log, with_target(vote))
    # An unusable event becomes a dead letter, which is mirrored with its text.
    broken = rating("broken", completion_id="ann0", **fields)  # type: ignore[arg-type]
    broken.subject, broken.reason = subject_of(secret, LOCAL_OWNER, "ann"), SECRETS["ann"]
    broken.ClearField("rating")
    put(log, broken)


def roll(log: KafkaLog) -> None:
    """Append to every partition, so that earlier records are in no active segment."""
    topics: tuple[Topic, ...] = ("completions", "feedback", "dead-letter")
    for topic in topics:
        log.append(topic, [NewRecord(f"filler {i}", "none", b"filler") for i in range(30)])


def wait_for_counts(
    broker: Broker,
    settings: KafkaSettings,
    log: KafkaLog,
    expected_counts: dict[str, int],
    seconds: float,
) -> bool:
    """Roll segments until each text occurs as often as expected; return whether it does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(1.1)  # more than segment.ms
        roll(log)
        # Read twice: one snapshot may miss a file that is being renamed.
        snapshots = [segments(broker, settings) for _ in range(2)]
        if all(
            snapshot.count(text.encode()) == count
            for text, count in expected_counts.items()
            for snapshot in snapshots
        ):
            return True
    return False


def follow(home: Path, log: KafkaLog) -> Ledger:
    ledger = Ledger(home / "ledger.db")
    while ledger.follow(log):
        pass
    ledger.mirror_dead_letters(log)
    return ledger


def test_none_of_their_text_remains_in_the_brokers_segments(
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
    forget(tmp_path, Sender("ann"), output.append)
    # Ann's 6 completions, 12 votes and one dead letter, and Bob's votes on her completions.
    assert output[0].startswith("Log: erased 6 completions, 19 feedback events and 1 dead letters")
    assert sum("max.compaction.lag.ms=1000" in line for line in output) == 3
    assert "ledger.db: erased 6 completions and 19 feedback events, now and before." in output
    # Bob's 6 completions and 6 votes on them remain; during compaction there may be more copies.
    expected_counts = {SECRETS["ann"]: 0, SECRETS["bob"]: 12}
    assert wait_for_counts(compacting_broker, settings, log, expected_counts, 60)

    for home in (
        tmp_path,
        tmp_path / "another",
    ):  # this ledger, and a new one from the compacted log
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


def test_without_tombstones_the_text_remains(
    compacting_broker: Broker,
    settings: KafkaSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: only erasing removes the text from the segments."""
    log = KafkaLog(settings)
    add_conversations(tmp_path, log)
    monkeypatch.setattr(KafkaLog, "erase", lambda self, topic, keys: None)
    forget(tmp_path, Sender("ann"), lambda _: None)
    assert not wait_for_counts(compacting_broker, settings, log, {SECRETS["ann"]: 0}, 15)
    log.close()


def test_a_ledger_built_before_compaction_excludes_the_forgotten(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order of partitions; the output of `forget` states when the records are removed."""
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", kafka.address)
    monkeypatch.setenv("PLAUDIT_KAFKA_PREFIX", f"t{uuid.uuid4().hex}")
    monkeypatch.setattr(forget_module, "_VIEW_SECONDS", 0.2)
    log = KafkaLog(KafkaSettings())
    add_conversations(tmp_path, log)
    output: list[str] = []
    forget(tmp_path, Sender("ann"), output.append)
    assert sum("within 7 days" in line for line in output) == 2
    for limit in (1, 7, 1000):
        ledger = Ledger(tmp_path / f"{limit}.db")
        while ledger.follow(log, limit):
            pass
        assert {j.event.event_id for j in ledger.effective_events()} == {
            f"bob-bob{i}" for i in range(6)
        }
        assert ledger.counts().waiting == 0
        stored = b"".join(p.read_bytes() for p in tmp_path.glob(f"{limit}.db*"))
        assert SECRETS["ann"].encode() not in stored
        ledger.close()
    log.close()
