"""What is wrong with the Grafana dashboard, beside its queries."""

import json
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def dashboard_problems(root: Path) -> list[str]:
    """Hold the dashboard to Grafana's own schema: what that does not know does not come back."""
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
        problems.append("dashboard: two panels of one id")
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place, name = panel["gridPos"], panel["title"]
        wanted = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if wanted & cells or place["x"] + place["w"] > 24:
            problems.append(f"dashboard: '{name}' lies on another panel or beside the page")
        cells |= wanted
        if panel["type"] == "row":
            continue
        if not panel.get("description") or not panel["fieldConfig"]["defaults"].get("unit"):
            problems.append(f"dashboard: '{name}' has no description or no unit")
        if any(t["datasource"]["uid"] != uid for t in [panel, *panel["targets"]]):
            problems.append(f"dashboard: '{name}' asks another data source than the provisioned")
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
