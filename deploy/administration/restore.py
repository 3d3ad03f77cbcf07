"""`plaudit restore`: make a home folder from a backup, after checking every byte of it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from rich.filesize import decimal

from deploy.administration.backup import LOG
from deploy.administration.backup_files import (
    BackupManifest,
    check_space,
    copy_file,
    describe,
    file_sha256,
    read_backup_manifest,
)
from deploy.errors import DeployError
from deploy.inspection.stores import nearest_existing
from feedback.home import FOLDER_MODE, prepare_home
from protos.checkpoints.durable import fsync, fsync_tree, partial_path

_UP_LOCK: Final = "up.lock"
_STAGED: Final = ".restore.partial"
# What an empty home may contain: the lock, what a killed restore left, and a volume's own folder.
_IGNORED: Final = frozenset({_UP_LOCK, _STAGED, "lost+found"})


def restore(source: Path, home: Path, echo: Callable[[str], None]) -> None:
    """Write the home folder of a backup to `home`, which must not exist or be empty.

    Raises:
        DeployError: The backup is incomplete or damaged, `home` is in use, or its disk is full.
        HomeUnusable: `home` exists and cannot be written.

    """
    with _unused(home):
        manifest = read_backup_manifest(source)
        size = sum(file.size for file in manifest.files)
        made = f"{manifest.created:%Y-%m-%d %H:%M} UTC by Plaudit {manifest.plaudit}"
        echo(f"Checking the backup of {made}: {len(manifest.files)} files, {decimal(size)}.")
        _verify(source, manifest)
        check_space(nearest_existing(home), size)
        echo(f"Every checksum is right. Restoring to {home}:")
        try:
            _write(source, manifest, home, echo)
        except OSError as error:
            raise DeployError(f"{home} was not restored: {error}") from error
    echo(f"Restored. Start it with 'plaudit up --home {home}'.")
    for note in manifest.not_included:
        echo(f"Was not in the backup: {note}")


@contextmanager
def _unused(home: Path) -> Iterator[None]:
    """Check that `home` does not exist or is empty; keep `plaudit up` from an existing one.

    Raises:
        DeployError: It is in use.

    """
    if not home.exists():
        yield
        return
    if not home.is_dir():
        raise DeployError(f"{home} is not a folder; choose another one with --home")
    names = {path.name for path in home.iterdir()}
    if _UP_LOCK not in names:
        _check_empty(home, names)
    prepare_home(home)
    lock = FileLock(home / _UP_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DeployError(
            f"'plaudit up' is running on {home}; restore to another folder with --home"
        ) from error
    with lock:
        _check_empty(home, names)
        yield


def _check_empty(home: Path, names: set[str]) -> None:
    if names - _IGNORED:
        raise DeployError(
            f"the home folder {home} is not empty, and restoring never overwrites anything; "
            "move it away, or choose another one with --home"
        )


def _verify(source: Path, manifest: BackupManifest) -> None:
    for file in manifest.files:
        path = source / file.path
        if not path.is_file():
            raise _damaged(source, f"{file.path} is missing")
        if path.stat().st_size != file.size:
            raise _damaged(source, f"{file.path} has another size")
        if file_sha256(path) != file.sha256:
            raise _damaged(source, f"{file.path} has been altered")


def _damaged(source: Path, reason: str) -> DeployError:
    return DeployError(
        f"the backup {source} is damaged: {reason}; nothing was restored. Use another backup"
    )


def _write(source: Path, manifest: BackupManifest, home: Path, echo: Callable[[str], None]) -> None:
    """Copy the files to a hidden folder, then move them to `home`, the log last."""
    exists = home.exists()
    staged = home / _STAGED if exists else partial_path(home)
    shutil.rmtree(staged, ignore_errors=True)
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        staged.mkdir(FOLDER_MODE)
        for file in manifest.files:
            if copy_file(source / file.path, staged / file.path) != file.sha256:
                raise _damaged(source, f"{file.path} changed while it was read")
            echo(describe(file.path, file.size))
        fsync_tree(staged)
        if exists:  # perhaps a volume, which cannot be replaced
            for path in sorted(staged.iterdir(), key=lambda path: (path.name == LOG, path.name)):
                os.rename(path, home / path.name)
            fsync(home)
        else:
            os.rename(staged, home)  # fails if there is an installation by now
            fsync(home.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
