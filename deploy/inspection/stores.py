"""The checks of `plaudit doctor` on what Plaudit keeps: the log, the registry, and the clock."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from deploy.administration.policies import log_description
from deploy.inspection.findings import Finding
from feedback.control.history import History
from feedback.control.keys import KeyRing
from feedback.log.event_log import EventLog, LogError, Topic
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import TOPICS, lease_topic, name_of
from feedback.log.opening import open_log
from protos.checkpoints.registry import CheckpointInvalid, RegistryError
from protos.checkpoints.shared_registry import RegistrySettings, open_registry

_CLOCK_SECONDS: Final = 5.0
_COUNTED: Final[tuple[Topic, ...]] = ("completions", "feedback")
# WAL needs memory that all processes share, which these do not give.
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"})


class LogState:
    """The log and what its policy events say, as far as they can be read.

    Attributes:
        log: None where there is none.
        live: The live version; 0 for none.
        keys: None where they cannot be told.

    """

    log: EventLog | None = None
    live: int = 0
    keys: KeyRing | None = None

    def check(self, home: Path) -> Finding:
        """Open the log where there is one, on Kafka look at its topics, and read the policies."""
        settings = KafkaSettings()
        if not settings.servers and (kind := file_system(home)) in _REMOTE:
            text = f"{home} is on a network file system ({kind}), where SQLite loses data"
            advice = "use a folder on a disk of this machine, or Kafka (--kafka)"
            return Finding("problem", "log", text, advice)
        try:
            if absent := _missing_parts(settings, home):
                self.keys = KeyRing()
                return Finding("ok", "log", f"{absent} is made on the first start")
            self.log = open_log(home)
            ends = {topic: sum(self.log.ends(topic).values()) for topic in _COUNTED}
            history = History(self.log)
            self.live, self.keys = history.poll().live, history.keys
        except (LogError, KafkaError) as error:
            mend = "start the brokers, or mend their address"
            advice = mend if settings.servers else "see who holds the file"
            return Finding("problem", "log", str(error), f"{advice}; then run this again")
        counted = f"{ends['completions']} completions, {ends['feedback']} feedback events"
        return Finding("ok", "log", f"{log_description(home)}: {counted}")

    def close(self) -> None:
        """Let go of the log."""
        if self.log is not None:
            self.log.close()


def _missing_parts(settings: KafkaSettings, home: Path) -> str:
    """Name what opening the log would make; empty where all of it is there.

    Raises:
        KafkaError: Kafka is away or refuses.

    """
    if not settings.servers:
        return "" if (home / "log.db").is_file() else f"SQLite, {home / 'log.db'}"
    admin = KafkaAdminClient(**settings.client())
    try:
        there = admin.list_topics()
    finally:
        admin.close()
    prefix = settings.prefix
    names = [*(name_of(prefix, topic) for topic in TOPICS), lease_topic(prefix)]
    absent = ", ".join(name for name in names if name not in there)
    return f"Kafka at {settings.servers}: {absent}" if absent else ""


def nearest_existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that is there."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the kind of file system that a path is on; empty where it cannot be told."""
    found = ("", "")
    where = str(path.absolute())
    for line in mounts.read_text().splitlines() if mounts.is_file() else []:
        _, point, kind, *_ = line.split()
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def check_registry(home: Path, live: int) -> Finding:
    """Write to the registry, and check the files of the live version (0: there is none)."""
    advice = "see that the URL of --registry, its driver, credentials and rights are right"
    if not live and not _is_made(home):
        folder = nearest_existing(home)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            text = f"{home / 'registry'} cannot be made: {folder} is no folder to write in"
            return Finding("problem", "registry", text, "give another --home, or rights to it")
        return Finding("ok", "registry", f"{home / 'registry'} is made on the first start")
    try:
        registry = open_registry(home)
        registry.check_writable()
        versions = registry.versions()
        if live:
            registry.verify(live)
    except CheckpointInvalid as error:
        advice = "bring its files back, or go to another version: plaudit policies rollback"
        return Finding("problem", "registry", f"the live version is not whole: {error}", advice)
    except (RegistryError, OSError) as error:
        return Finding("problem", "registry", str(error), advice)
    whole = f"; version {live} is live, and whole" if live else ""
    return Finding("ok", "registry", f"{len(versions)} versions in a writable registry{whole}")


def _is_made(home: Path) -> bool:
    return bool(RegistrySettings().registry) or (home / "registry").is_dir()


def first_policy_folder(home: Path) -> Path | None:
    """Return the folder of version 1, whole; None where there is none, or it cannot be read."""
    try:
        if not _is_made(home):
            return None
        registry = open_registry(home)
        registry.verify(1)
    except (RegistryError, OSError):
        return None  # check_registry says what is wrong with it
    return registry.path(1)


def check_clock(home: Path, log: EventLog | None, now: Callable[[], float] = time.time) -> Finding:
    """Hold this machine's clock against the file system's and against the log's last records."""
    advice = "set the clock by NTP (for example systemd-timesyncd or chrony), on all machines"
    where = home if home.is_dir() else Path(tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(dir=where, prefix=".clock") as file:
        file.write(b"?")
        file.flush()
        apart = os.stat(file.name).st_mtime - now()
    if abs(apart) > _CLOCK_SECONDS:
        text = f"the file system of {where} is {apart:+.0f} s from this machine's clock"
        return Finding("problem", "clock", text, advice)
    topics: tuple[Topic, ...] = ("policies", "feedback")
    last = max(last_record(log, topic) for topic in topics) if log is not None else 0.0
    ahead = last - now()
    if ahead > _CLOCK_SECONDS:
        text = f"the log has a record from {ahead:.0f} s in this machine's future"
        return Finding("problem", "clock", text, advice)
    return Finding("ok", "clock", "it agrees with the file system, and is not behind the log")


def last_record(log: EventLog, topic: Topic) -> float:
    """Return the time of a topic's last records, Unix seconds; 0 for none."""
    ends = {partition: end for partition, end in log.ends(topic).items() if end > 0}
    if not ends:
        return 0.0
    records = log.read(topic, {partition: end - 1 for partition, end in ends.items()})
    return max((record.timestamp_ms for record in records), default=0) / 1000
