"""Contract tests of every event log. Add new implementations to LOGS."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy.local.broker import Broker
from feedback.log.event_log import EventLog, LogError, LogRecord, NewRecord, RecordKey, Topic
from feedback.log.kafka_log import KafkaLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.sqlite_log import SqliteLog

# Opens a log; opened again, it is another client's handle on the same log.
Opener = Callable[[], EventLog]
OpenerFactory = Callable[[Path, pytest.FixtureRequest], AbstractContextManager[Opener]]


@contextmanager
def sqlite_opener(folder: Path, _: pytest.FixtureRequest) -> Iterator[Opener]:
    yield lambda: SqliteLog(folder / "log.db")


@contextmanager
def kafka_opener(folder: Path, request: pytest.FixtureRequest) -> Iterator[Opener]:
    broker: Broker = request.getfixturevalue("kafka")
    settings = KafkaSettings(servers=broker.address, prefix=f"t{uuid.uuid4().hex}")
    yield lambda: KafkaLog(settings)


LOGS: dict[str, OpenerFactory] = {"sqlite": sqlite_opener, "kafka": kafka_opener}


def _params() -> list[Any]:
    """Return the parameters, with a marker for logs that need a broker."""
    marks = {"kafka": [pytest.mark.kafka]}
    return [
        pytest.param(open_logs, id=name, marks=marks.get(name, ()))
        for name, open_logs in LOGS.items()
    ]


@pytest.fixture(params=_params())
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    opened: list[EventLog] = []
    with request.param(tmp_path, request) as open_log:

        def tracked() -> EventLog:
            opened.append(open_log())
            return opened[-1]

        yield tracked
        for log in opened:
            log.close()


@pytest.fixture
def log(opener: Opener) -> EventLog:
    return opener()


def new(key: str, value: bytes = b"v", partition_key: str = "p") -> NewRecord:
    return NewRecord(key, "some.Type", value, partition_key)


def drain(log: EventLog, topic: Topic, limit: int = 1000) -> list[LogRecord]:
    """Read the whole topic from the start, in batches."""
    positions: dict[int, int] = {}
    records: list[LogRecord] = []
    while batch := log.read(topic, positions, limit):
        assert len(batch) <= limit
        records += batch
        positions.update({r.partition: r.offset + 1 for r in batch})
    return records


def test_a_new_log_is_empty(log: EventLog) -> None:
    assert drain(log, "feedback") == []
    assert all(end == 0 for end in log.ends("feedback").values())


def test_a_log_that_works_has_no_failure(log: EventLog) -> None:
    assert log.failure() is None
    log.close()
    assert log.failure() is None


def test_records_are_returned_unchanged(log: EventLog) -> None:
    appended = [new("ключ", bytes(range(256))), new("", b""), new("k" * 500, b"\x00" * 100_000)]
    log.append("completions", appended)
    got = drain(log, "completions")
    assert [(r.key, r.type, r.value) for r in got] == [(n.key, n.type, n.value) for n in appended]
    assert {r.topic for r in got} == {"completions"}
    assert all(1_600_000_000_000 < r.timestamp_ms < 5_000_000_000_000 for r in got)


def test_records_of_one_partition_key_keep_their_order_across_calls_and_batches(
    log: EventLog,
) -> None:
    for start in range(0, 50, 5):
        log.append("feedback", [new(str(i)) for i in range(start, start + 5)])
    got = drain(log, "feedback", limit=7)
    assert [r.key for r in got] == [str(i) for i in range(50)]
    offsets = [r.offset for r in got]
    assert offsets == sorted(set(offsets))


def test_reading_starts_at_the_position(log: EventLog) -> None:
    log.append("feedback", [new(str(i)) for i in range(5)])
    got = drain(log, "feedback")
    third = got[2]
    assert log.read("feedback", {third.partition: third.offset}) == got[2:]
    assert log.read("feedback", {third.partition: third.offset}, limit=1) == [third]


def test_ends_are_the_offsets_of_the_next_records(log: EventLog) -> None:
    log.append("feedback", [new("a")])
    ends = log.ends("feedback")
    assert log.read("feedback", ends) == []
    log.append("feedback", [new("b")])
    assert [r.key for r in log.read("feedback", ends)] == ["b"]


def test_topics_do_not_mix(log: EventLog) -> None:
    log.append("feedback", [new("f")])
    log.append("policies", [new("p")])
    log.append("dead-letter", [new("d")])
    assert [r.key for r in drain(log, "feedback")] == ["f"]
    assert [r.key for r in drain(log, "policies")] == ["p"]
    assert [r.key for r in drain(log, "dead-letter")] == ["d"]
    assert drain(log, "completions") == []


def test_appending_nothing_does_nothing(log: EventLog) -> None:
    log.append("feedback", [])
    assert drain(log, "feedback") == []


def test_erased_records_are_gone_or_have_a_tombstone_in_their_partition(
    opener: Opener, request: pytest.FixtureRequest
) -> None:
    """Kafka keeps the records until it compacts the topic, so read the tombstones directly."""
    log = opener()
    log.append("feedback", [new(f"{i}-{j}", partition_key=f"p{i}") for i in range(9) for j in "ab"])
    keys = [RecordKey(f"{i}-a", f"p{i}") for i in range(9)]
    for _ in range(2):  # repeated and unknown keys are ignored
        log.erase("feedback", [*keys, RecordKey("nothing", "p1")])
    log.erase("feedback", [])
    log.append("feedback", [new("after", partition_key="p1")])
    if isinstance(log, KafkaLog):
        compacted = last_values(log)
        assert {k for k, v in compacted.items() if v is None} == {k.key for k in keys} | {"nothing"}
        kept = {k for k, v in compacted.items() if v is not None}
    else:
        kept = {r.key for r in drain(log, "feedback")}
    assert kept == {f"{i}-b" for i in range(9)} | {"after"}


def last_values(log: KafkaLog) -> dict[str, bytes | None]:
    """Return the value of each key that compaction would keep in any partition, or None."""
    name = f"{log._settings.prefix}.feedback"
    consumer = KafkaConsumer(**log._settings.client(), group_id=None, auto_offset_reset="earliest")
    partitions = [TopicPartition(name, n) for n in sorted(consumer.partitions_for_topic(name))]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    found: dict[tuple[int, bytes], bytes | None] = {}
    while any(consumer.position(p) < end for p, end in ends.items()):
        for partition, batch in consumer.poll(500).items():
            found.update({(partition.partition, raw.key): raw.value for raw in batch})
    consumer.close()
    kept: dict[str, bytes | None] = {}
    for (_, key), value in found.items():
        kept[key.decode()] = value if value is not None else kept.get(key.decode())
    return kept


def test_a_reader_resumes_after_erased_records(opener: Opener) -> None:
    log = opener()
    log.append("feedback", [new("a"), new("b")])
    positions = {r.partition: r.offset + 1 for r in drain(log, "feedback")}
    log.erase("feedback", [RecordKey("b", "p")])
    assert log.read("feedback", positions) == []
    log.append("feedback", [new("c")])
    for reader in (log, opener()):
        assert [r.key for r in reader.read("feedback", positions)] == ["c"]


def test_another_client_sees_what_was_appended(opener: Opener) -> None:
    first, second = opener(), opener()
    first.append("feedback", [new("a")])
    assert [r.key for r in drain(second, "feedback")] == ["a"]
    second.append("feedback", [new("b")])
    assert [r.key for r in drain(first, "feedback")] == ["a", "b"]


def test_records_survive_reopening(opener: Opener) -> None:
    log = opener()
    log.append("feedback", [new("a"), new("b")])
    before = drain(log, "feedback")
    log.close()
    assert drain(opener(), "feedback") == before


def test_a_reader_misses_nothing_while_two_clients_write(opener: Opener) -> None:
    """A follower sees every record once, in the order of each writer."""
    writers, reader = [opener(), opener()], opener()

    def write(name: str, log: EventLog) -> None:
        for i in range(40):
            log.append("feedback", [new(f"{name}-{i}-{part}") for part in range(2)])

    threads = [
        threading.Thread(target=write, args=pair) for pair in zip("ab", writers, strict=True)
    ]
    for thread in threads:
        thread.start()
    positions: dict[int, int] = {}
    seen: list[str] = []
    deadline = time.monotonic() + 60
    while len(seen) < 160 and time.monotonic() < deadline:
        batch = reader.read("feedback", positions, 10)
        seen += [r.key for r in batch]
        positions.update({r.partition: r.offset + 1 for r in batch})
    for name in "ab":
        keys = [key for key in seen if key.startswith(name)]
        assert keys == [f"{name}-{i}-{part}" for i in range(40) for part in range(2)]


def test_records_of_one_call_stay_contiguous_among_many_threads(log: EventLog) -> None:
    def write(thread: int) -> None:
        for call in range(5):
            log.append("feedback", [new(f"{thread}-{call}-{i}") for i in range(3)])

    threads = [threading.Thread(target=write, args=(t,)) for t in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [r.key for r in drain(log, "feedback")]
    assert sorted(keys) == sorted(
        f"{t}-{c}-{i}" for t in range(16) for c in range(5) for i in range(3)
    )
    starts = [position for position, key in enumerate(keys) if key.endswith("-0")]
    for start in starts:
        call = keys[start].removesuffix("-0")
        assert keys[start : start + 3] == [f"{call}-{i}" for i in range(3)]


def test_a_closed_log_raises(log: EventLog) -> None:
    log.append("feedback", [new("a")])
    log.close()
    log.close()
    with pytest.raises(LogError):
        log.append("feedback", [new("b")])
    with pytest.raises(LogError):
        log.erase("feedback", [RecordKey("a")])
    with pytest.raises(LogError):
        log.read("feedback", {})
    with pytest.raises(LogError):
        log.ends("feedback")
