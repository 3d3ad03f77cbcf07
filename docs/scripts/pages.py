"""The generated pages: prose from docs/reference/*.md, tables from the code."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from docs.scripts import command_line, http_api, metrics, settings

ROOT: Final = Path(__file__).parents[2]
TABLES: Final[dict[str, Callable[[], str]]] = {
    "settings": settings.settings_tables,
    "large-model-defaults": settings.large_model_defaults,
    "option-variables": settings.option_variables,
    "commands": command_line.command_sections,
    "routes": http_api.routes_table,
    "feedback-bodies": http_api.feedback_bodies,
    "serving-metrics": lambda: metrics.metrics_table(metrics.serving_registry()),
    "learner-metrics": lambda: metrics.metrics_table(metrics.learner_registry()),
}
_MARKER: Final = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)


def reference_pages() -> dict[str, str]:
    """Return the pages of the reference by path, with their tables filled in.

    Raises:
        KeyError: A page asks for a table that does not exist.

    """
    files = sorted((ROOT / "docs" / "reference").glob("*.md"))
    return {f"reference/{file.name}": fill(file.read_text()) for file in files}


def fill(text: str) -> str:
    """Replace each marker of a page by the table that it names."""
    return _MARKER.sub(lambda marker: TABLES[marker[1]]().rstrip(), text)


def changelog() -> str:
    """Return the changelog, which is kept at the root of the repository."""
    return (ROOT / "CHANGELOG.md").read_text()


def contributing() -> str:
    """Return CONTRIBUTING.md with its links as they are on the site."""
    text = (ROOT / "CONTRIBUTING.md").read_text().replace("](docs/", "](")
    text = text.replace("](CHANGELOG.md)", "](changelog.md)")
    return text.replace("](LICENSE)", "](https://www.apache.org/licenses/LICENSE-2.0)")
