"""The checkpoint registry: a folder of policy checkpoints, each in Hugging Face format.

A checkpoint exists when its `manifest.json` does and every file has the SHA-256 that the
manifest names. Publishing writes aside, fsyncs, renames, and writes the manifest last, so a
crash at any moment leaves either the whole checkpoint or none.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Container, Mapping
from pathlib import Path

from google.protobuf import json_format

from protos.plaudit.v1.checkpoint_pb2 import (
    CHECKPOINT_KIND_FULL,
    CHECKPOINT_KIND_LORA,
    FileDigest,
    LedgerRange,
    Manifest,
)

MANIFEST = "manifest.json"


class RegistryError(Exception):
    """Something is wrong with the checkpoint registry."""


class CheckpointInvalid(RegistryError):
    """A checkpoint is absent, incomplete or altered; the message says which file and how."""


class RegistryUnavailable(RegistryError):
    """A registry on another machine did not answer; trying again may help."""


class VersionTaken(RegistryError):
    """Another learner has claimed this version number."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Registry:
    """A registry in a folder on one machine."""

    def __init__(self, root: Path) -> None:
        """Use the folder `root`; it is created if absent."""
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, version: int) -> Path:
        """Return the folder of a version, whether or not it exists."""
        return self.root / f"v{version:06d}"

    def versions(self) -> list[int]:
        """Return the published versions, ascending (manifest present; files not verified)."""
        found = (p.parent.name[1:] for p in self.root.glob(f"v*/{MANIFEST}"))
        return sorted(int(v) for v in found if v.isdigit())

    def manifest(self, version: int) -> Manifest:
        """Read a version's manifest.

        Raises:
            CheckpointInvalid: There is none, or it is not a manifest of this version.

        """
        file = self.path(version) / MANIFEST
        try:
            manifest = json_format.Parse(file.read_text(), Manifest(), ignore_unknown_fields=True)
        except FileNotFoundError as error:
            raise CheckpointInvalid(f"version {version} has no {MANIFEST}") from error
        except (json_format.ParseError, UnicodeDecodeError) as error:
            raise CheckpointInvalid(f"version {version}: {MANIFEST} is unreadable") from error
        if manifest.version != version:
            raise CheckpointInvalid(f"version {version}: the manifest says {manifest.version}")
        return manifest

    def read(self, version: int, name: str) -> bytes:
        """Read one small file of a version, checked against its manifest.

        Raises:
            CheckpointInvalid: The version or the file is absent, or altered.

        """
        digest = next((f for f in self.manifest(version).files if f.path == name), None)
        if digest is None:
            raise CheckpointInvalid(f"version {version} has no {name}")
        try:
            data = self._read(version, name)
        except FileNotFoundError as error:
            raise CheckpointInvalid(f"version {version}: {name} is missing") from error
        if hashlib.sha256(data).hexdigest() != digest.sha256:
            raise CheckpointInvalid(f"version {version}: {name} has been altered")
        return data

    def _read(self, version: int, name: str) -> bytes:
        return (self.path(version) / name).read_bytes()

    def verify(self, version: int) -> Manifest:
        """Read a version's manifest and check every file against it.

        Raises:
            CheckpointInvalid: A file is absent, of another size, or altered.

        """
        manifest = self.manifest(version)
        if not manifest.files:
            raise CheckpointInvalid(f"version {version}: the manifest names no files")
        for digest in manifest.files:
            file = self.path(version) / digest.path
            if not file.is_file():
                raise CheckpointInvalid(f"version {version}: {digest.path} is missing")
            if file.stat().st_size != digest.size:
                raise CheckpointInvalid(
                    f"version {version}: {digest.path} has {file.stat().st_size} bytes, "
                    f"its manifest says {digest.size}"
                )
            if _sha256(file) != digest.sha256:
                raise CheckpointInvalid(f"version {version}: {digest.path} has been altered")
        return manifest

    def check(self, version: int) -> None:
        """Check that a version can be fetched, without fetching anything.

        Raises:
            CheckpointInvalid: A file is absent, of another size, or altered.

        """
        self.verify(version)

    def drop_cached(self, below: int, kept: Container[int]) -> None:
        """Let go of copies of the versions below `below` that are not in `kept`.

        The folder itself is no copy: nothing is dropped here.
        """

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
    ) -> Manifest:
        """Publish the model folder `source` (copied, flat or nested) as `version`.

        A half-published version left by a crash (no manifest) is replaced.

        Args:
            source: Model folder in Hugging Face format.
            version: Its number; 1 for the first.
            parent: The version it was trained from; 0 for none.
            base: What the family descends from, for example a model id.
            learned_from: Ledger rows that it learned from.
            gate: Figures of the gate that let it pass.
            adapter_base: The version with full weights under the adapter in `source`; 0 where
                `source` holds full weights itself.

        Raises:
            VersionTaken: The version is published already.

        """
        target = self.path(version)
        if (target / MANIFEST).exists():
            raise VersionTaken(f"version {version} is published already")
        aside = self._staging_path(version)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(source, aside, ignore=shutil.ignore_patterns(MANIFEST))
        manifest = Manifest(
            version=version,
            parent=parent,
            base=base,
            kind=CHECKPOINT_KIND_LORA if adapter_base else CHECKPOINT_KIND_FULL,
            adapter_base=adapter_base,
            learned_from=learned_from,
            gate=gate or {},
            created_ms=int(time.time() * 1000),
        )
        for file in sorted(p for p in aside.rglob("*") if p.is_file()):
            _fsync(file)
            manifest.files.append(
                FileDigest(
                    path=str(file.relative_to(aside)),
                    sha256=_sha256(file),
                    size=file.stat().st_size,
                )
            )
        for folder in [aside, *(p for p in aside.rglob("*") if p.is_dir())]:
            _fsync(folder)
        self._replace_directory(aside, target)
        self._write_manifest(target, manifest)
        return manifest

    def probe(self) -> None:
        """Write a small file and delete it again.

        Raises:
            RegistryUnavailable: It cannot be written to.

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
        """Delete a version: its manifest first, so that it is gone at once."""
        (self.path(version) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.path(version), ignore_errors=True)

    def _staging_path(self, version: int) -> Path:
        return self.root / f".{self.path(version).name}.{os.getpid()}"

    def _replace_directory(self, aside: Path, target: Path) -> None:
        if target.exists():
            shutil.rmtree(target)
        os.rename(aside, target)
        _fsync(self.root)

    def _write_manifest(self, target: Path, manifest: Manifest) -> None:
        partial = target / f".{MANIFEST}.{os.getpid()}"
        partial.write_text(json_format.MessageToJson(manifest, indent=2))
        _fsync(partial)
        try:
            os.link(partial, target / MANIFEST)  # fails if it exists, unlike rename
        except FileExistsError as error:
            raise VersionTaken(f"version {manifest.version} is published already") from error
        finally:
            partial.unlink(missing_ok=True)
        _fsync(target)
