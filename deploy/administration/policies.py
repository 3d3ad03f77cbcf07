"""`plaudit policies`: which versions there are, what is live, and choosing another."""

import datetime
from pathlib import Path
from typing import Final

from google.protobuf import json_format
from rich.table import Table

from deploy.errors import DeployError
from feedback.control.history import History
from feedback.control.operations import Operations
from feedback.control.policies import current_state
from feedback.control.versions import Versions
from feedback.log import opening
from feedback.log.event_log import EventLog
from feedback.log.kafka_settings import KafkaSettings
from protos.checkpoints.registry import RegistryError
from protos.checkpoints.shared_registry import open_registry

REPORT: Final = "report.md"


def open_log(home: Path) -> EventLog:
    """Open the log of an installation.

    Raises:
        DeployError: There is none in `home`.

    """
    if not KafkaSettings().servers and not (home / "log.db").is_file():
        raise DeployError(f"{home} holds no Plaudit: start one with 'plaudit up --home {home}'")
    return opening.open_log(home)


def log_description(home: Path) -> str:
    """Say which log the settings name."""
    servers = KafkaSettings().servers
    return f"Kafka at {servers}" if servers else f"SQLite, {(home / 'log.db').absolute()}"


def list_policies(home: Path) -> Table:
    """Return a table of all versions."""
    history = History(open_log(home))
    state = history.poll()
    table = Table(title="held: nothing new goes live" if state.held else None)
    for column in ("version", "parent", "made", "votes", "judge's win rate", "status", "serving"):
        table.add_column(column)
    for one in Versions(open_registry(home)).list_versions(history.snapshot()):
        made = datetime.datetime.fromtimestamp(one.created).isoformat(" ", "seconds")
        win_rate = one.figures.get("win_rate")
        standing = one.status.replace("_", " ") if one.status != "published" else ""
        table.add_row(
            str(one.version),
            str(one.parent or ""),
            made,
            str(one.votes or ""),
            "" if win_rate is None else f"{win_rate:.2f}",
            standing if one.size else f"{standing} (pruned)".strip(),
            ", ".join(one.serving(state)),
        )
    return table


def show(home: Path, version: int) -> str:
    """Return a version's manifest as JSON, after checking its files.

    Raises:
        DeployError: It does not exist or has been altered.

    """
    try:
        manifest = open_registry(home).verify(version)
    except RegistryError as error:
        raise DeployError(str(error)) from error
    return json_format.MessageToJson(manifest, indent=2)


def report_folder(home: Path, version: int | None) -> Path:
    """Return the folder where a version's report is, if it has one (the first has none).

    Args:
        version: None for the last learning cycle that ended in this home, published or not.

    Raises:
        DeployError: The version does not exist or has been altered; or no cycle has ended.

    """
    if version is not None:
        show(home, version)
        return open_registry(home).path(version)
    found = [path.parent for path in (home / "learner" / "cycles").glob(f"*/{REPORT}")]
    if not found:
        raise DeployError(f"no learning cycle has ended in {home}")
    return max(found, key=lambda folder: int(folder.name))


def operations(home: Path) -> Operations:
    """Return what operators do to the policies of an installation.

    Raises:
        DeployError: There is none in `home`.

    """
    log = open_log(home)
    return Operations(log, open_registry(home), History(log))


def prune(home: Path, keep: int) -> str:
    """Delete all but the latest `keep` checkpoints; say which.

    The first stays too (every policy is measured against it), and so do the live one, the one on
    trial, the one that a roll-back goes to, those that a replica serves, and what these adapt.
    """
    state = current_state(open_log(home))
    registry = open_registry(home)
    versions = registry.versions()
    kept = {1, state.live, state.challenger, state.previous, *state.replicas.values()}
    kept |= set(versions[-keep:])
    kept |= {registry.manifest(version).adapter_base for version in kept & set(versions)}
    gone = [version for version in versions if version not in kept]
    for version in gone:
        registry.delete(version)
    return f"Deleted {', '.join(map(str, gone))}." if gone else "Nothing to delete."
