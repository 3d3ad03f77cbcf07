"""What the documentation quotes from the code is in the code."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
PACKAGES = ("protos", "feedback", "serving", "learner", "deploy")


def test_messages_that_the_runbooks_quote_are_logged() -> None:
    runbooks = " ".join((REPOSITORY / "docs/runbooks.md").read_text().split())
    quoted = re.findall(r'"([^"]+)"', runbooks)
    assert quoted
    source = "\n".join(
        file.read_text() for name in PACKAGES for file in (REPOSITORY / name).rglob("*.py")
    )
    assert [message for message in quoted if message not in source] == []


def test_the_number_of_alerts_is_right() -> None:
    alerts = (REPOSITORY / "deploy/prometheus/rules/alerts.yml").read_text().count("- alert:")
    assert f"has {alerts} alerts" in (REPOSITORY / "docs/operating.md").read_text()


def test_the_layers_of_the_architecture_are_those_of_the_contracts() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    text = " ".join((REPOSITORY / "docs/architecture.md").read_text().split())
    for package in ("learner", "feedback"):
        found = re.search(rf'layers = \[\s*"{package}\..*?\]', project, re.DOTALL)
        assert found is not None
        layers = re.findall(r'"([^"]+)"', found[0])
        names = [
            ", ".join(f"`{name.strip().removeprefix(f'{package}.')}`" for name in layer.split("|"))
            for layer in layers
        ]
        assert f"`{package}`: {' > '.join(names)}" in text
