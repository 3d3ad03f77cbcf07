"""Open the event log of an installation: on Kafka if it is configured, else on SQLite.

On Kafka policy events are signed. Whoever can write the SQLite file can read the secret beside it.
"""

from pathlib import Path

from feedback.home import prepare_home
from feedback.log.event_log import EventLog
from feedback.log.kafka_log import KafkaLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.outbox import OutboxLog
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.signing import SignedLog


def open_log(home: Path, *, outbox: str | None = None) -> EventLog:
    """Open the log that the settings (PLAUDIT_KAFKA_*) select.

    Args:
        home: Folder of the SQLite log or of the outbox, and of the installation's secret.
        outbox: Name of the outbox for completions on their way to Kafka; None sends them to
            Kafka directly.

    Raises:
        LogUnavailable: The log cannot be reached.
        LogError: The settings of a Kafka topic would lose records.
        HomeUnusable: The folder cannot be created or written.
        SchemaTooNew: A newer release has written the SQLite file.

    """
    settings = KafkaSettings()
    if not settings.servers or outbox:
        prepare_home(home)
    if not settings.servers:
        return SqliteLog(home / "log.db")
    log: EventLog = KafkaLog(settings)
    if outbox:
        log = OutboxLog(log, SqliteLog(home / f"{outbox}.db"))
    return SignedLog(log, home / "secret.json")
