"""The published versions as shown to people: origin, figures and status of each."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from feedback.control.history import HistorySnapshot, PublishedVersion
from feedback.control.policies import PolicyState
from protos.checkpoints.registry import CheckpointInvalid, Registry, RegistryUnavailable
from protos.plaudit.v1.checkpoint_pb2 import CHECKPOINT_KIND_LORA, Manifest

logger = logging.getLogger(__name__)

REPORT: Final = "report.json"
CHART: Final = "report.svg"
_REFRESH_SECONDS: Final = 10.0  # interval at which the registry is listed

VersionStatus = Literal["live", "published", "on_trial", "rolled_back", "waiting"]


@dataclass(frozen=True, slots=True)
class Version:
    """A published version.

    Attributes:
        version: Version number.
        parent: Version that it was trained from; 0 for none.
        kind: Whether its checkpoint holds full weights or an adapter.
        created: Time of creation in Unix seconds.
        status: Status of the version, see `version_status`.
        votes: Number of votes that it learned from and its ancestors did not.
        from_votes: The same by kind.
        figures: Figures of the gate; empty for the first version and if the checkpoint is gone.
        has_report: Whether its checkpoint has a report.
        size: Size of its files in bytes; 0 if they are gone.

    """

    version: int
    parent: int
    kind: Literal["full", "lora"]
    created: float
    status: VersionStatus
    votes: int
    from_votes: Mapping[str, int]
    figures: Mapping[str, float] = field(default_factory=dict)
    has_report: bool = False
    size: int = 0

    def to_public_json(self) -> dict[str, Any]:
        """Return the version as /v1/learning shows it."""
        return {
            "version": self.version,
            "parent": self.parent or None,
            "kind": self.kind,
            "created": self.created,
            "state": self.status,
            "votes": self.votes,
            "from_votes": dict(self.from_votes),
            "figures": finite_figures(self.figures),
            "has_report": self.has_report,
        }

    def to_operator_json(self, state: PolicyState) -> dict[str, Any]:
        """Return the version as /v1/policies shows it, with its replicas and size."""
        return {**self.to_public_json(), "replicas": self.serving(state), "bytes": self.size}

    def serving(self, state: PolicyState) -> list[str]:
        """Return the names of the replicas that serve this version."""
        return sorted(name for name, version in state.replicas.items() if version == self.version)


def finite_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Leave out the figures that JSON cannot represent."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def version_status(version: int, state: PolicyState) -> VersionStatus:
    """Return the status of a published version."""
    if version == state.live:
        return "live"
    if version == state.challenger:
        return "on_trial"
    if version in state.rolled_back:
        return "rolled_back"
    return "waiting" if version > state.live else "published"


class Versions:
    """Looks up versions in the registry, each once: manifests never change. For one thread."""

    def __init__(self, registry: Registry) -> None:
        """Read manifests from `registry`."""
        self._registry = registry
        self._manifests: dict[int, Manifest] = {}
        self._stored: set[int] = set()
        self._last_refresh: tuple[float, tuple[int, ...]] = (-math.inf, ())

    def list_versions(self, history: HistorySnapshot) -> list[Version]:
        """Return all published versions, ascending.

        Versions that the registry cannot return or no longer has come without figures.
        """
        self._refresh_manifests(history.state.published)
        return [
            _version(
                history.publications[number],
                history.state,
                self._manifests.get(number) if number in self._stored else None,
            )
            for number in history.state.published
        ]

    def _refresh_manifests(self, published: tuple[int, ...]) -> None:
        now, (refreshed, known) = time.monotonic(), self._last_refresh
        if known == published and now - refreshed < _REFRESH_SECONDS:
            return
        self._last_refresh = (now, published)
        try:
            self._stored = set(self._registry.versions())
            for number in sorted(self._stored.intersection(published) - set(self._manifests)):
                try:
                    self._manifests[number] = self._registry.manifest(number)
                except CheckpointInvalid as error:
                    logger.warning("the figures of a version are not shown: %s", error)
        except RegistryUnavailable as error:
            logger.warning("figures may be missing: %s", error)


def _version(published: PublishedVersion, state: PolicyState, manifest: Manifest | None) -> Version:
    if manifest is None:
        manifest = Manifest(parent=published.parent, created_ms=published.created_ms)
    return Version(
        version=published.version,
        parent=published.parent,
        kind="lora" if manifest.kind == CHECKPOINT_KIND_LORA else "full",
        created=manifest.created_ms / 1000,
        status=version_status(published.version, state),
        votes=sum(published.votes.values()) or manifest.learned_from.events,
        from_votes=published.votes,
        figures=dict(manifest.gate),
        has_report=any(file.path == REPORT for file in manifest.files),
        size=sum(file.size for file in manifest.files),
    )
