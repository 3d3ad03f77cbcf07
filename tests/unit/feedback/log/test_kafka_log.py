"""The log on Kafka with a producer that never reaches a broker unless a test says so."""

from collections.abc import Iterator
from typing import Any

import pytest
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from kafka.future import Future

from feedback.api.requests import COMPLETION_BODY_BYTES
from feedback.log import kafka_log, kafka_topics
from feedback.log.event_log import (
    MAX_RECORD_BYTES,
    LogUnavailable,
    NewRecord,
    RecordKey,
    RecordsRefused,
    Topic,
)
from feedback.log.kafka_log import KafkaLog
from feedback.log.kafka_settings import KafkaSettings


class PendingFuture(Future):  # type: ignore[misc]
    """A future that times out at once while it is pending."""

    def get(self, timeout: float) -> None:
        if not self.is_done:
            raise KafkaTimeoutError(f"timeout after {timeout:.0f} s")
        if self.exception is not None:
            raise self.exception


class FakeProducer:
    """Holds what is sent until `deliver`."""

    def __init__(self, **config: Any) -> None:
        self.config = config
        self.sent: list[tuple[str, PendingFuture]] = []
        self.available = True
        self.failure: KafkaError | None = None
        self._sender = self

    def force_close(self) -> None:
        pass

    def partitions_for(self, _: str) -> set[int]:
        return {0}

    def send(self, _: str, *, key: bytes, value: bytes | None, **__: Any) -> PendingFuture:
        assert len(value or b"") < self.config["max_request_size"]
        future = PendingFuture()
        self.sent.append((key.decode(), future))
        if self.failure is not None:
            future.failure(self.failure)
        elif self.available:
            future.success(None)
        return future

    def deliver(self) -> None:
        self.available = True
        for _, future in self.sent:
            if not future.is_done:
                future.success(None)

    def keys(self) -> list[str]:
        return [key for key, _ in self.sent]

    def close(self, **_: Any) -> None:
        pass


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaLog]:
    monkeypatch.setattr(kafka_log, "KafkaProducer", FakeProducer)
    monkeypatch.setattr(kafka_log, "check_topics", lambda *_: None)
    monkeypatch.setattr(kafka_log, "record_limits", lambda *_: {"plaudit.policies": 2000})
    log = KafkaLog(KafkaSettings(servers="nowhere:1", max_pending=4))
    yield log
    log.close()


def producer_of(log: KafkaLog) -> FakeProducer:
    producer: Any = log._producer
    assert isinstance(producer, FakeProducer)
    return producer


def new(key: str, value: bytes = b"v") -> NewRecord:
    return NewRecord(key, "some.Type", value)


def test_body_record_request_and_topic_have_limits_that_fit(log: KafkaLog) -> None:
    assert producer_of(log).config["max_request_size"] == MAX_RECORD_BYTES
    assert kafka_topics._CONFIGS["max.message.bytes"] == str(MAX_RECORD_BYTES)
    assert COMPLETION_BODY_BYTES * 2 <= MAX_RECORD_BYTES, (
        "a record has the text of its request, its token ids and the answers"
    )


def test_a_record_that_is_repeated_while_kafka_is_away_is_sent_once(log: KafkaLog) -> None:
    producer = producer_of(log)
    producer.available = False
    for _ in range(10):
        with pytest.raises(LogUnavailable):
            log.append("completions", [new("a"), new("b")])
    assert producer.keys() == ["a", "b"]
    producer.deliver()
    log.append("completions", [new("a"), new("b")])
    assert producer.keys() == ["a", "b", "a", "b"], "no attempt is in progress any more"


def test_a_record_of_the_same_key_with_other_bytes_is_another_record(log: KafkaLog) -> None:
    producer = producer_of(log)
    producer.available = False
    for record in (new("a"), new("a", b"other")):
        with pytest.raises(LogUnavailable):
            log.append("feedback", [record])
    with pytest.raises(LogUnavailable):
        log.erase("feedback", [RecordKey("a")])
    assert producer.keys() == ["a", "a", "a"]


def test_the_room_of_a_record_is_free_only_when_its_attempt_has_ended(log: KafkaLog) -> None:
    producer = producer_of(log)
    producer.available = False
    for key in "abcd":
        with pytest.raises(LogUnavailable, match="timeout"):
            log.append("feedback", [new(key)])
    with pytest.raises(LogUnavailable, match="too many"):
        log.append("feedback", [new("e")])
    assert producer.keys() == list("abcd")
    producer.deliver()
    log.append("feedback", [new(key) for key in "efghi"])
    assert producer.keys() == list("abcdefghi"), "a single call is never too large"


def test_the_room_is_bounded_in_bytes_too(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_pending", kafka_log._PendingRecords(1000, max_bytes=30))
    producer_of(log).available = False
    for key in "abc":
        with pytest.raises(LogUnavailable, match="timeout"):
            log.append("completions", [new(key, bytes(9))])
    with pytest.raises(LogUnavailable, match="too many"):
        log.append("completions", [new("d", bytes(9))])


@pytest.mark.parametrize(
    ("topic", "limit"), [("completions", MAX_RECORD_BYTES), ("policies", 2000)]
)
def test_a_record_that_is_too_large_is_refused_and_the_others_are_stored(
    log: KafkaLog, topic: Topic, limit: int
) -> None:
    largest = bytes(limit - kafka_log._OVERHEAD_BYTES - 1)
    with pytest.raises(RecordsRefused, match="bytes, and Kafka takes at most") as error:
        log.append(topic, [new("a", largest), new("b", largest + bytes(1)), new("c")])
    assert error.value.reasons.keys() == {"b"}
    assert producer_of(log).keys() == ["a", "c"]


def test_a_producer_that_has_failed_for_good_is_replaced(log: KafkaLog) -> None:
    failed = producer_of(log)
    failed.failure = MessageSizeTooLargeError("the topic's limit was lowered")
    with pytest.raises(LogUnavailable, match="lowered"):
        log.append("completions", [new("a")])
    log.append("completions", [new("a")])
    assert producer_of(log) is not failed
    assert producer_of(log).keys() == ["a"]
