"""`plaudit policies`: which versions there are, what is live, and choosing another."""

import datetime
from pathlib import Path

from google.protobuf import json_format
from rich.table import Table

from deploy.errors import DeployError
from feedback import opening
from feedback.kafka_settings import KafkaSettings
from feedback.log import EventLog
from feedback.policies import PolicyState, current, publish_event
from protos.plaudit.v1.policy_pb2 import Activated, Hold
from protos.registry import RegistryError
from protos.shared_registry import open_registry


def open_log(home: Path) -> EventLog:
    """Open the log of an installation.

    Raises:
        DeployError: There is none in `home`.

    """
    if not KafkaSettings().servers and not (home / "log.db").is_file():
        raise DeployError(f"{home} holds no Plaudit: start one with 'plaudit up --home {home}'")
    return opening.open_log(home)


def _status(version: int, state: PolicyState) -> str:
    if version == state.live:
        return "live"
    return "rolled back" if version in state.rolled_back else ""


def list_policies(home: Path) -> Table:
    """Give a table of all versions."""
    state = current(open_log(home))
    registry = open_registry(home)
    table = Table(title="held: nothing new goes live" if state.held else None)
    for column in ("version", "parent", "made", "votes", "judge's win rate", "status", "serving"):
        table.add_column(column)
    there = registry.versions()
    for version in state.published:
        if version not in there:
            table.add_row(str(version), "", "", "", "", "pruned", "")
            continue
        manifest = registry.manifest(version)
        made = datetime.datetime.fromtimestamp(manifest.created_ms / 1000).isoformat(" ", "seconds")
        win_rate = manifest.gate.get("win_rate")
        replicas = sorted(name for name, v in state.replicas.items() if v == version)
        table.add_row(
            str(version),
            str(manifest.parent or ""),
            made,
            str(manifest.learned_from.events or ""),
            "" if win_rate is None else f"{win_rate:.2f}",
            _status(version, state),
            ", ".join(replicas),
        )
    return table


def show(home: Path, version: int) -> str:
    """Give a version's manifest as JSON, after checking its files.

    Raises:
        DeployError: It does not exist or has been altered.

    """
    try:
        manifest = open_registry(home).verify(version)
    except RegistryError as error:
        raise DeployError(str(error)) from error
    return json_format.MessageToJson(manifest, indent=2)


def activate(home: Path, version: int, by: str) -> str:
    """Make `version` the one that replicas serve; say what follows from it.

    Raises:
        DeployError: It was never published, or its files are not whole.

    """
    log = open_log(home)
    state = current(log)
    if version not in state.published:
        raise DeployError(f"there is no version {version}; see 'plaudit policies list'")
    show(home, version)
    publish_event(log, Activated(version=version, by=by))
    if version < state.live:
        return (
            f"Rolling back from version {state.live} to {version}. Nothing new goes live until "
            "'plaudit policies resume'."
        )
    return f"Version {version} goes live."


def rollback(home: Path, by: str) -> str:
    """Go back to the version that was live before.

    Raises:
        DeployError: There is none.

    """
    state = current(open_log(home))
    if not state.previous:
        raise DeployError(f"there is no version before {state.live} to go back to")
    return activate(home, state.previous, by)


def resume(home: Path, by: str) -> str:
    """Let new versions go live again."""
    log = open_log(home)
    if not current(log).held:
        return "Publishing was not held."
    publish_event(log, Hold(held=False, by=by))
    return "New versions go live again."


def prune(home: Path, keep: int) -> str:
    """Delete all but the latest `keep` checkpoints; say which.

    The first stays too (every policy is measured against it), and so do the live one, the one that
    a roll-back goes to, those that a replica serves, and the full weights under kept adapters.
    """
    state = current(open_log(home))
    registry = open_registry(home)
    versions = registry.versions()
    kept = {1, state.live, state.previous, *state.replicas.values(), *versions[-keep:]}
    kept |= {registry.manifest(version).adapter_base for version in kept.intersection(versions)}
    gone = [version for version in versions if version not in kept]
    for version in gone:
        registry.delete(version)
    return f"Deleted {', '.join(map(str, gone))}." if gone else "Nothing to delete."
