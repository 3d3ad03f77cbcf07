"""Create the topics on Kafka with settings that keep every record, or check them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, get_args

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from feedback.log.event_log import MAX_RECORD_BYTES, LogError, LogUnavailable, Topic

logger = logging.getLogger("plaudit.feedback")

TOPICS: Final[tuple[Topic, ...]] = get_args(Topic)
_PARTITIONS: Final[Mapping[Topic, int]] = {"completions": 6, "feedback": 6}
_DAY_MS: Final = 24 * 60 * 60 * 1000
_NEVER: Final = 2**63 - 1
# Keys are unique, so compaction removes only records that have a tombstone.
_CONFIGS: Final = {
    "cleanup.policy": "compact",
    "max.compaction.lag.ms": str(7 * _DAY_MS),
    "max.message.bytes": str(MAX_RECORD_BYTES),
}


def name_of(prefix: str, topic: Topic) -> str:
    """Return a topic's name on Kafka.

    Raises:
        ValueError: The topic is unknown.

    """
    if topic not in TOPICS:
        raise ValueError(f"unknown topic {topic!r}; the topics are {', '.join(TOPICS)}")
    return f"{prefix}.{topic}"


def lease_topic(prefix: str) -> str:
    """Return the name of the topic that learners compete for; it holds no records."""
    return f"{prefix}.lease"


def check_topics(client: Mapping[str, Any], prefix: str, replication: int | None) -> None:
    """Create the missing topics; reject existing ones whose settings would lose records.

    Settings that only may lose some are logged as warnings.

    Args:
        client: Options for kafka-python's clients.
        prefix: Prefix of the topic names on Kafka.
        replication: Replication factor of new topics; None: three, or the number of brokers if
            there are fewer.

    Raises:
        LogError: A topic's settings would lose records; the message says which and how to fix it.
        KafkaError: Kafka is unavailable or refused the request.

    """
    admin = KafkaAdminClient(**client)
    try:
        existing = set(admin.list_topics())
        names = {topic: name_of(prefix, topic) for topic in TOPICS}
        missing = {topic: name for topic, name in names.items() if name not in existing}
        if missing:
            copies = replication or min(3, len(admin.describe_cluster()["brokers"]))
            _create(admin, missing, copies)
        if lease_topic(prefix) not in existing:
            with suppress(TopicAlreadyExistsError):
                admin.create_topics({lease_topic(prefix): {"num_partitions": 1}})
        _check(admin, {t: name for t, name in names.items() if t not in missing})
    finally:
        admin.close()


def _create(admin: KafkaAdminClient, missing: Mapping[Topic, str], copies: int) -> None:
    # An acknowledged record is then on two brokers; with two copies, both must be up to write.
    configs = {**_CONFIGS, "min.insync.replicas": str(min(2, copies))}
    for topic, name in missing.items():
        options = {
            "num_partitions": _PARTITIONS.get(topic, 1),
            "replication_factor": copies,
            "configs": configs,
        }
        with suppress(TopicAlreadyExistsError):  # another process was faster
            admin.create_topics({name: options})
    admin.wait_for_topics(list(missing.values()))


def _check(admin: KafkaAdminClient, present: Mapping[Topic, str]) -> None:
    if not present:
        return
    partitions = _partitions(admin, list(present.values()))
    if "policies" in present and len(partitions[present["policies"]]) != 1:
        raise LogError(
            f"the Kafka topic {present['policies']} has {len(partitions[present['policies']])} "
            "partitions; it must have exactly one, because its records must stay in order"
        )
    for name, config in _configs(admin, list(present.values())).items():
        copies = max(len(partition["replica_nodes"]) for partition in partitions[name])
        for loss in topic_losses(config, copies):
            raise LogError(f"the Kafka topic {name} {loss}")
        for risk in topic_risks(config, copies):
            logger.warning("The Kafka topic %s %s", name, risk)


def topic_losses(config: Mapping[str, str], copies: int) -> Iterator[str]:
    """Yield what in a topic's settings loses records, and what to set instead.

    Args:
        config: The topic's settings.
        copies: Its replication factor.

    """
    policy = config["cleanup.policy"]
    for limit in ("retention.ms", "retention.bytes"):
        if "delete" in policy and config[limit] != "-1":
            yield (
                f"deletes old records (cleanup.policy={policy}, {limit}={config[limit]}); set "
                f"cleanup.policy=compact, or {limit}=-1"
            )
    if copies > 1 and config["unclean.leader.election.enable"] == "true":
        yield (
            "may elect a leader that lacks acknowledged records "
            "(unclean.leader.election.enable=true); set it to false"
        )


def topic_risks(config: Mapping[str, str], copies: int) -> Iterator[str]:
    """Yield what in a topic's settings may lose or refuse some records, and what to set instead."""
    if copies > 1 and int(config["min.insync.replicas"]) < 2:
        yield (
            "acknowledges records that only one broker has (min.insync.replicas="
            f"{config['min.insync.replicas']}), which are lost with it; set it to 2"
        )
    if int(config["max.message.bytes"]) < MAX_RECORD_BYTES:
        yield (
            f"refuses records above {config['max.message.bytes']} bytes, which are set aside "
            f"unused; set max.message.bytes={MAX_RECORD_BYTES}"
        )


