"""A checkpoint registry in a local folder.

Publishing copies to a hidden folder, flushes it, renames it, and writes the manifest last, so
a crash at any moment leaves either the whole checkpoint or none.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from google.protobuf import json_format

from protos.checkpoints.durable import create_file, fsync_tree, replace_file, replace_folder
from protos.checkpoints.manifests import (
    MAX_MANIFEST_BYTES,
    check_manifest,
    parse_manifest,
    signed_manifest,
)
from protos.checkpoints.registry import (
    MANIFEST,
    CheckpointInvalid,
    RegistryUnavailable,
    VersionTaken,
)
from protos.checkpoints.signatures import ManifestSigner
from protos.plaudit.v1.checkpoint_pb2 import (
    CHECKPOINT_KIND_FULL,
    CHECKPOINT_KIND_LORA,
    FileDigest,
    LedgerRange,
    Manifest,
)


class FolderRegistry:
    """A registry in a folder on one machine."""

    def __init__(self, root: Path, signer: ManifestSigner | None = None) -> None:
        """Use the folder `root`; it is created if absent.

        Args:
            root: Folder of the registry.
            signer: Signs what is published, and checks what is read; None does neither.

        """
        self.root = root
        self._signer = signer
        root.mkdir(parents=True, exist_ok=True)

    def path(self, version: int) -> Path:
        """Return the folder of a version, whether or not it exists."""
        return self.root / f"v{version:06d}"

    def has_manifest(self, version: int) -> bool:
        """Return whether a version has a manifest here."""
        return (self.path(version) / MANIFEST).is_file()

    def versions(self) -> list[int]:
        """Return the published versions, ascending (manifest present; files not verified)."""
        found = (p.parent.name[1:] for p in self.root.glob(f"v*/{MANIFEST}"))
        return sorted(int(v) for v in found if v.isascii() and v.isdigit())

    def manifest(self, version: int) -> Manifest:
        """Read a version's manifest.

        Raises:
            CheckpointInvalid: It is missing or unreadable, belongs to another version, or names
                files that must not be read.

        """
        return parse_manifest(self._manifest_data(version), version, self._signer)

    def _manifest_data(self, version: int) -> bytes:
        try:
            with (self.path(version) / MANIFEST).open("rb") as file:
                return file.read(MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError as error:
            raise CheckpointInvalid(f"version {version} has no {MANIFEST}") from error

    def sign(self, version: int) -> bool:
        """Sign a version's manifest; return False if it has a signature, valid or not.

        Raises:
            CheckpointInvalid: It is missing or unreadable, or must not be used.

        """
        data = signed_manifest(self._manifest_data(version), version, self._signer)
        if data is not None:
            staged = self.path(version) / f".{MANIFEST}.{secrets.token_hex(8)}"
            staged.write_bytes(data)
            replace_file(staged, self.path(version) / MANIFEST)
        return data is not None

    def read(self, version: int, name: str) -> bytes:
        """Read one small file of a version and check it against the manifest.

        Raises:
            CheckpointInvalid: The version or the file is missing, or the file was altered.

        """
        return read_checked(self.manifest(version), name, (self.path(version) / name).read_bytes)

    def verify(self, version: int) -> Manifest:
        """Check every file of a version against its manifest.

        Raises:
            CheckpointInvalid: A file is missing, has another size, or was altered.

        """
        manifest = self.manifest(version)
        if not manifest.files:
            raise CheckpointInvalid(f"version {version}: the manifest names no files")
        for digest in manifest.files:
            file = self.path(version) / digest.path
            if not file.is_file():
                raise CheckpointInvalid(f"version {version}: {digest.path} is missing")
            check_size(version, digest, file.stat().st_size)
            if _sha256(file) != digest.sha256:
                raise CheckpointInvalid(f"version {version}: {digest.path} has been altered")
        return manifest

    def check(self, version: int) -> None:
        """Do the same as `verify`: the files are on this machine."""
        self.verify(version)

    def publish(
        self,
        source: Path,
        *,
        version: int,
        parent: int,
        base: str,
        learned_from: LedgerRange | None = None,
        gate: Mapping[str, float] | None = None,
        adapter_base: int = 0,
        keyed_split: bool = False,
    ) -> Manifest:
        """Publish a copy of the model folder `source`; for the arguments see `Registry.publish`.

        Raises:
            VersionTaken: The version is published already.
            CheckpointInvalid: The folder has files that a checkpoint must not have.

        """
        if (self.path(version) / MANIFEST).exists():
            raise VersionTaken(f"version {version} is published already")
        staged = self.staging_path(version)
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(source, staged, ignore=shutil.ignore_patterns(MANIFEST))
        fsync_tree(staged)
        manifest = Manifest(
            version=version,
            parent=parent,
            base=base,
            kind=CHECKPOINT_KIND_LORA if adapter_base else CHECKPOINT_KIND_FULL,
            adapter_base=adapter_base,
            keyed_split=keyed_split,
            learned_from=learned_from,
            gate=gate or {},
            created_ms=int(time.time() * 1000),
            files=file_digests(staged),
        )
        try:
            check_manifest(manifest)
        except CheckpointInvalid:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        if self._signer is not None:
            self._signer.sign(manifest)
        self.install(version, staged, json_format.MessageToJson(manifest, indent=2).encode())
        return manifest

    def staging_path(self, version: int) -> Path:
        """Return where this process prepares a version before `install`."""
        return self.root / f".{self.path(version).name}.{os.getpid()}"

    def install(self, version: int, staged: Path, manifest: bytes) -> None:
        """Move the prepared folder `staged` into place as `version`, then write its manifest.

        Raises:
            VersionTaken: Another process has installed the version meanwhile.

        """
        target = self.path(version)
        replace_folder(staged, target)
        try:
            create_file(target / MANIFEST, manifest)
        except FileExistsError as error:
            raise VersionTaken(f"version {version} is published already") from error

    def check_writable(self) -> None:
        """Write a small file and delete it again.

        Raises:
            RegistryUnavailable: The folder cannot be written to.

        """
        file = self.root / f".probe.{os.getpid()}"
        try:
            file.write_bytes(b"probe")
            file.unlink()
        except OSError as error:
            raise RegistryUnavailable(
                f"the registry {self.root} is not writable: {error}"
            ) from error

    def delete(self, version: int) -> None:
        """Delete a version, its manifest first, so that it stops existing at once."""
        (self.path(version) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.path(version), ignore_errors=True)


def read_checked(manifest: Manifest, name: str, read: Callable[[], bytes]) -> bytes:
    """Return what `read` reads of the file `name`, checked against its manifest.

    Raises:
        CheckpointInvalid: The file is missing or was altered.

    """
    digest = next((f for f in manifest.files if f.path == name), None)
    if digest is None:
        raise CheckpointInvalid(f"version {manifest.version} has no {name}")
    try:
        data = read()
    except FileNotFoundError as error:
        raise CheckpointInvalid(f"version {manifest.version}: {name} is missing") from error
    if hashlib.sha256(data).hexdigest() != digest.sha256:
        raise CheckpointInvalid(f"version {manifest.version}: {name} has been altered")
    return data


def check_size(version: int, digest: FileDigest, size: int) -> None:
    """Check the size of a file against the manifest.

    Raises:
        CheckpointInvalid: It differs.

    """
    if size != digest.size:
        raise CheckpointInvalid(
            f"version {version}: {digest.path} has {size} bytes, its manifest says {digest.size}"
        )


def file_digests(folder: Path) -> list[FileDigest]:
    """Return path, size and SHA-256 of every file in a folder, sorted by path."""
    return [
        FileDigest(
            path=str(file.relative_to(folder)), sha256=_sha256(file), size=file.stat().st_size
        )
        for file in sorted(p for p in folder.rglob("*") if p.is_file())
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
