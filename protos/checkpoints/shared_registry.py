"""A checkpoint registry that several machines share: any fsspec URL, with a folder as its cache.

As in a folder, files come first and the manifest last; a version without a manifest, or with a
file of another checksum, does not exist. A learner claims a version number by a conditional
create before it uploads anything. A checkpoint is copied into the cache and verified there
before it is used. Streaming weights without a copy on disk is not supported.
"""

import logging
import secrets
import shutil
import threading
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import fsspec
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from protos.checkpoints.folder_registry import FolderRegistry, check_size, read_checked
from protos.checkpoints.manifests import MAX_MANIFEST_BYTES, parse_manifest, signed_manifest
from protos.checkpoints.outages import is_outage, retry_outages
from protos.checkpoints.registry import (
    MANIFEST,
    CheckpointInvalid,
    RegistryUnavailable,
    VersionTaken,
)
from protos.checkpoints.signatures import ManifestSigner
from protos.plaudit.v1.checkpoint_pb2 import LedgerRange, Manifest

logger = logging.getLogger(__name__)

_CLAIM: Final = "claim"
_T = TypeVar("_T")


class SharedRegistry:
    """A registry at a URL. `path` is the cached copy, which `verify` fetches.

    All methods but `path` and `evict_cached` raise RegistryUnavailable if the registry does not
    answer after several tries.
    """

    def __init__(
        self, url: str, cache: Path, *, claimant: str, signer: ManifestSigner | None = None
    ) -> None:
        """Use `url`; nothing is read before the first call.

        Args:
            url: `s3://bucket/prefix`, `gs://...`, `file:///...`, or another URL that fsspec
                supports.
            cache: Folder for local copies.
            claimant: Name of this publisher in its claims; after a crash, it resumes its own.
            signer: Signs what is published, and checks what is read; None does neither.

        Raises:
            RegistryUnavailable: fsspec has no driver for this URL; the message names it.

        """
        self._cache = FolderRegistry(cache, signer)
        self._signer = signer
        self._url = url
        self._claimant = claimant.encode()
        self._cache_lock = threading.Lock()  # held while the cache is changed
        try:
            self._fs, self._base = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RegistryUnavailable(f"the registry {url} cannot be used: {error}") from error

    def path(self, version: int) -> Path:
        """Return the folder of a version's cached copy, whether or not it exists."""
        return self._cache.path(version)

    def versions(self) -> list[int]:
        """Return the published versions, ascending (manifest present; files not verified)."""
        found = self._retry(self._list_versions)
        return sorted(int(v) for v in found if v.isascii() and v.isdigit())

    def _list_versions(self) -> list[str]:
        self._fs.invalidate_cache()
        manifests = self._fs.glob(f"{self._base}/v*/{MANIFEST}")
        return [str(m).split("/")[-2][1:] for m in manifests]

    def manifest(self, version: int) -> Manifest:
        """Read a version's manifest, from the cache if it is there.

        Raises:
            CheckpointInvalid: It is missing or unreadable, belongs to another version, or names
                files that must not be read.

        """
        cached = self._cached_manifest(version)
        if cached is not None:
            return cached
        return parse_manifest(self._manifest_data(version), version, self._signer)

    def _cached_manifest(self, version: int) -> Manifest | None:
        """Return the cached manifest; None if there is none, or it is not signed or damaged."""
        try:
            return self._cache.manifest(version)
        except CheckpointInvalid:
            return None

    def _manifest_data(self, version: int) -> bytes:
        file, end = self._remote_path(version, MANIFEST), MAX_MANIFEST_BYTES + 1
        try:
            data: bytes = self._retry(lambda: self._fs.cat_file(file, start=0, end=end))
        except FileNotFoundError as error:
            raise CheckpointInvalid(f"version {version} has no {MANIFEST}") from error
        return data

    def sign(self, version: int) -> bool:
        """Sign a version's manifest; return False if it has a signature, valid or not.

        Raises:
            CheckpointInvalid: It is missing or unreadable, or must not be used.

        """
        data = signed_manifest(self._manifest_data(version), version, self._signer)
        if data is not None:
            file = self._remote_path(version, MANIFEST)
            self._retry(partial(self._fs.pipe_file, file, data))
        return data is not None

    def read(self, version: int, name: str) -> bytes:
        """Read one small file of a version and check it against the manifest.

        Raises:
            CheckpointInvalid: The version or the file is missing, or the file was altered.

        """
        return read_checked(self.manifest(version), name, partial(self._read, version, name))

    def _read(self, version: int, name: str) -> bytes:
        if self._cached_manifest(version) is not None:
            return (self.path(version) / name).read_bytes()
        data: bytes = self._retry(partial(self._fs.cat_file, self._remote_path(version, name)))
        return data

    def verify(self, version: int) -> Manifest:
        """Fetch a version if it is not in the cache, and check every file.

        Raises:
            CheckpointInvalid: A file in the registry is missing or was altered.

        """
        with self._cache_lock:
            if self._cache.has_manifest(version):
                try:
                    return self._cache.verify(version)
                except CheckpointInvalid as error:
                    logger.warning("the cached copy is damaged, fetching it again: %s", error)
            self._fetch(version)
            return self._cache.verify(version)

    def check(self, version: int) -> None:
        """Check that every file of a version exists with the right size, without fetching it.

        Raises:
            CheckpointInvalid: A file is missing or has another size.

        """
        for digest in self.manifest(version).files:
            file = self._remote_path(version, digest.path)
            try:
                size = self._retry(partial(self._fs.size, file))
            except FileNotFoundError as error:
                raise CheckpointInvalid(f"version {version}: {digest.path} is missing") from error
            check_size(version, digest, size)

    def evict_cached(self, below: int, kept: Container[int]) -> None:
        """Delete the local copies of the versions below `below`, except those in `kept`."""
        with self._cache_lock:
            for version in self._cache.versions():
                if version < below and version not in kept:
                    self._cache.delete(version)

    def _fetch(self, version: int) -> None:
        data = self._manifest_data(version)
        manifest = parse_manifest(data, version, self._signer)
        shutil.rmtree(self.path(version), ignore_errors=True)
        self._fs.invalidate_cache()  # of sizes
        staged = self._cache.staging_path(version)
        shutil.rmtree(staged, ignore_errors=True)
        for digest in manifest.files:
            target = staged / digest.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._retry(partial(self._download_file, version, digest.path, target, digest.size))
            except FileNotFoundError as error:
                shutil.rmtree(staged, ignore_errors=True)
                raise CheckpointInvalid(f"version {version}: {digest.path} is missing") from error
            except CheckpointInvalid:
                shutil.rmtree(staged, ignore_errors=True)
                raise
        self._cache.install(version, staged, data)

    def _download_file(self, version: int, name: str, target: Path, size: int) -> None:
        found = self._fs.size(self._remote_path(version, name))
        # Some stores do not know the size.
        if (
            found is not None and found > size
        ):  # a smaller file may still be in the making, or its listing outdated
            raise CheckpointInvalid(
                f"version {version}: {name} has {found} bytes, its manifest says {size}"
            )
        self._fs.get_file(self._remote_path(version, name), str(target))
        if target.stat().st_size < size:
            raise OSError(f"{name} ended after {target.stat().st_size} of {size} bytes")

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
        """Publish a model folder; for the arguments see `Registry.publish`.

        After a crash or an outage, call it again with the same version to finish.

        Raises:
            VersionTaken: The version is published already, or claimed by another learner.

        """
        self._claim(version)
        if self._cached_manifest(version) is None:
            self._cache.delete(version)
            self._cache.publish(
                source,
                version=version,
                parent=parent,
                base=base,
                learned_from=learned_from,
                gate=gate,
                adapter_base=adapter_base,
                keyed_split=keyed_split,
            )
        manifest = self._cache.verify(version)
        for digest in manifest.files:
            local = str(self.path(version) / digest.path)
            self._retry(partial(self._fs.put_file, local, self._remote_path(version, digest.path)))
        data = (self.path(version) / MANIFEST).read_bytes()
        self._retry(partial(self._fs.pipe_file, self._remote_path(version, MANIFEST), data))
        return manifest

    def check_writable(self) -> None:
        """Write a small file to the registry and delete it again."""
        file = f"{self._base}/probe-{secrets.token_hex(8)}"
        self._retry(lambda: self._fs.makedirs(self._base, exist_ok=True))
        self._retry(lambda: self._fs.pipe_file(file, b"probe"))
        self._retry(lambda: self._fs.rm(file))

    def delete(self, version: int) -> None:
        """Delete a version and its copy, the manifest first, so that it stops existing at once."""
        for name in (MANIFEST, ""):
            self._retry(partial(self._remove, self._remote_path(version, name).rstrip("/")))
        self._cache.delete(version)

    def _remove(self, remote: str) -> None:
        if self._fs.exists(remote):
            self._fs.rm(remote, recursive=True)

    def _claim(self, version: int) -> None:
        file = self._remote_path(version, _CLAIM)
        if self._retry(lambda: self._fs.exists(self._remote_path(version, MANIFEST))):
            raise VersionTaken(f"version {version} is published already")
        try:
            self._retry(lambda: self._create_exclusively(file))
        except FileExistsError as error:
            if self._retry(lambda: self._fs.cat_file(file)) != self._claimant:
                raise VersionTaken(f"version {version} is claimed by another learner") from error

    def _create_exclusively(self, file: str) -> None:
        self._fs.makedirs(file.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(file, self._claimant, mode="create")

    def _remote_path(self, version: int, name: str) -> str:
        return f"{self._base}/v{version:06d}/{name}"

    def _retry(self, action: Callable[[], _T]) -> _T:
        try:
            return retry_outages(action, self._url)
        except Exception as error:
            if not is_outage(error):
                raise
            raise RegistryUnavailable(
                f"the registry {self._url} is unavailable: {error}"
            ) from error


class RegistrySettings(BaseSettings):
    """Location of the registry; environment variable PLAUDIT_REGISTRY."""

    model_config = SettingsConfigDict(env_prefix="PLAUDIT_", frozen=True, extra="ignore")

    registry: str = Field(
        "", description="fsspec URL of a shared registry; empty: a folder in the home folder."
    )
