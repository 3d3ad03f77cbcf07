"""`plaudit backup`: copy a home folder to a new folder while Plaudit runs.

The order makes the copies fit each other. The learning cycles name rows of the ledger, and the
ledger and the views name offsets in the log, so each is copied before what it refers to. After a
restore they follow the log from where they are. The other way round, they would already be past
its end and skip the votes that come next. The log is copied after the command has begun, so it
contains every vote that was acknowledged before. A version is in the registry before the log
names it, so the registry comes after the log.
"""

import datetime
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version as release_of
from pathlib import Path
from typing import Final

from rich.filesize import decimal

from deploy.administration.backup_files import (
    BACKUP_MANIFEST,
    BackupFile,
    BackupManifest,
    check_space,
    copy_file,
    describe,
    file_sha256,
)
from deploy.errors import DeployError
from deploy.inspection.stores import nearest_existing
from feedback.home import FILE_MODE, FOLDER_MODE
from feedback.log.kafka_settings import KafkaSettings
from feedback.registry import SIGNED
from protos.checkpoints.durable import create_file, fsync, fsync_tree, partial_path
from protos.checkpoints.folder_registry import FolderRegistry
from protos.checkpoints.registry import MANIFEST, CheckpointInvalid
from protos.checkpoints.shared_registry import RegistrySettings

LOG: Final = "log.db"
SECRET: Final = "secret.json"
_Echo = Callable[[str], None]


