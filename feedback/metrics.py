"""Prometheus metrics of the log and the feedback API. No label ever names a user."""

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
    "Feedback answered with success, by kind and outcome (accepted, duplicate, retracted).",
    ["kind", "outcome"],
)
REJECTED = Counter(
    "plaudit_feedback_rejected_total",
    "Feedback requests answered with an error, by the error's code.",
    ["reason"],
)
OUTBOX_RECORDS = Gauge(
    "plaudit_outbox_records",
    "Completion records on this machine's disk that the log does not have yet.",
)
# A zero to count from: Prometheus does not see the first rise of a series that begins with it.
REJECTED.labels("log_unavailable")


def show_disk(home: Path, registry: CollectorRegistry = REGISTRY) -> None:
    """Show, for as long as the process runs, how full the disk under the home folder is."""
    free = Gauge(
        "plaudit_disk_free_bytes", "Free on the disk of the home folder.", registry=registry
    )
    size = Gauge("plaudit_disk_size_bytes", "Size of that disk.", registry=registry)
    free.set_function(lambda: shutil.disk_usage(home).free)
    size.set_function(lambda: shutil.disk_usage(home).total)
