"""The metrics page: every Prometheus metric that the code registers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry

import feedback.metrics
import serving.metrics  # noqa: F401  its import registers the metrics
from docs.scripts.markdown import code, sentence, table
from learner.cycle.metrics import Metrics

_SUFFIX: Final = {"counter": "_total", "info": "_info"}


def metrics_table(registry: CollectorRegistry) -> str:
    """Return the table of a registry's metrics."""
    return table(("metric", "type", "labels", "meaning"), _rows(registry))


def serving_registry() -> CollectorRegistry:
    """Return the registry of a replica, with the metrics of its disk."""
    if "plaudit_disk_free_bytes" not in REGISTRY._names_to_collectors:
        feedback.metrics.show_disk(Path())
    return REGISTRY


def learner_registry() -> CollectorRegistry:
    """Return the registry of a learner, with the metrics of its disk."""
    registry = Metrics().registry
    feedback.metrics.show_disk(Path(), registry)
    return registry


def _rows(registry: CollectorRegistry) -> Iterator[tuple[str, str, str, str]]:
    collectors: dict[Any, list[str]] = registry._collector_to_names
    for collector in collectors:
        kind = getattr(collector, "_type", "")
        name = getattr(collector, "_name", "")
        if name.startswith("plaudit_"):
            labels = ", ".join(code(label) for label in collector._labelnames)
            text = sentence(collector._documentation)
            yield code(name + _SUFFIX.get(kind, "")), kind, labels, text
