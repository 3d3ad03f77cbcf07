"""The learner's metrics, before and after their values are known."""

import math
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from feedback.control.policies import PolicyState
from feedback.ledger.rows import LedgerCounts
from feedback.metrics import show_disk
from learner.cycle.metrics import Metrics
from learner.settings import GateSettings
from tests.support.servers import free_port


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"plaudit_learner_{name}", labels)


def test_figures_are_nan_until_they_are_known() -> None:
    metrics = Metrics()
    for name in (
        "dead_letters",
        "left_out_prompts",
        "text_perplexity",
        "ppo_kl_nats",
        "ppo_reward",
    ):
        before = sample(metrics, name)
        assert before is not None
        assert math.isnan(before), name
    metrics.set_ledger(7, LedgerCounts(40, 30, waiting=5, dead_letters=2, max_seq=35))
    metrics.set_left_out_prompts(3)
    assert sample(metrics, "left_out_prompts") == 3
    assert sample(metrics, "dead_letters") == 2
    assert sample(metrics, "waiting_events") == 5
    assert sample(metrics, "ledger_events") == 40
    assert sample(metrics, "lag_events") == 7


def test_counts_begin_at_zero() -> None:
    metrics = Metrics()
    for outcome in (
        "published",
        "refused",
        "too_few_votes",
        "reward_model_weak",
        "overtaken",
        "failed",
    ):
        assert sample(metrics, "cycles_total", outcome=outcome) == 0
    assert sample(metrics, "duels_total", outcome="promoted") == 0
    assert sample(metrics, "duel_votes", vote="ties") == 0


def test_policies_and_bounds_are_shown() -> None:
    metrics = Metrics()
    metrics.set_policies(PolicyState(live=3, challenger=4, held=True))
    assert sample(metrics, "live_policy_version") == 3
    assert sample(metrics, "trial_policy_version") == 4
    assert sample(metrics, "publishing_held") == 1
    metrics.set_policies(PolicyState(live=4))
    assert sample(metrics, "trial_policy_version") == 0
    assert sample(metrics, "publishing_held") == 0
    metrics.set_gate_bounds(GateSettings(max_kl=20, max_text_nll_increase=0.1))
    assert sample(metrics, "gate_limit", figure="kl") == 20
    assert sample(metrics, "gate_limit", figure="text_nll_increase") == 0.1


def test_a_stage_shows_when_it_began() -> None:
    metrics = Metrics()
    metrics.set_stage("waiting")
    began = sample(metrics, "stage_started_timestamp_seconds")
    metrics.set_stage("ppo")
    later = sample(metrics, "stage_started_timestamp_seconds")
    assert began is not None
    assert later is not None
    assert 1.6e9 < began <= later
    assert sample(metrics, "stage_info", stage="ppo") == 1
    assert sample(metrics, "stage_info", stage="waiting") is None


def test_setting_the_same_stage_again_keeps_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    monkeypatch.setattr("time.time", lambda: 1.7e9)
    metrics.set_stage("duel")
    monkeypatch.setattr("time.time", lambda: 1.8e9)
    metrics.set_stage("duel")
    assert sample(metrics, "stage_started_timestamp_seconds") == 1.7e9
    metrics.set_stage("waiting")
    assert sample(metrics, "stage_started_timestamp_seconds") == 1.8e9


def test_the_disk_of_the_home_folder_is_shown(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    (tmp_path / "log.db").write_bytes(b"x" * 10)
    (tmp_path / "log.db-wal").write_bytes(b"x" * 5)
    (tmp_path / "log.db-shm").write_bytes(b"x" * 7)
    show_disk(tmp_path, registry, reserve=3)
    assert registry.get_sample_value("plaudit_home_databases_bytes") == 15
    assert registry.get_sample_value("plaudit_disk_reserve_bytes") == 3
    free = registry.get_sample_value("plaudit_disk_free_bytes")
    size = registry.get_sample_value("plaudit_disk_size_bytes")
    assert free is not None
    assert size is not None
    assert 0 < free < size


def test_metrics_are_served_at_the_given_address(tmp_path: Path) -> None:
    metrics, port = Metrics(), free_port()
    metrics.serve("127.0.0.1", port, tmp_path)
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert "plaudit_learner_lag_events 0.0" in text
    assert "plaudit_disk_free_bytes" in text
