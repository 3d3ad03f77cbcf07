"""The files of a backup: their manifest, and copying with checksums."""

import datetime
import hashlib
import shutil
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from rich.filesize import decimal

from deploy.errors import DeployError
from feedback.home import FOLDER_MODE, open_private

BACKUP_MANIFEST: Final = "backup.json"
_CHUNK: Final = 1 << 20
_SPARE_BYTES: Final = 16 << 20


class BackupFile(BaseModel):
    """A file of a backup.

    Attributes:
        path: Path in the backup and in the home folder, with slashes.
        size: Size in bytes.
        sha256: Checksum in hex.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: int
    sha256: str

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise ValueError(f"the path {path!r} leads out of the backup")
        return path


class BackupManifest(BaseModel):
    """What a backup contains.

    Attributes:
        format: Format of this manifest.
        plaudit: Version of Plaudit that made the backup.
        created: Time at which the backup began.
        home: Home folder that it was made of.
        files: Files of the backup, without this manifest.
        not_included: What else the installation needs, and how to back it up.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    plaudit: str
    created: datetime.datetime
    home: str
    files: tuple[BackupFile, ...]
    not_included: tuple[str, ...] = ()


def read_backup_manifest(backup: Path) -> BackupManifest:
    """Read the manifest of a backup.

    Raises:
        DeployError: There is no backup in the folder, or its manifest cannot be read.

    """
    file = backup / BACKUP_MANIFEST
    try:
        return BackupManifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DeployError(
            f"{backup} is no backup: {BACKUP_MANIFEST} cannot be read ({error.strerror}); "
            "name a folder that 'plaudit backup' has written"
        ) from error
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DeployError(
            f"{file} is damaged, or was written by a newer release: {reason}; use another backup, "
            "or that release"
        ) from error


def copy_file(source: Path, target: Path) -> str:
    """Copy a file, readable by its owner alone; return the SHA-256 of what was copied."""
    target.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, open(target, "xb", opener=open_private) as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(path: str, size: int) -> str:
    """Return a line of progress: a file or folder, and its size."""
    return f"  {path:<40} {decimal(size):>10}"


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk of an existing folder has room for `needed` bytes and a little more.

    Raises:
        DeployError: It has not.

    """
    needed += needed // 20 + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DeployError(
            f"the disk of {folder} has {decimal(free)} free, but {decimal(needed)} are needed; "
            "free some space, or use another disk"
        )
