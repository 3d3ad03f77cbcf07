"""Prometheus's rules and Grafana's queries, on a real Prometheus that scrapes Plaudit."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.learner_cycles import SETTINGS, environment_of
from tests.support.learning import make_home
from tests.support.prometheus import (
    RULES,
    Prometheus,
    dashboard_expressions,
    expression_problems,
    prometheus,
    recording_rule_names,
    rule_expressions,
)
from tests.support.servers import Plaudit

THUMB = {"kind": "rating", "value": "up"}


@pytest.fixture(scope="module", autouse=True)
def _needs_prometheus() -> None:
    if shutil.which("prometheus") is None and not os.environ.get("CI"):
        pytest.skip("needs Debian's package prometheus")


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def test_promtool_accepts_configuration_and_rules() -> None:
    checked = promtool("check", "config", RULES / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    assert (
        checked.stdout.count("SUCCESS") == 4
    )  # that the files exist, the configuration, two rule files


@pytest.mark.parametrize("file", sorted((RULES / "tests").glob("*.yml")), ids=lambda f: f.stem)
def test_promtool_passes_the_tests_of_the_rules(file: Path) -> None:
    tested = promtool("test", "rules", file)
    assert tested.returncode == 0, tested.stderr + tested.stdout


def test_every_alert_is_tested_firing_and_silent() -> None:
    seen: dict[str, set[bool]] = {name: set() for name, _ in rule_expressions() if ":" not in name}
    for file in (RULES / "tests").glob("*.yml"):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                seen[case["alertname"]].add(bool(case["exp_alerts"]))
    assert {name for name, fired in seen.items() if fired != {True, False}} == set()


@pytest.mark.parametrize(
    ("old", "new", "command"),
    [
        ("ratio_rate5m > 0.05", "ratio_rate5m > 0.5", "test"),  # fires too late
        ("requests_waiting:sum > 16", "requests_waiting:sum > 1", "test"),  # does not resolve
        ("requests_waiting:sum > 16", "requests_waiting:sum >", "check"),  # invalid PromQL
        ("severity: info", "severity: [info]", "check"),  # invalid rule
    ],
)
def test_promtool_finds_a_planted_error(tmp_path: Path, old: str, new: str, command: str) -> None:
    shutil.copytree(RULES, tmp_path / "p")
    file = tmp_path / "p" / "rules" / "alerts.yml"
    file.write_text(file.read_text().replace(old, new))
    tests = sorted((tmp_path / "p" / "tests").glob("*.yml"))
    assert (promtool("check", "rules", file).returncode != 0) == (command == "check")
    assert any(promtool("test", "rules", test).returncode != 0 for test in tests)


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    """Start a learner process that will finish a cycle; its port serves its metrics."""
    home = tmp_path_factory.mktemp("learner-home")
    found = Plaudit(make_home(home), environment=environment_of(SETTINGS))
    found.run("learn", "--home", str(home), "--metrics-port", str(found.port))
    yield found
    found.stop()


def _chat_and_vote(plaudit: Plaudit) -> None:
    answer = plaudit.openai().chat.completions.create(
        model="plaudit", n=2, messages=[{"role": "user", "content": "Hi"}], max_tokens=4
    )
    assert plaudit.vote(answer.id, THUMB | {"choice": 0}).status_code == 201
    assert plaudit.vote(answer.id, THUMB | {"choice": 9}).status_code == 400


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, plaudit: Plaudit, learner: Plaudit
) -> Iterator[Prometheus]:
    """Start a Prometheus, and wait until it has scraped a replica with votes and the learner."""
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus(folder, {"serving": plaudit.port, "learner": learner.port}) as running:
        running.wait("up == 1")
        for _ in range(5):  # a rate needs two scrapes
            _chat_and_vote(plaudit)
            time.sleep(1.1)
        cycle_ended = 'plaudit_learner_cycles_total{outcome="published"} == 1'
        running.wait(cycle_ended, seconds=240)
        during_cycles = {"plaudit:learner_stage:age_seconds"}
        for name in recording_rule_names() - during_cycles:
            running.wait(name)
        yield running


@pytest.mark.parametrize(("name", "expression"), [*rule_expressions(), *dashboard_expressions()])
def test_expressions_use_only_exported_metrics_and_labels(
    server: Prometheus, name: str, expression: str
) -> None:
    assert expression_problems(server, expression) == []


def test_rules_are_evaluated_without_error(server: Prometheus) -> None:
    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {name for name, _ in rule_expressions()}
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}


# Panels that are empty without errors, trials, swaps and running cycles.
MAY_BE_EMPTY = {
    "A version goes live",
    "Time since the last swap",
    "Duration of swaps",
    "Errors by route",
    "Alerts",
}


def test_panels_show_data(server: Prometheus) -> None:
    shown = {name for name, expression in dashboard_expressions() if server.query(expression)}
    assert {name for name, _ in dashboard_expressions()} - shown <= MAY_BE_EMPTY


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(plaudit_votes_total[5m])", "nothing exports plaudit_votes_total"),
        ("sum by (kind) (plaudit:votes:rate5m)", "nothing exports plaudit:votes:rate5m"),
        (
            'plaudit_swaps_total{result="failed"} > 0',
            "plaudit_swaps_total has no label result",
        ),
        ("sum(plaudit_swaps_total", "unclosed left parenthesis"),
        ("rate(plaudit_swaps_total)", "expected type range vector"),
    ],
)
def test_the_checker_finds_a_planted_error(
    server: Prometheus, expression: str, problem: str
) -> None:
    (found,) = expression_problems(server, expression)
    assert problem in found
