"""Prometheus metrics of the event log and the feedback API. Labels never identify users."""

import shutil
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

APPEND_SECONDS = Histogram(
    "plaudit_log_append_seconds",
    "Time until an append to the event log was durable, or had failed.",
    ["topic"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
FEEDBACK = Counter(
    "plaudit_feedback_total",
    "Successful feedback requests, by kind and outcome (accepted, duplicate, retracted).",
    ["kind", "outcome"],
)
REJECTED = Counter(
    "plaudit_feedback_rejected_total",
    "Rejected feedback requests, by error code.",
    ["reason"],
)
OUTBOX_RECORDS = Gauge(
    "plaudit_outbox_records",
    "Completion records in the outbox that were not forwarded to the log yet.",
)
OUTBOX_REFUSED = Counter(
    "plaudit_outbox_refused_total",
    "Records that the log can never take and that the outbox has set aside as dead letters.",
)
# Start at zero: Prometheus does not see the first increase of a series that starts with it.
REJECTED.labels("log_unavailable")


def show_disk(home: Path, registry: CollectorRegistry = REGISTRY) -> None:
    """Register gauges of the free and total space on the disk of the home folder."""
    free = Gauge(
        "plaudit_disk_free_bytes",
        "Free space on the disk of the home folder, in bytes.",
        registry=registry,
    )
    size = Gauge(
        "plaudit_disk_size_bytes",
        "Size of the disk of the home folder, in bytes.",
        registry=registry,
    )
    free.set_function(lambda: shutil.disk_usage(home).free)
    size.set_function(lambda: shutil.disk_usage(home).total)
