"""Checks of the Grafana dashboard, except its queries."""

import json
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def dashboard_problems(root: Path) -> list[str]:
    """Check the dashboard against Grafana's schema, which drops unknown fields, and its layout."""
    register_default_plugins()
    grafana = root / "deploy/grafana"
    board = json.loads((grafana / "dashboards/plaudit.json").read_text())
    back = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    problems = [f"dashboard: Grafana has no {path}" for path in _lost(board, back)]
    if problems:
        return problems
    source = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yaml").read_text())
    uid = source["datasources"][0]["uid"]
    if board["schemaVersion"] < 41:
        problems.append(f"dashboard: schema {board['schemaVersion']}")
    if len({p["id"] for p in board["panels"]}) != len(board["panels"]):
        problems.append("dashboard: two panels have the same id")
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        position, name = panel["gridPos"], panel["title"]
        occupied = {
            (x, y)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        }
        if occupied & cells or position["x"] + position["w"] > 24:
            problems.append(f"dashboard: '{name}' overlaps another panel or exceeds the width")
        cells |= occupied
        if panel["type"] == "row":
            continue
        if not panel.get("description") or not panel["fieldConfig"]["defaults"].get("unit"):
            problems.append(f"dashboard: '{name}' has no description or no unit")
        if any(t["datasource"]["uid"] != uid for t in [panel, *panel["targets"]]):
            problems.append(
                f"dashboard: '{name}' uses another data source than the provisioned one"
            )
    return problems


def _lost(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict):
        lost = [f"{path}.{k}" for k in before if not isinstance(after, dict) or k not in after]
        kept = [k for k in before if f"{path}.{k}" not in lost]
        return lost + [p for k in kept for p in _lost(before[k], after[k], f"{path}.{k}")]
    if isinstance(before, list):
        pairs = zip(before, after, strict=True)
        return [p for n, (b, a) in enumerate(pairs) for p in _lost(b, a, f"{path}[{n}]")]
    return [] if before == after else [f"{path}: {before!r}"]
