"""The checks of `plaudit doctor` on the log, the registry and the clock."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from deploy.administration.policies import log_description
from deploy.inspection.findings import Finding
from feedback.control.history import History
from feedback.control.keys import KeyRing
from feedback.errors import FeedbackError
from feedback.log.event_log import EventLog, Topic
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import TOPICS, lease_topic, list_risks, name_of
from feedback.opening import open_log
from feedback.registry import open_registry
from protos.checkpoints.registry import CheckpointInvalid, RegistryError
from protos.checkpoints.shared_registry import RegistrySettings
from protos.checkpoints.signatures import ManifestUntrusted

_CLOCK_SECONDS: Final = 5.0
_COUNTED: Final[tuple[Topic, ...]] = ("completions", "feedback")
# SQLite's WAL needs shared memory, which these file systems do not provide.
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"}
)


class LogState:
    """The log, and the state that its policy events describe, as far as it can be read.

    Attributes:
        log: The opened log; None if there is none, or it cannot be opened.
        live: The live version; 0 for none.
        keys: The API keys; None if the log cannot be read.

    """

    log: EventLog | None = None
    live: int = 0
    keys: KeyRing | None = None

    def check(self, home: Path) -> Finding:
        """Open the log, if it exists, and read its policy events."""
        settings = KafkaSettings()
        if not settings.servers and (kind := file_system(home)) in _NETWORK_FILE_SYSTEMS:
            text = f"{home} is on a network file system ({kind}), where SQLite loses data"
            advice = "use a folder on a local disk, or Kafka (--kafka)"
            return Finding("problem", "log", text, advice)
        try:
            if missing := _missing_parts(settings, home):
                self.keys = KeyRing()
                return Finding("ok", "log", f"created on the first start: {missing}")
            self.log = open_log(home)
            ends = {topic: sum(self.log.ends(topic).values()) for topic in _COUNTED}
            history = History(self.log)
            self.live, self.keys = history.poll().live, history.keys
            risks = list_risks(settings.client(), settings.prefix) if settings.servers else []
        except (FeedbackError, KafkaError) as error:
            advice = (
                "start the brokers or correct their address"
                if settings.servers
                else "check whether the file is damaged, or locked by another process"
            )
            return Finding(
                "problem", "log", str(error), f"{advice}; then run 'plaudit doctor' again"
            )
        if risks:
            return Finding("warning", "log", risks[0], "change it with kafka-configs --alter")
        counted = f"{ends['completions']} completions, {ends['feedback']} feedback events"
        return Finding("ok", "log", f"{log_description(home)}: {counted}")

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()


def _missing_parts(settings: KafkaSettings, home: Path) -> str:
    """Return the names of what opening the log would create; empty if all of it exists.

    Raises:
        KafkaError: Kafka cannot be reached, or refuses the request.

    """
    if not settings.servers:
        return "" if (home / "log.db").is_file() else f"SQLite, {home / 'log.db'}"
    admin = KafkaAdminClient(**settings.client())
    try:
        existing = admin.list_topics()
    finally:
        admin.close()
    prefix = settings.prefix
    names = [*(name_of(prefix, topic) for topic in TOPICS), lease_topic(prefix)]
    missing = ", ".join(name for name in names if name not in existing)
    return f"Kafka at {settings.servers}: {missing}" if missing else ""


def nearest_existing(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def file_system(path: Path) -> str:
    """Return the type of the file system that a path is on, or an empty string if unknown."""
    mount_point = kind = ""
    absolute = path.absolute()
    for mount in psutil.disk_partitions(all=True):
        if absolute.is_relative_to(mount.mountpoint) and len(mount.mountpoint) >= len(mount_point):
            mount_point, kind = mount.mountpoint, mount.fstype
    return kind


def check_registry(home: Path, live: int) -> Finding:
    """Check that the registry is writable and that the live version (0 for none) is intact."""
    advice = "check the URL of --registry, its driver, the credentials and the permissions"
    if not live and not _registry_exists(home):
        folder = nearest_existing(home)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            text = f"{home / 'registry'} cannot be created: {folder} is not a writable folder"
            advice = "choose another folder with --home, or make it writable"
            return Finding("problem", "registry", text, advice)
        return Finding("ok", "registry", f"created on the first start: {home / 'registry'}")
    try:
        registry = open_registry(home)
        registry.check_writable()
        versions = registry.versions()
        if live:
            registry.verify(live)
    except ManifestUntrusted as error:
        return Finding("problem", "registry", str(error), "then run 'plaudit doctor' again")
    except CheckpointInvalid as error:
        advice = "restore its files, or go back to another version: plaudit policies rollback"
        return Finding("problem", "registry", f"the live version is damaged: {error}", advice)
    except (RegistryError, OSError) as error:
        return Finding("problem", "registry", str(error), advice)
    intact = f"; version {live} is live and intact" if live else ""
    return Finding("ok", "registry", f"{len(versions)} versions in a writable registry{intact}")


def _registry_exists(home: Path) -> bool:
    return bool(RegistrySettings().registry) or (home / "registry").is_dir()


def first_policy_folder(home: Path) -> Path | None:
    """Return the folder of version 1, or None if it does not exist or is damaged."""
    try:
        if not _registry_exists(home):
            return None
        registry = open_registry(home)
        registry.verify(1)
    except (RegistryError, OSError):
        return None  # check_registry reports the reason
    return registry.path(1)


def check_clock(home: Path, log: EventLog | None, now: Callable[[], float] = time.time) -> Finding:
    """Compare this machine's clock with the file system's and with the log's last records."""
    advice = "synchronise the clocks of all machines by NTP, such as systemd-timesyncd or chrony"
    folder = home if home.is_dir() else Path(tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock") as file:
        file.write(b"?")
        file.flush()
        difference = os.stat(file.name).st_mtime - now()
    if abs(difference) > _CLOCK_SECONDS:
        text = (
            f"the clock of the file system of {folder} is {difference:+.0f} s from this machine's"
        )
        return Finding("problem", "clock", text, advice)
    topics: tuple[Topic, ...] = ("policies", "feedback")
    last = max(last_record(log, topic) for topic in topics) if log is not None else 0.0
    ahead = last - now()
    if ahead > _CLOCK_SECONDS:
        text = f"the log has a record from {ahead:.0f} s in the future, by this machine's clock"
        return Finding("problem", "clock", text, advice)
    return Finding(
        "ok", "clock", "it agrees with the file system's, and is not behind the log's last records"
    )


def last_record(log: EventLog, topic: Topic) -> float:
    """Return the time of a topic's last record in Unix seconds; 0 for none."""
    ends = {partition: end for partition, end in log.ends(topic).items() if end > 0}
    if not ends:
        return 0.0
    records = log.read(topic, {partition: end - 1 for partition, end in ends.items()})
    return max((record.timestamp_ms for record in records), default=0) / 1000
