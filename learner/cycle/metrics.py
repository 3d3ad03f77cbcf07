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

_PPO: Final = {
    "score": ("plaudit_learner_ppo_reward", "Mean normalised reward"),
    "kl": ("plaudit_learner_ppo_kl_nats", "KL to the SFT policy in an answer"),
    "entropy": ("plaudit_learner_ppo_entropy_nats", "Entropy of a token"),
    "clip_ratio": ("plaudit_learner_ppo_clip_ratio", "Share of tokens whose ratio was clipped"),
    "length": ("plaudit_learner_ppo_answer_tokens", "Mean length of an answer"),
    "ended": ("plaudit_learner_ppo_ended_ratio", "Share of answers that ended by themselves"),
    "live": ("plaudit_learner_ppo_live_ratio", "Share of answers that people rated before"),
    "staleness": (
        "plaudit_learner_ppo_staleness_versions",
        "Versions since those answers were sampled",
    ),
    "effective_sample_size": (
        "plaudit_learner_ppo_effective_sample_size_ratio",
        "Kish's, of those answers' importance weights",
    ),
    "mismatch_kl": (
        "plaudit_learner_ppo_mismatch_kl_nats",
        "KL of the sampler's probabilities to the trainer's, in a token",
    ),
}


class Metrics:
    """All of the learner's metrics, in a registry of their own."""

    def __init__(self) -> None:
        """Start from nothing."""
        self._stage_name = ""
        self.registry = CollectorRegistry()
        self._lag = self._gauge("plaudit_learner_lag_events", "Log records not yet in the ledger")
        self._events = self._gauge("plaudit_learner_ledger_events", "Opinions in the ledger")
        self._waiting = self._gauge(
            "plaudit_learner_waiting_events", "Opinions on completions that have not arrived"
        )
        self._dead = self._gauge("plaudit_learner_dead_letters", "Records set aside as unusable")
        self._live = self._gauge(
            "plaudit_learner_live_policy_version", "That replicas are to serve; 0 for none"
        )
        self._on_trial = self._gauge(
            "plaudit_learner_trial_policy_version", "In a duel with the live one; 0 for none"
        )
        self._held = self._gauge(
            "plaudit_learner_publishing_held", "1 while an operator holds publishing"
        )
        self._accuracy = self._gauge(
            "plaudit_learner_reward_model_accuracy_ratio", "On held-out pairs", "bound"
        )
        self._calibration = self._gauge(
            "plaudit_learner_reward_model_calibration_error_ratio", "Expected, after calibration"
        )
        self._doubted = self._gauge(
            "plaudit_learner_doubted_raters", "Who contradict the crowd more often than not"
        )
        self._ppo = {name: self._gauge(*told) for name, told in _PPO.items()}
        self._perplexity = self._gauge(
            "plaudit_learner_text_perplexity", "Of the candidate on held-out text"
        )
        self._gate = self._gauge("plaudit_learner_gate", "Figures of the last gate", "figure")
        self._gate_limit = self._gauge(
            "plaudit_learner_gate_limit", "What the gate allows at most", "figure"
        )
        self._duel_votes = self._gauge(
            "plaudit_learner_duel_votes", "For the version on trial, the live one, neither", "vote"
        )
        self._duel_evidence = self._gauge(
            "plaudit_learner_duel_evidence_nats", "That the version on trial is the better one"
        )
        self._duels = Counter(
            "plaudit_learner_duels_total", "Duels by outcome", ["outcome"], registry=self.registry
        )
        self._cycles = Counter(
            "plaudit_learner_cycles_total",
            "Cycles by outcome",
            ["outcome"],
            registry=self.registry,
        )
        # Zeros to count from: Prometheus does not see a rise with which a series begins.
        for vote in ("wins", "losses", "ties"):
            self._duel_votes.labels(vote)
        for outcome in ("promoted", "rolled_back"):
            self._duels.labels(outcome)
        for outcome in get_args(Outcome):
            self._cycles.labels(outcome)
        self._success = self._gauge(
            "plaudit_learner_last_success_timestamp_seconds", "When a policy was last published"
        )
        self._stage = self._gauge("plaudit_learner_stage_info", "What is being done", "stage")
        self._stage_started = self._gauge(
            "plaudit_learner_stage_started_timestamp_seconds", "When that began"
        )

        # Not known yet: a zero would be a figure, and what it rises to would look like news.
        told_later = (self._dead, self._calibration, self._doubted, self._perplexity)
        for gauge in (*told_later, *self._ppo.values()):
            gauge.set(math.nan)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, list(labels), registry=self.registry)

    def serve(self, host: str, port: int, home: Path) -> None:
        """Serve them, with the state of the disk under the home folder."""
        show_disk(home, self.registry)
        start_http_server(port, addr=host, registry=self.registry)

    def followed(self, lag: int, counts: LedgerCounts) -> None:
        """The ledger has taken records in."""
        self._lag.set(lag)
        self._events.set(counts.events)
        self._waiting.set(counts.waiting)
        self._dead.set(counts.dead_letters)

    def policies(self, state: PolicyState) -> None:
        """The policy events were read."""
        self._live.set(state.live)
        self._on_trial.set(state.challenger)
        self._held.set(state.held)

    def limits(self, gate: GateSettings) -> None:
        """The gate's bounds are known; by the names of the figures that they hold for."""
        self._gate_limit.labels("kl").set(gate.max_kl)
        self._gate_limit.labels("text_nll_increase").set(gate.max_text_nll_increase)

    def stage(self, name: str) -> None:
        """This is being done now; said again, it is the same stage still."""
        if name == self._stage_name:
            return
        self._stage_name = name
        self._stage.clear()
        self._stage.labels(name).set(1)
        self._stage_started.set(time.time())

    def reward_model(self, figures: Mapping[str, float]) -> None:
        """A reward model was trained."""
        self._accuracy.labels("mean").set(figures["reward_accuracy"])
        self._accuracy.labels("lower").set(figures["reward_lower_bound"])
        self._calibration.set(figures["reward_calibration_error"])
        self._doubted.set(figures["reward_doubted_raters"])

    def iteration(self, iteration: Iteration) -> None:
        """PPO took an iteration."""
        for name, gauge in self._ppo.items():
            gauge.set(getattr(iteration, name))

    def gate(self, figures: Mapping[str, float], perplexity: float) -> None:
        """The gate examined a candidate."""
        for name, value in figures.items():
            self._gate.labels(name).set(value)
        self._perplexity.set(perplexity)

    def duel(self, standing: TrialResult) -> None:
        """The votes of a duel were counted."""
        for vote in ("wins", "losses", "ties"):
            self._duel_votes.labels(vote).set(getattr(standing, vote))
        self._duel_evidence.set(standing.evidence)

    def duel_ended(self, standing: TrialResult) -> None:
        """A duel ended."""
        self._duels.labels("promoted" if standing.promoted else "rolled_back").inc()

    def ended(self, cycle: CycleState) -> None:
        """A cycle ended."""
        self._cycles.labels(cycle.outcome or "none").inc()
        if cycle.outcome == "published":
            self._success.set_to_current_time()
