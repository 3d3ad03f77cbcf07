"""Fixtures of the page's tests: Chromium, a real `plaudit up`, and the stand-in server."""

import json
import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.browser.stand_in import StandIn
from tests.support.servers import Plaudit, start_up

TIMEOUT_MS = 20_000  # generous: other tests use the CPU at the same time
SHORT_ANSWERS = {"answers": 2, "temperature": 1, "top_p": 1, "max_tokens": 24}
DESKTOP = {"width": 1280, "height": 860}


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Yield Chromium; without it, skip the tests, or fail them in CI."""
    path = shutil.which("chromium")
    if path is None:
        if not os.environ.get("CI"):
            pytest.skip("the page's tests need Chromium; run apt-get install chromium")
        pytest.fail("Chromium is not installed")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def short_answers_script() -> str:
    """Return a script that stores settings for short answers, unless the page has settings."""
    settings = json.dumps(json.dumps(SHORT_ANSWERS))
    # A context begins with an empty page (no port), which cannot use localStorage.
    return f"if (location.port) localStorage['plaudit.settings'] ||= {settings}"


@pytest.fixture(scope="package")
def plaudit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    """Yield a running `plaudit up` whose learner never has enough votes to publish a version."""
    environment = {
        "PLAUDIT_SERVING_POLL_SECONDS": ".1",
        "PLAUDIT_SERVING_ENFORCE_EAGER": "1",
        "PLAUDIT_LEARNER_MIN_EVENTS": "1000000",
    }
    server = start_up(tmp_path_factory.mktemp("browser") / "home", environment)
    yield server
    server.stop()


@pytest.fixture(scope="package")
def stand_in_server() -> Iterator[StandIn]:
    """Yield the stand-in server, which serves the page and whatever a test sets up."""
    with StandIn() as server:
        yield server


@pytest.fixture
def stand_in(stand_in_server: StandIn) -> StandIn:
    """Return the stand-in server, reset to its initial state."""
    stand_in_server.reset()
    return stand_in_server


@pytest.fixture
def contexts(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Yield a factory of empty browser contexts; a script error on any page fails the test."""
    created: list[BrowserContext] = []
    errors: list[str] = []

    def create(**options: object) -> BrowserContext:
        context = browser.new_context(**{"viewport": DESKTOP, **options})  # type: ignore[arg-type]
        context.add_init_script(short_answers_script())
        context.on("weberror", lambda error: errors.append(str(error.error)))
        context.on(
            "console", lambda m: errors.append(m.text) if _is_script_error(m.type, m.text) else None
        )
        context.set_default_timeout(TIMEOUT_MS)
        created.append(context)
        return context

    yield create
    for context in created:
        context.close()
    assert not errors, errors


def _is_script_error(kind: str, text: str) -> bool:
    """Return whether a console message is an error of the page, not a request that a test fails."""
    return kind == "error" and not text.startswith("Failed to load resource")


@pytest.fixture
def page(contexts: Callable[..., BrowserContext], plaudit: Plaudit) -> Page:
    """Return the page on the real server, with empty browser storage."""
    page = contexts().new_page()
    page.goto(plaudit.url)
    return page


@pytest.fixture
def chat(contexts: Callable[..., BrowserContext], stand_in: StandIn) -> Page:
    """Return the page on the stand-in server, with empty browser storage."""
    page = contexts().new_page()
    page.goto(stand_in.url)
    expect(page.locator(".live")).to_contain_text("v5")
    return page
