"""The learner's Prometheus metrics."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from feedback.control.policies import PolicyState
from feedback.ledger.rows import LedgerCounts
from feedback.metrics import show_disk
from learner.cycle.state import CycleState
from learner.gate.duel import TrialResult
from learner.ppo.trainer import Iteration
from learner.report.contents import Outcome
from learner.settings import GateSettings

# Gauges of PPO by the field of `Iteration` that they show.
_PPO_GAUGES: Final = {
    "score": ("plaudit_learner_ppo_reward", "Mean normalised reward"),
    "kl": ("plaudit_learner_ppo_kl_nats", "KL to the SFT policy, per answer"),
    "entropy": ("plaudit_learner_ppo_entropy_nats", "Entropy per token"),
    "clip_ratio": ("plaudit_learner_ppo_clip_ratio", "Share of tokens whose ratio was clipped"),
    "length": ("plaudit_learner_ppo_answer_tokens", "Mean length of an answer"),
    "ended": ("plaudit_learner_ppo_ended_ratio", "Share of finished answers"),
    "live": ("plaudit_learner_ppo_live_ratio", "Share of off-policy answers"),
    "staleness": (
        "plaudit_learner_ppo_staleness_versions",
        "Mean age of the off-policy answers, in versions",
    ),
    "effective_sample_size": (
        "plaudit_learner_ppo_effective_sample_size_ratio",
        "Kish's effective sample size of the off-policy answers' importance weights",
    ),
    "mismatch_kl": (
        "plaudit_learner_ppo_mismatch_kl_nats",
        "KL of the sampler's probabilities to the trainer's, per token",
    ),
}
# Name, help text, and names of the labels.
_GAUGES: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("plaudit_learner_lag_events", "Log records not yet in the ledger", ()),
    ("plaudit_learner_ledger_events", "Feedback events in the ledger", ()),
    ("plaudit_learner_waiting_events", "Feedback events whose completions are missing", ()),
    ("plaudit_learner_ledger_bytes", "Size of the ledger's rows, without deleted ones", ()),
    ("plaudit_learner_dead_letters", "Records set aside as unusable", ()),
    ("plaudit_learner_live_policy_version", "Live version; 0 if there is none", ()),
    ("plaudit_learner_trial_policy_version", "Version on trial; 0 if there is none", ()),
    ("plaudit_learner_publishing_held", "1 while an operator holds publishing", ()),
    (
        "plaudit_learner_reward_model_accuracy_ratio",
        "Accuracy of the reward model on held-out pairs",
        ("bound",),
    ),
    (
        "plaudit_learner_reward_model_calibration_error_ratio",
        "Expected calibration error of the reward model, after calibration",
        (),
    ),
    (
        "plaudit_learner_left_out_prompts",
        "Recorded prompts that the last cycle left out, because they are longer than its limit",
        (),
    ),
    ("plaudit_learner_doubted_raters", "Raters who mostly disagree with the majority", ()),
    *((name, text, ()) for name, text in _PPO_GAUGES.values()),
    ("plaudit_learner_text_perplexity", "Perplexity of the candidate on held-out text", ()),
    ("plaudit_learner_gate", "Figures of the last gate", ("figure",)),
    ("plaudit_learner_gate_limit", "Upper bounds of the gate", ("figure",)),
    (
        "plaudit_learner_duel_votes",
        "Votes of the trial: for the challenger, for the live version, ties",
        ("vote",),
    ),
    (
        "plaudit_learner_duel_evidence_nats",
        "Evidence that the challenger is better than the live version",
        (),
    ),
    ("plaudit_learner_last_success_timestamp_seconds", "Time of the last publication", ()),
    ("plaudit_learner_stage_info", "Current stage of the learner", ("stage",)),
    ("plaudit_learner_stage_started_timestamp_seconds", "Start of the current stage", ()),
)
# Gauges that are NaN at first: a zero would be a figure, and its rise would look like news.
_UNKNOWN_AT_FIRST: Final = (
    "plaudit_learner_dead_letters",
    "plaudit_learner_left_out_prompts",
    "plaudit_learner_reward_model_calibration_error_ratio",
    "plaudit_learner_doubted_raters",
    "plaudit_learner_text_perplexity",
    *(name for name, _ in _PPO_GAUGES.values()),
)


class Metrics:
    """All metrics of the learner, in a registry of their own."""

    def __init__(self) -> None:
        """Create the metrics; what can be counted starts at zero."""
        self._stage = ""
        self.registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(name, text, labels, registry=self.registry)
            for name, text, labels in _GAUGES
        }
        self._trials = self._counter("plaudit_learner_duels_total", "Trials by outcome")
        self._cycles = self._counter("plaudit_learner_cycles_total", "Cycles by outcome")
        self._expired = Counter(
            "plaudit_learner_expired_completions_total",
            "Answers without feedback that retention has deleted",
            registry=self.registry,
        )
        for name in _UNKNOWN_AT_FIRST:
            self._set(name, math.nan)
        # Create the series at zero: Prometheus does not see the increase that creates a series.
        for vote in ("wins", "losses", "ties"):
            self._gauges["plaudit_learner_duel_votes"].labels(vote)
        for outcome in ("promoted", "rolled_back"):
            self._trials.labels(outcome)
        for outcome in get_args(Outcome):
            self._cycles.labels(outcome)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["outcome"], registry=self.registry)

    def _set(self, name: str, value: float, *labels: str) -> None:
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def serve(self, host: str, port: int, home: Path) -> None:
        """Serve the metrics, and the disk usage of the home folder, over HTTP."""
        show_disk(home, self.registry)
        start_http_server(port, addr=host, registry=self.registry)

    def set_ledger(self, lag: int, counts: LedgerCounts) -> None:
        """Show the state of the ledger.

        Args:
            lag: Number of log records that are not yet in the ledger.
            counts: Row counts of the ledger.

        """
        self._set("plaudit_learner_lag_events", lag)
        self._set("plaudit_learner_ledger_events", counts.events)
        self._set("plaudit_learner_waiting_events", counts.waiting)
        self._set("plaudit_learner_dead_letters", counts.dead_letters)

    def set_retention(self, ledger_bytes: int, expired: int) -> None:
        """Show the size of the ledger, and count the answers that have expired."""
        self._set("plaudit_learner_ledger_bytes", ledger_bytes)
        self._expired.inc(expired)

    def set_policies(self, state: PolicyState) -> None:
        """Show which versions are live and on trial, and whether publishing is on hold."""
        self._set("plaudit_learner_live_policy_version", state.live)
        self._set("plaudit_learner_trial_policy_version", state.challenger)
        self._set("plaudit_learner_publishing_held", state.held)

    def set_gate_bounds(self, gate: GateSettings) -> None:
        """Show the upper bounds of the gate, by the name of the bounded figure."""
        self._set("plaudit_learner_gate_limit", gate.max_kl, "kl")
        self._set("plaudit_learner_gate_limit", gate.max_text_nll_increase, "text_nll_increase")

    def set_stage(self, name: str) -> None:
        """Show the current stage, and the time at which it was first set."""
        if name == self._stage:
            return
        self._stage = name
        self._gauges["plaudit_learner_stage_info"].clear()
        self._set("plaudit_learner_stage_info", 1, name)
        self._set("plaudit_learner_stage_started_timestamp_seconds", time.time())

    def set_reward_model(self, figures: Mapping[str, float]) -> None:
        """Show the figures of a trained reward model."""
        accuracy = "plaudit_learner_reward_model_accuracy_ratio"
        self._set(accuracy, figures["reward_accuracy"], "mean")
        self._set(accuracy, figures["reward_lower_bound"], "lower")
        self._set(
            "plaudit_learner_reward_model_calibration_error_ratio",
            figures["reward_calibration_error"],
        )
        self._set("plaudit_learner_doubted_raters", figures["reward_doubted_raters"])

    def set_left_out_prompts(self, count: int) -> None:
        """Show how many recorded prompts a cycle leaves out, because they are too long."""
        self._set("plaudit_learner_left_out_prompts", count)

    def set_iteration(self, iteration: Iteration) -> None:
        """Show the figures of an iteration of PPO."""
        for field, (name, _) in _PPO_GAUGES.items():
            self._set(name, getattr(iteration, field))

    def set_gate(self, figures: Mapping[str, float], perplexity: float) -> None:
        """Show the figures of the gate, and the candidate's perplexity on held-out text."""
        for name, value in figures.items():
            self._set("plaudit_learner_gate", value, name)
        self._set("plaudit_learner_text_perplexity", perplexity)

    def set_trial(self, result: TrialResult) -> None:
        """Show the votes of the current trial."""
        for vote in ("wins", "losses", "ties"):
            self._set("plaudit_learner_duel_votes", getattr(result, vote), vote)
        self._set("plaudit_learner_duel_evidence_nats", result.evidence)

    def trial_ended(self, result: TrialResult) -> None:
        """Count a trial that ended."""
        self._trials.labels("promoted" if result.promoted else "rolled_back").inc()

    def cycle_ended(self, cycle: CycleState) -> None:
        """Count a cycle that ended."""
        self._cycles.labels(cycle.outcome or "none").inc()
        if cycle.outcome == "published":
            self._gauges["plaudit_learner_last_success_timestamp_seconds"].set_to_current_time()
