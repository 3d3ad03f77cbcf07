"""The checks of `plaudit doctor` on what Plaudit keeps: the log, the registry, and the clock."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from deploy.findings import Finding
from feedback.kafka_settings import KafkaSettings
from feedback.log import EventLog, LogError, Topic
from feedback.opening import open_log
from protos.registry import CheckpointInvalid, RegistryError
from protos.shared_registry import open_registry

_CLOCK_SECONDS: Final = 5.0
# WAL needs memory that all processes share, which these do not give.
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"})


def check_log(home: Path) -> tuple[EventLog | None, Finding]:
    """Open the log, and on Kafka look at its topics; give it, where there is one."""
    servers = KafkaSettings().servers
    if not servers:
        if (kind := file_system(home)) in _REMOTE:
            text = f"{home} is on a network file system ({kind}), where SQLite loses data"
            advice = "use a folder on a disk of this machine, or Kafka (--kafka)"
            return None, Finding("problem", "log", text, advice)
        if not (home / "log.db").is_file():
            return None, Finding(
                "ok", "log", f"SQLite; {home / 'log.db'} is made on the first start"
            )
    try:
        log = open_log(home)
        ends = {topic: sum(log.ends(topic).values()) for topic in ("completions", "feedback")}
    except LogError as error:
        advice = "start the brokers, or mend their address" if servers else "see who holds the file"
        return None, Finding("problem", "log", str(error), f"{advice}; then run this again")
    where = f"Kafka at {servers}, topics as they must be" if servers else f"SQLite, {home}/log.db"
    counted = f"{ends['completions']} completions, {ends['feedback']} feedback events"
    return log, Finding("ok", "log", f"{where}: {counted}")


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Give the kind of file system that a path is on; empty where it cannot be told."""
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
    try:
        registry = open_registry(home)
        registry.probe()
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
    """Give the time of a topic's last records, Unix seconds; 0 for none."""
    ends = {partition: end for partition, end in log.ends(topic).items() if end > 0}
    if not ends:
        return 0.0
    records = log.read(topic, {partition: end - 1 for partition, end in ends.items()})
    return max((record.timestamp_ms for record in records), default=0) / 1000
