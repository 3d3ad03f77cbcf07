"""Checks of the commands and variables that texts name, and of alerts and their runbooks."""

import re
from pathlib import Path
from typing import Final

import yaml

from tests.support.deployment.names import (
    command_problems,
    commands_in_comments,
    commands_in_markdown,
    variable_problems,
)

RUNBOOKS: Final = "docs/runbooks.md"
_PARTS: Final = ("Means", "Look", "Do")


def text_problems(root: Path) -> list[str]:
    """Check commands and variables in all files of deploy/ and in the documentation."""
    problems = []
    here = {".yaml", ".yml", ".sh", ".json", ""}
    files = [f for f in (root / "deploy").rglob("*") if f.is_file() and f.suffix in here]
    for file in [*files, *documents(root)]:
        text, where = file.read_text(), str(file.relative_to(root))
        found = commands_in_markdown if file.suffix == ".md" else commands_in_comments
        problems += [p for words in found(text) for p in command_problems(words, where)]
        problems += variable_problems(text, where)
    return problems


def documents(root: Path) -> list[Path]:
    """Return the Markdown files that describe the present (the changelog names what is gone)."""
    pages = sorted((root / "docs").rglob("*.md"))
    return [file for file in sorted(root.glob("*.md")) if file.name != "CHANGELOG.md"] + pages


def alert_problems(root: Path) -> list[str]:
    """Check that each alert has a runbook entry and vice versa, and that both are complete."""
    rules = yaml.safe_load((root / "deploy/prometheus/rules/alerts.yml").read_text())
    alerts = {r["alert"]: r for group in rules["groups"] for r in group["rules"]}
    entries = re.split(r"^## (.+)$", (root / RUNBOOKS).read_text(), flags=re.MULTILINE)[1:]
    texts = dict(zip(entries[::2], entries[1::2], strict=True))
    problems = [f"{name}: alert without runbook entry" for name in alerts if name not in texts]
    problems += [f"{name}: runbook entry without alert" for name in texts if name not in alerts]
    for name, text in texts.items():
        problems += [f"{name}: the entry lacks '{w}'" for w in _PARTS if f"**{w}**" not in text]
    for name, alert in alerts.items():
        annotations = alert["annotations"]
        if set(annotations) != {"summary", "description", "runbook_url"}:
            problems.append(f"{name}: annotations {sorted(annotations)}")
        if annotations.get("runbook_url") != f"{RUNBOOKS}#{name.lower()}":
            problems.append(f"{name}: it points to {annotations.get('runbook_url')}")
        if alert["labels"].get("severity") not in ("critical", "warning", "info"):
            problems.append(f"{name}: severity {alert['labels']}")
    return problems
