"""The ledger's offsets as Kafka's own tools show them."""

import uuid
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from deploy.local.broker import Broker
from feedback.ledger.store import Ledger
from feedback.log import kafka_offsets
from feedback.log.kafka_log import KafkaLog
from feedback.log.kafka_offsets import OffsetReporter, group_of
from feedback.log.kafka_settings import KafkaSettings
from tests.support.feedback_samples import completion, put, rating


def committed(settings: KafkaSettings, home: Path) -> dict[tuple[str, int], int]:
    """Return the group's committed offsets by topic (without its prefix) and partition."""
    group = group_of(settings.prefix, home)
    admin = KafkaAdminClient(**settings.client())
    found = admin.list_group_offsets({group: None})[group]
    admin.close()
    return {
        (p.topic.removeprefix(f"{settings.prefix}."), p.partition): o.offset
        for p, o in found.items()
    }


def test_the_group_shows_the_ledgers_position(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_offsets, "_EVERY_SECONDS", 60)
    settings = KafkaSettings(servers=kafka.address, prefix=f"t{uuid.uuid4().hex}")
    log, ledger = KafkaLog(settings), Ledger(tmp_path / "ledger.db")
    reporter = OffsetReporter(settings, tmp_path)
    put(log, completion("c1"), rating("e1"), rating("e2"))
    while ledger.counts().max_seq < 2:
        ledger.follow(log)
    reporter.show(ledger.positions())
    assert (
        sum(n for (topic, _), n in committed(settings, tmp_path).items() if topic == "feedback")
        == 2
    )
    before = committed(settings, tmp_path)

    put(log, rating("e3"))
    while ledger.counts().max_seq < 3:
        ledger.follow(log)
    reporter.show(ledger.positions())
    assert committed(settings, tmp_path) == before  # not yet due again
    monkeypatch.setattr(reporter, "_next", 0)
    reporter.show(ledger.positions())
    positions = ledger.positions()
    assert committed(settings, tmp_path) == {
        (topic, number): offset
        for topic, partitions in positions.items()
        for number, offset in partitions.items()
    }
    reporter.close()
    ledger.close()
    log.close()
