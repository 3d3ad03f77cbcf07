"""The topics on Kafka: made with the settings that keep every record, or checked for them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, get_args

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from feedback.log.event_log import LogError, LogUnavailable, Topic

TOPICS: Final[tuple[Topic, ...]] = get_args(Topic)
_PARTITIONS: Final[Mapping[Topic, int]] = {"completions": 6, "feedback": 6}
_DAY_MS: Final = 24 * 60 * 60 * 1000
_NEVER: Final = 2**63 - 1
# Keys are unique, so that compaction removes only what a tombstone asks it to remove.
_CONFIGS: Final = {
    "cleanup.policy": "compact",
    "max.compaction.lag.ms": str(7 * _DAY_MS),
    "max.message.bytes": str(8 << 20),
}


def name_of(prefix: str, topic: Topic) -> str:
    """Return a topic's name on Kafka.

    Raises:
        ValueError: There is no such topic.

    """
    if topic not in TOPICS:
        raise ValueError(f"no such topic: {topic!r}; there are {', '.join(TOPICS)}")
    return f"{prefix}.{topic}"


def lease_topic(prefix: str) -> str:
    """Return the topic whose one partition says which learner leads; it holds no records."""
    return f"{prefix}.lease"


def check_topics(client: Mapping[str, Any], prefix: str, replication: int | None) -> None:
    """Make the topics that are absent; refuse those that are set up to lose records.

    Args:
        client: Options of kafka-python's clients.
        prefix: Of the topics' names on Kafka.
        replication: Copies of each record in new topics; None takes three, or as many as there
            are brokers.

    Raises:
        LogError: A topic's settings would lose records; the message says which and how to fix it.
        KafkaError: Kafka is away or refuses.

    """
    admin = KafkaAdminClient(**client)
    try:
        there = set(admin.list_topics())
        names = {topic: name_of(prefix, topic) for topic in TOPICS}
        absent = {topic: name for topic, name in names.items() if name not in there}
        if absent:
            copies = replication or min(3, len(admin.describe_cluster()["brokers"]))
            _create(admin, absent, copies)
        if lease_topic(prefix) not in there:
            with suppress(TopicAlreadyExistsError):
                admin.create_topics({lease_topic(prefix): {"num_partitions": 1}})
        _check(admin, {t: name for t, name in names.items() if t not in absent})
    finally:
        admin.close()


def _create(admin: KafkaAdminClient, absent: Mapping[Topic, str], copies: int) -> None:
    configs = {**_CONFIGS, "min.insync.replicas": str(max(1, copies - 1))}
    for topic, name in absent.items():
        wanted = {
            "num_partitions": _PARTITIONS.get(topic, 1),
            "replication_factor": copies,
            "configs": configs,
        }
        with suppress(TopicAlreadyExistsError):  # another of ours was faster
            admin.create_topics({name: wanted})
    admin.wait_for_topics(list(absent.values()))


def _check(admin: KafkaAdminClient, present: Mapping[Topic, str]) -> None:
    if not present:
        return
    if "policies" in present:
        (found,) = admin.describe_topics([present["policies"]])
        if len(found["partitions"]) != 1:
            raise LogError(
                f"the Kafka topic {present['policies']} has {len(found['partitions'])} partitions: "
                "it must have one, since its order is its meaning"
            )
    for name, config in _configs(admin, list(present.values())).items():
        policy, kept = config["cleanup.policy"], config["retention.ms"]
        if "delete" in policy and kept != "-1":
            raise LogError(
                f"the Kafka topic {name} forgets old records (cleanup.policy={policy}, "
                f"retention.ms={kept}): set cleanup.policy=compact, or retention.ms=-1"
            )


def _configs(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    by_type: dict[str, Any] = admin.describe_configs(resources, config_filter="all")
    found: dict[str, Any] = next(iter(by_type.values()), {})
    return {n: {k: v["value"] for k, v in config.items()} for n, config in found.items()}


def compaction_lags(
    client: Mapping[str, Any], prefix: str, topics: Sequence[Topic]
) -> dict[str, int | None]:
    """Give, by name on Kafka, the milliseconds within which topics compact what has a tombstone.

    None: they do not have to, ever. A partition's active segment is compacted no sooner than the
    next record that comes after that time.

    Raises:
        LogUnavailable: Kafka is away or refuses.

    """
    lags: dict[str, int | None] = {}
    try:
        admin = KafkaAdminClient(**client)
        try:
            configs = _configs(admin, [name_of(prefix, topic) for topic in topics])
        finally:
            admin.close()
    except (KafkaError, OSError) as error:
        raise LogUnavailable(f"Kafka does not tell how it compacts: {error}") from error
    for name, config in configs.items():
        lag = int(config["max.compaction.lag.ms"])
        compacts = "compact" in config["cleanup.policy"] and lag < _NEVER
        lags[name] = lag if compacts else None
    return lags
