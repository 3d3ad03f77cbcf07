"""Prometheus metrics of the log and the feedback API. No label ever names a user."""

from prometheus_client import Counter, Gauge, Histogram

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