def backup(home: Path, target: Path, echo: _Echo) -> None:
    """Copy the home folder to the folder `target`, which appears complete or not at all.

    Raises:
        DeployError: There is no installation in `home`, `target` is in use or its disk is full,
            or a file is damaged or cannot be copied.

    """
    started = time.monotonic()
    _check_folders(home, target)
    partial = partial_path(target)
    shutil.rmtree(partial, ignore_errors=True)  # of a backup that was killed
    try:
        check_space(nearest_existing(target), _total_size(home))
        echo(f"Backing up {home} to {target}:")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(FOLDER_MODE)
        manifest = _copy_home(home, partial, echo)
        fsync_tree(partial)
        os.rename(partial, target)  # fails if `target` has files by now
        fsync(target.parent)
    except (OSError, ValueError, CheckpointInvalid) as error:
        raise DeployError(f"the backup failed, and {target} was not written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size, seconds = sum(file.size for file in manifest.files), time.monotonic() - started
    echo(f"Backed up {len(manifest.files)} files, {decimal(size)}, in {seconds:.0f} s.")
    for note in manifest.not_included:
        echo(f"Not in the backup: {note}")


def _check_folders(home: Path, target: Path) -> None:
    if not (home / SECRET).is_file() and not _databases(home):
        raise DeployError(f"there is no installation in {home}; name its folder with --home")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DeployError(f"{target} exists and is not an empty folder; name a new folder")
    if target.is_mount():
        raise DeployError(f"{target} is a mount point; name a new folder in it")


def _copy_home(home: Path, partial: Path, echo: _Echo) -> BackupManifest:
    created = datetime.datetime.now(datetime.UTC)
    _copy_tree(home, partial, "learner", _cycle_files(home), echo)
    for database in _databases(home):
        _copy_database(database, partial / database.name)
        echo(describe(database.name, (partial / database.name).stat().st_size) + "  intact")
    _copy_registry(home, partial, echo)
    _copy_tree(home, partial, "models", _model_files(home), echo)
    if (home / SECRET).is_file():
        _copy_tree(home, partial, SECRET, iter([home / SECRET]), echo)
    files = (path for path in sorted(partial.rglob("*")) if path.is_file())
    manifest = BackupManifest(
        plaudit=release_of("plaudit"),
        created=created,
        home=str(home.absolute()),
        files=tuple(
            BackupFile(
                path=file.relative_to(partial).as_posix(),
                size=file.stat().st_size,
                sha256=file_sha256(file),
            )
            for file in files
        ),
        not_included=tuple(_not_included(home)),
    )
    text = manifest.model_dump_json(indent=2)
    create_file(partial / BACKUP_MANIFEST, text.encode(), FILE_MODE)
    return manifest


def _databases(home: Path) -> list[Path]:
    """Return the SQLite files in the order of copying: the log last."""
    return sorted(home.glob("*.db"), key=lambda file: (file.name == LOG, file.name))


def _copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite file in one step, which is one snapshot and does not keep writers waiting.

    Raises:
        DeployError: The file cannot be copied or is damaged.

    """
    create_file(target, b"", FILE_MODE)
    uri = f"{source.absolute().as_uri()}?mode=ro"
    try:
        with (
            closing(sqlite3.connect(uri, uri=True, timeout=30)) as reader,
            closing(sqlite3.connect(target)) as writer,
        ):
            reader.backup(writer)
            writer.execute("PRAGMA journal_mode=DELETE")  # one file, without -wal and -shm
            problem = writer.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise DeployError(f"{source} cannot be copied: {error}; run 'plaudit doctor'") from error
    if problem != "ok":
        raise DeployError(f"{source} is damaged: {problem}; keep it, and use an earlier backup")


def _copy_registry(home: Path, partial: Path, echo: _Echo) -> None:
    if RegistrySettings().registry or not (home / "registry").is_dir():
        return
    source, target = FolderRegistry(home / "registry"), FolderRegistry(partial / "registry")
    for version in source.versions():
        if _copy_version(source, target, version):
            size = sum(digest.size for digest in target.manifest(version).files)
            echo(describe(f"registry/{target.path(version).name}", size) + "  intact")
    if (home / SIGNED).is_file():
        copy_file(home / SIGNED, partial / SIGNED)


def _copy_version(source: FolderRegistry, target: FolderRegistry, version: int) -> bool:
    """Copy a version, its manifest last, and verify the copy; return False if it was pruned.

    Raises:
        CheckpointInvalid: The version is damaged.

    """
    folder = source.path(version)
    try:
        for digest in source.manifest(version).files:
            copy_file(folder / digest.path, target.path(version) / digest.path)
        copy_file(folder / MANIFEST, target.path(version) / MANIFEST)
        target.verify(version)
    except (FileNotFoundError, CheckpointInvalid) as error:
        if source.has_manifest(version):
            raise CheckpointInvalid(
                f"{error}; restore version {version} in {source.root} or delete its folder"
            ) from error
        shutil.rmtree(target.path(version), ignore_errors=True)
        return False
    return True


def _copy_tree(home: Path, partial: Path, name: str, files: Iterator[Path], echo: _Echo) -> None:
    size = 0
    for file in files:
        target = partial / file.relative_to(home)
        copy_file(file, target)
        size += target.stat().st_size
    if size:
        echo(describe(name, size))


def _cycle_files(home: Path) -> Iterator[Path]:
    """Yield the states and reports of the learning cycles that have ended.

    A cycle in progress is left out: its files change, and it can start again.
    """
    for state in sorted((home / "learner" / "cycles").glob("*/state.json")):
        if json.loads(state.read_bytes())["stage"] == "done":
            yield state
            yield from sorted(state.parent.glob("report.*"))


def _model_files(home: Path) -> Iterator[Path]:
    """Yield the files of finished models; hidden folders are of models in the making."""
    models = home / "models"
    for file in sorted(models.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(models).parts)
        if file.is_file() and not hidden:
            yield file


def _total_size(home: Path) -> int:
    """Return the bytes that a backup takes at most; a `-wal` has pages that are new to its file."""
    files = [home / SECRET, *home.glob("*.db"), *home.glob("*.db-wal")]
    files += [*_cycle_files(home), *_model_files(home)]
    if not RegistrySettings().registry:
        files += [path for path in (home / "registry").rglob("*") if path.is_file()]
    return sum(file.stat().st_size for file in files if file.exists())


def _not_included(home: Path) -> Iterator[str]:
    kafka = KafkaSettings()
    if kafka.servers or not (home / LOG).is_file():
        yield (
            f"the event log, which is on Kafka: keep its topics ({kafka.prefix}.*) on several "
            "brokers, or copy them to another cluster, for example with MirrorMaker 2."
        )
    registry = RegistrySettings().registry
    if registry or not (home / "registry").is_dir():
        place = (
            f"the shared registry {registry}" if registry else "a registry (none is in the home)"
        )
        yield (
            f"{place}: copy it with the tools of its store, such as versioning or replication of "
            "the bucket, after this backup."
        )
