"""The generated tables of the reference say what the code says."""

import pytest
import typer

from docs.scripts import command_line, http_api, metrics, settings
from docs.scripts.pages import TABLES, fill, reference_pages
from tests.support.deployment.names import variables


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference_pages()


def test_every_table_is_on_a_page(pages: dict[str, str]) -> None:
    assert "<!-- generated" not in "".join(pages.values())
    with pytest.raises(KeyError):
        fill("<!-- generated: nothing -->")
    assert len(pages) == 4
    assert len(TABLES) == 8


def test_every_variable_is_on_the_settings_page(pages: dict[str, str]) -> None:
    page = pages["reference/settings.md"]
    fixed = {"PLAUDIT_FAILPOINTS"}  # of the tests alone
    section_names = {
        f"{settings.prefix_of(kind)}{name}".upper()
        for _, kind, _ in settings.SECTIONS
        for name, _ in settings.sections(kind)
    }
    missing = {name for name in variables() - fixed - section_names if f"`{name}`" not in page}
    assert not missing


def test_a_setting_has_its_type_bounds_and_default(pages: dict[str, str]) -> None:
    page = pages["reference/settings.md"]
    assert "| `PLAUDIT_PORT` | integer, at least 1, at most 65535 | `8000` |" in page
    assert "| `PLAUDIT_TUNE` | one of `full`, `lora` | not set |" in page
    assert "| `PLAUDIT_SERVING_STRICT_RECORDING` | `true` or `false` | `false` |" in page
    assert "| `PLAUDIT_LEARNER_TUNE` | `full` | `lora` |" in page  # by the model's size


def test_settings_options_and_metrics_say_what_they_mean(pages: dict[str, str]) -> None:
    rows = "\n".join(pages.values()).splitlines()
    assert [row for row in rows if row.startswith("| `") and row.endswith("|  |")] == []


def test_every_command_has_a_section(pages: dict[str, str]) -> None:
    page = pages["reference/command-line.md"]
    for words in ("up", "policies show", "feedback forget", "keys create", "dead-letter retry"):
        assert f"## plaudit {words}\n" in page
    assert "plaudit sft --model MODEL --out OUT [OPTIONS]" in page
    assert "| `--keep` | integer, at least 1 | `5` |" in page


def test_every_route_of_the_app_is_described() -> None:
    found = {route for route in http_api.routes(http_api.own_app()) if route[0] != "HEAD"}
    assert found == http_api.ROUTES.keys()


def test_a_route_without_a_description_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(http_api.ROUTES, ("GET", "/v1/me"))
    with pytest.raises(RuntimeError, match="/v1/me"):
        http_api.routes_table()


def test_routes_have_the_roles_that_access_asks_for(pages: dict[str, str]) -> None:
    page = pages["reference/http-api.md"]
    assert "| `POST /v1/policies/{version}/activate` | `operator` |" in page
    assert "| `GET /readyz` | no key |" in page
    for kind in ("rating", "score", "comparison", "ranking", "demonstration", "comment"):
        assert f"#### Kind `{kind}`" in page


def test_metrics_have_their_exported_names() -> None:
    serving = metrics.metrics_table(metrics.serving_registry())
    learner = metrics.metrics_table(metrics.learner_registry())
    assert "| `plaudit_feedback_total` | counter | `kind`, `outcome` |" in serving
    assert "`plaudit_policy_info`" in serving
    assert "| `plaudit_learner_gate` | gauge | `figure` |" in learner


def test_commands_are_found_below_their_groups() -> None:
    program = typer.main.get_command(command_line.app)
    found = {" ".join(words) for words, _ in command_line.commands(program)}
    assert {"up", "policies list", "feedback import"} <= found
