"""The home folder: only its owner may read it, and the databases, secrets and logs in it.

Rights are only taken away, and only where the file belongs to the user of this process: volumes
that a container gets from another user, with rights for a group, stay as they are.
"""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from feedback.errors import FeedbackError

logger = logging.getLogger(__name__)

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_SENSITIVE: Final = (
    *("*.db", "*.db-wal", "*.db-shm", "*.db-journal"),
    *("secret*.json", "*.key", "*.pem"),
    "logs/*.log",
)


class HomeUnusable(FeedbackError):
    """The home folder cannot be created, read or written; the message says why."""


def prepare_home(home: Path) -> None:
    """Create the home folder if it is absent, and take away the rights of others.

    What others could access is named in one line of the log.

    Raises:
        HomeUnusable: The folder cannot be created, read or written.

    """
    try:
        home.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeUnusable(
            f"the home folder {home} cannot be created: {error.strerror}; "
            "choose another folder with --home"
        ) from error
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        owner = home.stat().st_uid
        raise HomeUnusable(
            f"the home folder {home} cannot be read and written by user {os.geteuid()}: it belongs "
            f"to user {owner}, or is read-only; run Plaudit as its owner, make it writable, or "
            "choose another folder with --home"
        )
    restricted = [str(path) for path in (home, *_sensitive_files(home)) if _restrict(path)]
    if restricted:
        logger.warning(
            "Others had access to %s; now only the owner has. If others use this machine, they "
            "may have read them",
            ", ".join(restricted),
        )


def open_private(path: str, flags: int) -> int:
    """Open a file for `open(..., opener=open_private)`; a new one is for its owner alone."""
    return os.open(path, flags, FILE_MODE)


def _sensitive_files(home: Path) -> Iterator[Path]:
    for pattern in _SENSITIVE:
        yield from sorted(home.glob(pattern))


def _restrict(path: Path) -> bool:
    """Take the rights of group and others away; return whether they had any and lost them."""
    try:
        status = path.stat()
    except FileNotFoundError:  # a -wal that was removed meanwhile
        return False
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o077:
        return False
    if reason := _reason_to_keep(status):
        if mode & 0o007:  # rights of a group alone are deliberate, as of Kubernetes' fsGroup
            _warn_open(path, mode, reason)
        return False
    try:
        path.chmod(mode & ~0o077)
    except FileNotFoundError:
        return False
    except OSError as error:
        _warn_open(path, mode, str(error.strerror))
        return False
    return True


def _reason_to_keep(status: os.stat_result) -> str:
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return "it is a folder for all users"
    return ""


def _warn_open(path: Path, mode: int, reason: str) -> None:
    logger.warning(
        "Others have access to %s (mode %04o), and this was not changed: %s. Have its owner run "
        "'chmod go-rwx', or use another home folder",
        *(path, mode, reason),
    )
