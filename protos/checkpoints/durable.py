"""Write files and folders so that they survive a crash whole, or not at all."""

import os
import secrets
import shutil
from pathlib import Path


def fsync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush a folder and everything below it to the disk."""
    for path in folder.rglob("*"):
        fsync(path)
    fsync(folder)


def replace_file(staged: Path, target: Path) -> None:
    """Move the file `staged` to `target`; after a crash, `target` is the old file or the new."""
    fsync(staged)
    os.replace(staged, target)
    fsync(target.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; after a crash, it has its old content or the new."""
    staged = partial_path(path)
    staged.write_bytes(data)
    replace_file(staged, path)


def create_file(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Create a file that appears with all of its content.

    Args:
        path: File to create.
        data: Its content.
        mode: Its permissions, less the umask.

    Raises:
        FileExistsError: The file exists already, for example because another process was faster.

    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(staged, path)  # fails if the file exists, unlike rename
    finally:
        staged.unlink(missing_ok=True)
    fsync(path.parent)


def replace_folder(staged: Path, target: Path) -> None:
    """Move the folder `staged` to `target`, whose old content is deleted first.

    A crash may leave no folder at `target`, but never a mixture. Flush `staged` beforehand.
    """
    if target.exists():
        shutil.rmtree(target)
    os.replace(staged, target)
    fsync(target.parent)


def partial_path(path: Path) -> Path:
    """Return where to prepare what will replace `path`: a hidden name beside it."""
    return path.with_name(f".{path.name}.partial")
