"""`plaudit policies`: list versions, show and prune them, and choose the live one."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Final

from google.protobuf import json_format
from rich.table import Table

from deploy.errors import DeployError
from feedback import opening
from feedback.control.history import History
from feedback.control.operations import Operations
from feedback.control.policies import current_state
from feedback.control.versions import Versions
from feedback.log.event_log import EventLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.registry import open_registry, sign_manifests
from protos.checkpoints.registry import RegistryError
from protos.checkpoints.shared_registry import RegistrySettings

REPORT: Final = "report.md"


def open_log(home: Path) -> EventLog:
    """Open the log of an installation.

    Raises:
        DeployError: There is no installation in `home`.

    """
    if not KafkaSettings().servers and not (home / "log.db").is_file():
        raise DeployError(
            f"there is no installation in {home}; start one with 'plaudit up --home {home}'"
        )
    return opening.open_log(home)


def log_description(home: Path) -> str:
    """Return which log the settings name, in words."""
    servers = KafkaSettings().servers
    return f"Kafka at {servers}" if servers else f"SQLite, {(home / 'log.db').absolute()}"


def list_policies(home: Path) -> Table:
    """Return a table of all versions."""
    history = History(open_log(home))
    state = history.poll()
    table = Table(title="Publishing is held: no new version goes live" if state.held else None)
    for column in (
        "version",
        "parent",
        "created",
        "votes",
        "win rate",
        "status",
        "served by",
    ):
        table.add_column(column)
    for version in Versions(open_registry(home)).list_versions(history.snapshot()):
        created = datetime.datetime.fromtimestamp(version.created).isoformat(" ", "seconds")
        win_rate = version.figures.get("win_rate")
        status = version.status.replace("_", " ") if version.status != "published" else ""
        table.add_row(
            str(version.version),
            str(version.parent or ""),
            created,
            str(version.votes or ""),
            "" if win_rate is None else f"{win_rate:.2f}",
            status if version.size else f"{status} (pruned)".strip(),
            ", ".join(version.serving(state)),
        )
    return table


def show(home: Path, version: int) -> str:
    """Return a version's manifest as JSON, after checking its files.

    Raises:
        DeployError: The version does not exist or is damaged.

    """
    try:
        manifest = open_registry(home).verify(version)
    except RegistryError as error:
        raise DeployError(str(error)) from error
    return json_format.MessageToJson(manifest, indent=2)


def report_folder(home: Path, version: int | None) -> Path:
    """Return the folder that holds a version's report; version 1 has no report.

    Args:
        home: Home folder of the installation.
        version: Version to show; None for the last learning cycle that ended in this home, whether
            or not it was published.

    Raises:
        DeployError: The version does not exist or is damaged, or no cycle has ended.

    """
    if version is not None:
        show(home, version)
        return open_registry(home).path(version)
    folders = [path.parent for path in (home / "learner" / "cycles").glob(f"*/{REPORT}")]
    if not folders:
        raise DeployError(f"no learning cycle has ended in {home}")
    return max(folders, key=lambda folder: int(folder.name))


def operations(home: Path) -> Operations:
    """Return the operations that operators can perform on the policies of an installation.

    Raises:
        DeployError: There is no installation in `home`.

    """
    log = open_log(home)
    return Operations(log, open_registry(home), History(log))


def sign(home: Path, echo: Callable[[str], None]) -> None:
    """Sign the manifests of the registry that have no signature, and print their versions.

    Raises:
        DeployError: The registry is shared, and the installation's secret is not in this home.

    """
    shared, secret = RegistrySettings().registry, home / "secret.json"
    if shared and not secret.is_file():
        raise DeployError(
            f"{secret} is missing, which the manifests in {shared} are to be signed with; copy the "
            "installation's secret.json there"
        )
    signed = sign_manifests(open_registry(home), echo)
    echo(f"Signed versions: {', '.join(map(str, signed))}." if signed else "Nothing to sign.")


def prune(home: Path, keep: int) -> str:
    """Delete all but the latest `keep` checkpoints, and return a message that names them.

    Also kept are version 1 (the reference policy), the live version, the challenger, the target of
    a rollback, the versions that replicas serve, and the bases of kept adapters.
    """
    state = current_state(open_log(home))
    registry = open_registry(home)
    versions = registry.versions()
    kept = {1, state.live, state.challenger, state.previous, *state.replicas.values()}
    kept |= set(versions[-keep:])
    kept |= {registry.manifest(version).adapter_base for version in kept & set(versions)}
    deleted = [version for version in versions if version not in kept]
    for version in deleted:
        registry.delete(version)
    return f"Deleted {', '.join(map(str, deleted))}." if deleted else "Nothing to delete."
