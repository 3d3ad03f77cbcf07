"""Open the checkpoint registry of an installation, whose manifests are signed.

A home folder of an earlier release has manifests without a signature. They are signed when the
home is first opened; whoever could have written them could read the secret beside them. From then
on a manifest without a signature is refused. In a shared registry an operator signs them, with
`plaudit policies sign`.
"""

import contextlib
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from feedback.home import FILE_MODE
from feedback.privacy.identity import load_or_create_secret, manifest_key
from protos.checkpoints.durable import create_file
from protos.checkpoints.folder_registry import FolderRegistry
from protos.checkpoints.registry import CheckpointInvalid, Registry, RegistryUnavailable
from protos.checkpoints.shared_registry import RegistrySettings, SharedRegistry
from protos.checkpoints.signatures import ManifestSigner

logger = logging.getLogger("plaudit.feedback")

SIGNED: Final = "registry-signed"  # file of a home whose manifests are all signed


def open_registry(home: Path) -> Registry:
    """Open the registry that the settings name, or else the one in the home folder.

    Raises:
        RegistryUnavailable: There is no driver for its URL, or the home cannot be written.
        SecretInvalid: The manifests are to be signed, and the home's secret is invalid.

    """
    url = RegistrySettings().registry
    if not url:
        return home_registry(home)
    cache = home / "registry-cache"
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "claimant"
    if not file.is_file():
        file.write_text(secrets.token_hex(16))
    return SharedRegistry(url, cache, claimant=file.read_text(), signer=_signer(home))


def home_registry(home: Path) -> FolderRegistry:
    """Open the registry in the home folder; sign what an earlier release has published.

    Raises:
        RegistryUnavailable: The home cannot be written.
        SecretInvalid: The manifests are to be signed, and the home's secret is invalid.

    """
    registry = FolderRegistry(home / "registry", _signer(home))
    if not (home / SIGNED).is_file():
        try:
            signed = sign_manifests(registry, logger.warning)
            with contextlib.suppress(FileExistsError):  # another process was faster
                create_file(home / SIGNED, b"", FILE_MODE)
        except OSError as error:
            raise RegistryUnavailable(
                f"the manifests in {registry.root} cannot be signed: {error}; make {home} writable"
            ) from error
        if signed:
            logger.info("Signed versions of an earlier release: %s", ", ".join(map(str, signed)))
    return registry


def sign_manifests(registry: Registry, warn: Callable[[str], None]) -> list[int]:
    """Sign the manifests of a registry that have no signature, and return their versions.

    Args:
        registry: A registry that was opened with a signer.
        warn: Takes a line about each version whose manifest must not be used.

    """
    signed = []
    for version in registry.versions():
        try:
            if registry.sign(version):
                signed.append(version)
        except CheckpointInvalid as error:
            warn(f"{error}; it is not signed")
    return signed


def _signer(home: Path) -> ManifestSigner:
    return ManifestSigner(home / "secret.json", _manifest_key)


def _manifest_key(secret_file: Path) -> bytes:
    return manifest_key(load_or_create_secret(secret_file))
