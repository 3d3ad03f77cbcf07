"""The learner's Prometheus metrics."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from learner.cycle_state import CycleState
from learner.duel import Standing
from learner.ppo import Iteration

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
        self.registry = CollectorRegistry()
        self._lag = self._gauge("plaudit_learner_lag_events", "Log records not yet in the ledger")
        self._events = self._gauge("plaudit_learner_ledger_events", "Opinions in the ledger")
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
        self._success = self._gauge(
            "plaudit_learner_last_success_timestamp_seconds", "When a policy was last published"
        )
        self._stage = self._gauge("plaudit_learner_stage_info", "What is being done", "stage")

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, list(labels), registry=self.registry)

    def serve(self, port: int) -> None:
        """Serve them on the loopback address."""
        start_http_server(port, addr="127.0.0.1", registry=self.registry)

    def followed(self, lag: int, events: int) -> None:
        """The ledger has taken records in."""
        self._lag.set(lag)
        self._events.set(events)

    def stage(self, name: str) -> None:
        """Something else is being done now."""
        self._stage.clear()
        self._stage.labels(name).set(1)

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

    def duel(self, standing: Standing) -> None:
        """The votes of a duel were counted."""
        for vote in ("wins", "losses", "ties"):
            self._duel_votes.labels(vote).set(getattr(standing, vote))
        self._duel_evidence.set(standing.evidence)

    def duel_ended(self, standing: Standing) -> None:
        """A duel ended."""
        self._duels.labels("promoted" if standing.promoted else "rolled_back").inc()

    def ended(self, cycle: CycleState) -> None:
        """A cycle ended."""
        self._cycles.labels(cycle.outcome or "none").inc()
        if cycle.outcome == "published":
            self._success.set_to_current_time()
