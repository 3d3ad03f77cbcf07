"""Settings of Kafka's topics: which lose records, and which may."""

import pytest

from feedback.log.event_log import MAX_RECORD_BYTES
from feedback.log.kafka_topics import topic_losses, topic_risks

SAFE = {
    "cleanup.policy": "compact",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "unclean.leader.election.enable": "false",
    "min.insync.replicas": "2",
    "max.message.bytes": str(MAX_RECORD_BYTES),
}


def test_settings_that_keep_every_record_pass() -> None:
    assert not [*topic_losses(SAFE, 3), *topic_risks(SAFE, 3)]
    kept = SAFE | {"cleanup.policy": "delete", "retention.ms": "-1"}
    assert not [*topic_losses(kept, 3), *topic_risks(kept, 3)]
    alone = SAFE | {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"}
    assert not [*topic_losses(alone, 1), *topic_risks(alone, 1)]


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"cleanup.policy": "delete"}, "or retention.ms=-1"),
        ({"cleanup.policy": "compact,delete"}, "or retention.ms=-1"),
        (
            {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "1073741824"},
            "or retention.bytes=-1",
        ),
        ({"unclean.leader.election.enable": "true"}, "set it to false"),
    ],
)
def test_settings_that_lose_records_are_named(wrong: dict[str, str], advice: str) -> None:
    (loss,) = topic_losses(SAFE | wrong, 2)
    assert loss.endswith(advice)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"min.insync.replicas": "1"}, "set it to 2"),
        ({"max.message.bytes": "1048588"}, f"set max.message.bytes={MAX_RECORD_BYTES}"),
    ],
)
def test_settings_that_may_lose_records_are_named(wrong: dict[str, str], advice: str) -> None:
    assert not [*topic_losses(SAFE | wrong, 2)]
    (risk,) = topic_risks(SAFE | wrong, 2)
    assert risk.endswith(advice)