def list_risks(client: Mapping[str, Any], prefix: str) -> list[str]:
    """Return what `topic_risks` says of each topic.

    Raises:
        KafkaError: Kafka is unavailable or refused the request.

    """
    admin = KafkaAdminClient(**client)
    try:
        names = [name_of(prefix, topic) for topic in TOPICS]
        partitions = _partitions(admin, names)
        return [
            f"the Kafka topic {name} {risk}"
            for name, config in _configs(admin, names).items()
            for risk in topic_risks(config, max(len(p["replica_nodes"]) for p in partitions[name]))
        ]
    finally:
        admin.close()


def _partitions(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return each topic's partitions, by the topic's name."""
    return {found["name"]: found["partitions"] for found in admin.describe_topics(list(names))}


def _configs(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    by_type: dict[str, Any] = admin.describe_configs(resources, config_filter="all")
    found: dict[str, Any] = next(iter(by_type.values()), {})
    return {n: {k: v["value"] for k, v in config.items()} for n, config in found.items()}


def compaction_lags(
    client: Mapping[str, Any], prefix: str, topics: Sequence[Topic]
) -> dict[str, int | None]:
    """Return within how many milliseconds each topic must compact records that have a tombstone.

    The keys are the topics' names on Kafka. None means that there is no limit. The active segment
    of a partition is not compacted before the first record that arrives after that time.

    Raises:
        LogUnavailable: Kafka is unavailable or refused the request.

    """
    lags: dict[str, int | None] = {}
    try:
        admin = KafkaAdminClient(**client)
        try:
            configs = _configs(admin, [name_of(prefix, topic) for topic in topics])
        finally:
            admin.close()
    except (KafkaError, OSError) as error:
        raise LogUnavailable(f"cannot read the compaction settings from Kafka: {error}") from error
    for name, config in configs.items():
        lag = int(config["max.compaction.lag.ms"])
        compacts = "compact" in config["cleanup.policy"] and lag < _NEVER
        lags[name] = lag if compacts else None
    return lags


def record_limits(client: Mapping[str, Any], prefix: str) -> dict[str, int]:
    """Return the largest batch of records that each topic takes, in bytes, by its name on Kafka.

    Raises:
        KafkaError: Kafka is unavailable or refused the request.

    """
    admin = KafkaAdminClient(**client)
    try:
        configs = _configs(admin, [name_of(prefix, topic) for topic in TOPICS])
    finally:
        admin.close()
    return {
        name: min(MAX_RECORD_BYTES, int(config["max.message.bytes"]))
        for name, config in configs.items()
    }
