"""Prometheus metrics of the serving process, exposed by vLLM's /metrics."""

from prometheus_client import Counter, Gauge, Histogram, Info

COMPLETIONS = Counter("plaudit_completions_total", "Requests answered.", ["outcome"])
CANDIDATES = Counter("plaudit_candidates_total", "Candidate answers generated.", ["finish_reason"])
CANDIDATE_TOKENS = Counter("plaudit_candidate_tokens_total", "Tokens generated.")
REFUSED = Counter("plaudit_refused_total", "Requests refused before vLLM saw them.", ["status"])
CONNECTIONS = Gauge("plaudit_connections", "Open HTTP connections.")
CONNECTIONS_ENDED = Counter(
    "plaudit_connections_ended_total",
    "Connections closed at a limit or a deadline. `no_room`: all connections were being answered; "
    "`gave_way`: one that waited for its client, for a new one.",
    ["reason"],
)
RECORD_FAILURES = Counter(
    "plaudit_completion_record_failures_total", "Answers that could not be recorded."
)
SWAP_SECONDS = Histogram(
    "plaudit_swap_seconds",
    "Time from starting a swap to serving the version.",
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
SWAP_PAUSE_SECONDS = Histogram(
    "plaudit_swap_pause_seconds",
    "Time for which decoding was paused in a swap.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1, 2, 5, 10),
)
SWAPS = Counter("plaudit_swaps_total", "Swaps by outcome.", ["outcome"])
ACTIVE_VERSION = Gauge("plaudit_active_policy_version", "The policy version that is served.")
POLICY = Info("plaudit_policy", "The policy that is served.")
LAST_SWAP = Gauge(
    "plaudit_last_swap_success_timestamp_seconds", "When a swap last succeeded, Unix time."
)
# Start at zero, since Prometheus does not see an increase in a series' first sample.
for _outcome in ("succeeded", "failed"):
    SWAPS.labels(_outcome)
for _reason in (
    "no_room",
    "gave_way",
    "head_timeout",
    "body_timeout",
    "read_timeout",
    "head_too_large",
):
    CONNECTIONS_ENDED.labels(_reason)
for _outcome in ("finished", "aborted"):
    COMPLETIONS.labels(_outcome)
