"""The versions as people are shown them: what each came from, its figures, and where it stands."""

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
_REFRESH_SECONDS: Final = 10.0  # how often the registry is asked what it holds

VersionStatus = Literal["live", "published", "on_trial", "rolled_back", "waiting"]


@dataclass(frozen=True, slots=True)
class Version:
    """One version.

    Attributes:
        created: Unix seconds.
        votes: How many opinions it learned from that its ancestors did not; of what kinds.
        figures: Of the gate; empty for the first, and where the checkpoint is gone.
        size: Of its files, in bytes; 0 where they are gone.

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
        """Return it as /v1/learning shows it."""
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
        """Return it as /v1/policies shows it: with who serves it, and its size."""
        return {**self.to_public_json(), "replicas": self.serving(state), "bytes": self.size}

    def serving(self, state: PolicyState) -> list[str]:
        """Return the replicas that serve it."""
        return sorted(name for name, version in state.replicas.items() if version == self.version)


def finite_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Leave out what JSON has no word for."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def version_status(version: int, state: PolicyState) -> VersionStatus:
    """Say where a published version stands."""
    if version == state.live:
        return "live"
    if version == state.challenger:
        return "on_trial"
    if version in state.rolled_back:
        return "rolled_back"
    return "waiting" if version > state.live else "published"


class Versions:
    """Looks versions up in the registry, each once: a manifest never changes. For one thread."""

    def __init__(self, registry: Registry) -> None:
        """Read manifests from `registry`."""
        self._registry = registry
        self._manifests: dict[int, Manifest] = {}
        self._there: set[int] = set()
        self._looked: tuple[float, tuple[int, ...]] = (-math.inf, ())

    def list_versions(self, told: HistorySnapshot) -> list[Version]:
        """Return all that were published, ascending.

        Where the registry is away, or holds a version no longer, that one has no figures.
        """
        self._refresh_manifests(told.state.published)
        return [
            _version(
                told.publications[number],
                told.state,
                self._manifests.get(number) if number in self._there else None,
            )
            for number in told.state.published
        ]

    def _refresh_manifests(self, published: tuple[int, ...]) -> None:
        now, (looked, then) = time.monotonic(), self._looked
        if then == published and now - looked < _REFRESH_SECONDS:
            return
        self._looked = (now, published)
        try:
            self._there = set(self._registry.versions())
            for number in sorted(self._there.intersection(published) - set(self._manifests)):
                try:
                    self._manifests[number] = self._registry.manifest(number)
                except CheckpointInvalid as error:
                    logger.warning("the figures of a version are not shown: %s", error)
        except RegistryUnavailable as error:
            logger.warning("figures may be missing: %s", error)


def _version(told: PublishedVersion, state: PolicyState, manifest: Manifest | None) -> Version:
    if manifest is None:
        manifest = Manifest(parent=told.parent, created_ms=told.created_ms)
    return Version(
        version=told.version,
        parent=told.parent,
        kind="lora" if manifest.kind == CHECKPOINT_KIND_LORA else "full",
        created=manifest.created_ms / 1000,
        status=version_status(told.version, state),
        votes=sum(told.votes.values()) or manifest.learned_from.events,
        from_votes=told.votes,
        figures=dict(manifest.gate),
        has_report=any(file.path == REPORT for file in manifest.files),
        size=sum(file.size for file in manifest.files),
    )
