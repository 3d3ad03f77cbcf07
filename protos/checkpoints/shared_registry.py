"""A checkpoint registry that several machines share: any fsspec URL, with a folder as its cache.

The rule is the folder's: files first, the manifest last, and what has no manifest or another
checksum does not exist. A version number is claimed by a conditional create before anything is
uploaded. A checkpoint is copied into the cache and verified there before it can be used.

Left out: checkpoints that are streamed without a copy on disk.
"""

import logging
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec
from google.protobuf import json_format
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from protos.checkpoints.registry import (
    MANIFEST,
    CheckpointInvalid,
    Registry,
    RegistryUnavailable,
    VersionTaken,
)
from protos.plaudit.v1.checkpoint_pb2 import LedgerRange, Manifest

logger = logging.getLogger(__name__)

_CLAIM: Final = "claim"
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
_T = TypeVar("_T")


class SharedRegistry(Registry):
    """A registry at a URL. `path` gives the cached copy, which `verify` fetches."""

    def __init__(self, url: str, cache: Path, *, claimant: str) -> None:
        """Use `url`; nothing is read before the first call.

        Args:
            url: `s3://bucket/prefix`, `gs://...`, `file:///...`, or what else fsspec knows.
            cache: Folder for copies.
            claimant: Who publishes from here; a claim of its own is taken up after a crash.

        Raises:
            RegistryUnavailable: fsspec has no driver for this URL; the message names it.

        """
        super().__init__(cache)
        self._url = url
        self._claimant = claimant.encode()
        self._fetching = threading.Lock()  # one copy at a time is put in place
        try:
            self._fs, self._base = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RegistryUnavailable(f"the registry {url} cannot be used: {error}") from error

    def versions(self) -> list[int]:
        """Return the published versions, ascending.

        Raises:
            RegistryUnavailable: The registry is away.

        """
        found = self._tried(lambda: self._listed())
        return sorted(int(v) for v in found if v.isdigit())

    def _listed(self) -> list[str]:
        self._fs.invalidate_cache()
        manifests = self._fs.glob(f"{self._base}/v*/{MANIFEST}")
        return [str(m).split("/")[-2][1:] for m in manifests]

    def manifest(self, version: int) -> Manifest:
        """Read a version's manifest.

        Raises:
            CheckpointInvalid: There is none.
            RegistryUnavailable: The registry is away.

        """
        if (self.path(version) / MANIFEST).is_file():
            return super().manifest(version)
        try:
            text = self._tried(lambda: self._fs.cat_file(self._remote_path(version, MANIFEST)))
        except FileNotFoundError as error:
            raise CheckpointInvalid(f"version {version} has no {MANIFEST}") from error
        try:
            return json_format.Parse(text, Manifest(), ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeDecodeError) as error:
            raise CheckpointInvalid(f"version {version}: {MANIFEST} is unreadable") from error

    def _read(self, version: int, name: str) -> bytes:
        if (self.path(version) / MANIFEST).is_file():
            return super()._read(version, name)
        data: bytes = self._tried(lambda: self._fs.cat_file(self._remote_path(version, name)))
        return data

    def verify(self, version: int) -> Manifest:
        """Fetch a version if it is not in the cache, and check every file.

        Raises:
            CheckpointInvalid: A file is absent or altered, here or there.
            RegistryUnavailable: The registry is away.

        """
        with self._fetching:
            if (self.path(version) / MANIFEST).is_file():
                try:
                    return super().verify(version)
                except CheckpointInvalid as error:
                    logger.warning("the cached copy is damaged and fetched again: %s", error)
                    shutil.rmtree(self.path(version))
            self._fetch(version)
            return super().verify(version)

    def check(self, version: int) -> None:
        """Check that every file of a version is there, and has its size.

        Raises:
            CheckpointInvalid: One is absent, or of another size.
            RegistryUnavailable: The registry is away.

        """
        for digest in self.manifest(version).files:
            file = self._remote_path(version, digest.path)
            try:
                size = self._tried(partial(self._fs.size, file))
            except FileNotFoundError as error:
                raise CheckpointInvalid(f"version {version}: {digest.path} is missing") from error
            if size != digest.size:
                raise CheckpointInvalid(
                    f"version {version}: {digest.path} has {size} bytes, "
                    f"its manifest says {digest.size}"
                )

    def drop_cached(self, below: int, kept: Container[int]) -> None:
        """Delete copies of the versions below `below` that are not in `kept`."""
        with self._fetching:
            for version in super().versions():
                if version < below and version not in kept:
                    super().delete(version)

    def _fetch(self, version: int) -> None:
        manifest = self.manifest(version)
        aside = self._staging_path(version)
        shutil.rmtree(aside, ignore_errors=True)
        for digest in manifest.files:
            target = aside / digest.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._tried(partial(self._download_file, version, digest.path, target, digest.size))
            except FileNotFoundError as error:
                shutil.rmtree(aside, ignore_errors=True)
                raise CheckpointInvalid(f"version {version}: {digest.path} is missing") from error
        self._replace_directory(aside, self.path(version))
        self._write_manifest(self.path(version), manifest)

    def _download_file(self, version: int, name: str, target: Path, size: int) -> None:
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
    ) -> Manifest:
        """Publish a model folder as `version`; after a crash in between, once more.

        Raises:
            VersionTaken: Somebody else has claimed or published the version.
            RegistryUnavailable: The registry is away; publish again.

        """
        self._claim(version)
        if not (self.path(version) / MANIFEST).is_file():
            super().publish(
                source,
                version=version,
                parent=parent,
                base=base,
                learned_from=learned_from,
                gate=gate,
                adapter_base=adapter_base,
            )
        manifest = super().verify(version)
        for digest in manifest.files:
            local = str(self.path(version) / digest.path)
            self._tried(partial(self._fs.put_file, local, self._remote_path(version, digest.path)))
        data = (self.path(version) / MANIFEST).read_bytes()
        self._tried(lambda: self._fs.pipe_file(self._remote_path(version, MANIFEST), data))
        return manifest

    def probe(self) -> None:
        """Write a small file there and delete it again.

        Raises:
            RegistryUnavailable: It cannot be written to.

        """
        file = f"{self._base}/probe-{secrets.token_hex(8)}"
        self._tried(lambda: self._fs.makedirs(self._base, exist_ok=True))
        self._tried(lambda: self._fs.pipe_file(file, b"probe"))
        self._tried(lambda: self._fs.rm(file))

    def delete(self, version: int) -> None:
        """Delete a version: its manifest first, so that it is gone at once.

        Raises:
            RegistryUnavailable: The registry is away; delete again.

        """
        for name in (MANIFEST, ""):
            self._tried(partial(self._remove, self._remote_path(version, name).rstrip("/")))
        super().delete(version)

    def _remove(self, remote: str) -> None:
        if self._fs.exists(remote):
            self._fs.rm(remote, recursive=True)

    def _claim(self, version: int) -> None:
        file = self._remote_path(version, _CLAIM)
        if self._tried(lambda: self._fs.exists(self._remote_path(version, MANIFEST))):
            raise VersionTaken(f"version {version} is published already")
        try:
            self._tried(lambda: self._create(file))
        except FileExistsError as error:
            if self._tried(lambda: self._fs.cat_file(file)) != self._claimant:
                raise VersionTaken(f"version {version} is claimed by another learner") from error

    def _create(self, file: str) -> None:
        self._fs.makedirs(file.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(file, self._claimant, mode="create")

    def _remote_path(self, version: int, name: str) -> str:
        return f"{self._base}/v{version:06d}/{name}"

    def _tried(self, action: Callable[[], _T]) -> _T:
        """Do it, again after a while where the registry is away."""
        for pause in (*_PAUSES, None):
            try:
                return action()
            except (FileNotFoundError, FileExistsError):
                raise
            except _failures() as error:
                if pause is None:
                    raise RegistryUnavailable(
                        f"the registry {self._url} is away: {error}"
                    ) from error
                logger.warning("the registry %s is away, trying again: %s", self._url, error)
                time.sleep(pause)
        raise AssertionError


class RegistrySettings(BaseSettings):
    """Where the registry is; environment variable PLAUDIT_REGISTRY."""

    model_config = SettingsConfigDict(env_prefix="PLAUDIT_", frozen=True, extra="ignore")

    registry: str = Field("", description="An fsspec URL; none: a folder in the home.")


def open_registry(home: Path) -> Registry:
    """Open the registry that the settings name, else the one in the home folder.

    Raises:
        RegistryUnavailable: There is no driver for its URL.

    """
    url = RegistrySettings().registry
    if not url:
        return Registry(home / "registry")
    cache = home / "registry-cache"
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "claimant"
    if not file.is_file():
        file.write_text(secrets.token_hex(16))
    return SharedRegistry(url, cache, claimant=file.read_text())


def _failures() -> tuple[type[BaseException], ...]:
    """Return what the drivers raise when the other side is away."""
    found: list[Any] = [OSError, TimeoutError]
    for module, name in (
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("aiohttp", "ClientError"),
    ):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)
