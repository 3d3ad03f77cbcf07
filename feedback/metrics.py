"""Prometheus metrics of the event log and the feedback API. Labels never identify users."""

import shutil
from contextlib import suppress
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
REJECTED.labels("disk_low")


def show_disk(home: Path, registry: CollectorRegistry = REGISTRY, *, reserve: int = 0) -> None:
    """Register gauges of the space on the disk of the home folder, and of what the files use.

    Args:
        home: The home folder.
        registry: Registry of the gauges.
        reserve: Free space below which this process stores no votes and records, in bytes.

    """
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
    kept = Gauge(
        "plaudit_disk_reserve_bytes",
        "Free space below which votes and records of answers are refused, in bytes; 0 for none.",
        registry=registry,
    )
    files = Gauge(
        "plaudit_home_databases_bytes",
        "Size of the databases in the home folder, in bytes.",
        registry=registry,
    )
    kept.set(reserve)
    files.set_function(lambda: sum(database_sizes(home).values()))
    free.set_function(lambda: shutil.disk_usage(home).free)
    size.set_function(lambda: shutil.disk_usage(home).total)


def database_sizes(home: Path) -> dict[str, int]:
    """Return the sizes of the databases in the home folder with their `-wal` files, in bytes."""
    sizes: dict[str, int] = {}
    for path in sorted(home.glob("*.db*")):
        name = path.name.removesuffix("-wal")
        if name.endswith(".db"):
            with suppress(FileNotFoundError):  # a -wal that was removed meanwhile
                sizes[name] = sizes.get(name, 0) + path.stat().st_size
    return sizes
