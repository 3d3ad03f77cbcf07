"""Run a real Prometheus on this machine, and check PromQL expressions against it."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import yaml

from tests.support.servers import free_port

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "deploy" / "prometheus"
BUILT_IN_METRICS = {"up", "ALERTS"}  # that Prometheus creates itself


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that scrapes and evaluates every second."""

    port: int

    def get(self, path: str, **parameters: Any) -> Any:
        """Query the HTTP API.

        Raises:
            ValueError: Prometheus answered with an error.

        """
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
        answer = httpx.get(url, params=parameters, timeout=30).json()
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]

    def names(self) -> set[str]:
        return {*self.get("label/__name__/values"), *BUILT_IN_METRICS}

    def labels(self, name: str) -> set[str]:
        return {*self.get("labels", **{"match[]": f'{{__name__="{name}"}}'})}

    def query(self, expression: str) -> list[Any]:
        result: list[Any] = self.get("query", query=expression)["result"]
        return result

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression has a result."""
        deadline = time.monotonic() + seconds
        while not self.query(expression):
            targets = [
                (t["scrapeUrl"], t["lastError"]) for t in self.get("targets")["activeTargets"]
            ]
            assert time.monotonic() < deadline, f"nothing for {expression}; targets: {targets}"
            time.sleep(0.2)


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Run the configuration and rules of deploy/prometheus on free ports, every second."""
    for part in ("rules", "prometheus.yml"):
        copy = shutil.copytree if (RULES / part).is_dir() else shutil.copy
        copy(RULES / part, folder / part)
    (folder / "targets").mkdir()
    for part, port in targets.items():
        (folder / "targets" / f"{part}.yml").write_text(f'- targets: ["127.0.0.1:{port}"]\n')
    config = folder / "prometheus.yml"
    config.write_text(config.read_text().replace("15s", "1s"))
    found = Prometheus(free_port())
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{found.port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                httpx.get(f"http://127.0.0.1:{found.port}/-/ready").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (folder / "prometheus.log").read_text()
                time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        process.wait(30)


def rule_expressions() -> Iterator[tuple[str, str]]:
    """Yield the name and expression of every rule."""
    for file in sorted((RULES / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert") or rule["record"], rule["expr"]


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    """Yield the title and expression of every query of the dashboard and the autoscaler."""
    board = json.loads((REPOSITORY / "deploy/grafana/dashboards/plaudit.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    adapter = yaml.safe_load((REPOSITORY / "deploy/kubernetes/prometheus-adapter.yaml").read_text())
    for rule in adapter["rules"]["custom"]:
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", "")
        series = rule["seriesQuery"].partition("{")[0]
        yield (
            rule["name"]["as"],
            query.replace("<<.Series>>", series).replace("<<.GroupBy>>", "instance"),
        )


def recording_rule_names() -> set[str]:
    """Return the names of the series that the recording rules create."""
    return {name for name, _ in rule_expressions() if ":" in name}


def selectors(expression: str) -> list[Any]:
    """Return the vector selectors in an expression.

    Raises:
        ValueError: The expression is not valid PromQL.

    """
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql.VectorSelector):
            found.append(node)

    promql.walk(promql.parse(expression), visit)
    return found


def expression_problems(server: Prometheus, expression: str) -> list[str]:
    """Return the problems of an expression: unknown metrics, unknown labels, errors."""
    try:
        server.query(expression)
        found = selectors(expression)
    except ValueError as error:
        return [str(error)]
    names = server.names()
    problems = []
    for selector in found:
        if selector.name not in names | recording_rule_names():
            problems.append(f"nothing exports {selector.name}")
        elif selector.name in names - BUILT_IN_METRICS:
            labels = server.labels(selector.name)
            label_names = {m.name for m in selector.matchers.matchers}
            problems += [
                f"{selector.name} has no label {label}" for label in sorted(label_names - labels)
            ]
    return problems
