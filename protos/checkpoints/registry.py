"""The checkpoint registry: what every registry of policy checkpoints offers.

A registry is a folder (`folder_registry`) or an fsspec URL that a fleet shares
(`shared_registry`). A checkpoint is a folder in Hugging Face format with a manifest. It exists
when its `manifest.json` does and every file has the SHA-256 that the manifest names.
"""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from protos.plaudit.v1.checkpoint_pb2 import LedgerRange, Manifest

MANIFEST = "manifest.json"


class RegistryError(Exception):
    """The checkpoint registry failed."""


class CheckpointInvalid(RegistryError):
    """A checkpoint is absent, incomplete or altered; the message says which file and how."""


class RegistryUnavailable(RegistryError):
    """The registry cannot be reached or used; trying again may help."""


class VersionTaken(RegistryError):
    """The version number is published already, or claimed by another learner."""


class Registry(Protocol):
    """A store of policy checkpoints by version.

    Methods of a registry on another machine raise RegistryUnavailable if it does not answer.
    """

    def path(self, version: int) -> Path:
        """Return the local folder of a version, whether or not it exists."""

    def versions(self) -> list[int]:
        """Return the published versions, ascending (manifest present; files not verified)."""

    def manifest(self, version: int) -> Manifest:
        """Read a version's manifest.

        Raises:
            CheckpointInvalid: It is missing or unreadable, belongs to another version, or was not
                signed by this installation.

        """

    def read(self, version: int, name: str) -> bytes:
        """Read one small file of a version and check it against the manifest.

        Raises:
            CheckpointInvalid: The version or the file is missing, or the file was altered.

        """

    def verify(self, version: int) -> Manifest:
        """Check every file of a version against its manifest; afterwards `path` is usable.

        Raises:
            CheckpointInvalid: A file is missing, has another size, or was altered.

        """

    def check(self, version: int) -> None:
        """Check that a version can be fetched, without fetching anything.

        Raises:
            CheckpointInvalid: A file is missing, has another size, or was altered.

        """

    def sign(self, version: int) -> bool:
        """Sign a version's manifest; return False if it has a signature, valid or not.

        Raises:
            CheckpointInvalid: It is missing or unreadable, or must not be used.

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
        keyed_split: bool = False,
    ) -> Manifest:
        """Publish a copy of the model folder `source` as `version`.

        A version that a crash left half-published (no manifest) is published again.

        Args:
            source: Model folder in Hugging Face format; subfolders are copied too.
            version: Version number; 1 for the first.
            parent: Version that it was trained from; 0 for none.
            base: Model that the family of policies descends from, for example a model id.
            learned_from: Range of ledger rows that it learned from.
            gate: Figures of the gate that accepted it.
            adapter_base: Version whose full weights the adapter in `source` belongs to; 0 if
                `source` holds full weights.
            keyed_split: Whether prompts are split with the installation's secret, for version 1.

        Raises:
            VersionTaken: The version is published already, or claimed by another learner.

        """

    def check_writable(self) -> None:
        """Write a small file and delete it again.

        Raises:
            RegistryUnavailable: The registry cannot be written to.

        """

    def delete(self, version: int) -> None:
        """Delete a version, its manifest first, so that it stops existing at once."""


@runtime_checkable
class CachingRegistry(Registry, Protocol):
    """A registry on another machine, with local copies of its checkpoints."""

    def evict_cached(self, below: int, kept: Container[int]) -> None:
        """Delete the local copies of the versions below `below`, except those in `kept`."""
