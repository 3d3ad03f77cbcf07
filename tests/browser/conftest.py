"""A real browser (Debian's Chromium) and a real `plaudit up`, shared by all tests of the page."""

import json
import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.browser.stand_in import StandIn
from tests.support.servers import Plaudit, start_up

PATIENCE = 20_000  # milliseconds; more than anything takes beside the other half of the gate
SHORT = {"answers": 2, "temperature": 1, "top_p": 1, "max_tokens": 24}
DESKTOP = {"width": 1280, "height": 860}


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Where there is no Chromium: a skip, in CI a failure."""
    path = shutil.which("chromium")
    if path is None:
        if not os.environ.get("CI"):
            pytest.skip("the page's tests need Chromium: apt-get install chromium")
        pytest.fail("there is no Chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def short_answers() -> str:
    """Return a script that sets how a page asks, where it has not been set."""
    kept = json.dumps(json.dumps(SHORT))
    # An empty page, which every context begins with, may store nothing.
    return f"if (location.port) localStorage['plaudit.settings'] ||= {kept}"


@pytest.fixture(scope="package")
def plaudit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    """All of Plaudit; its learner has never enough votes, so that versions stay as they are."""
    environment = {
        "PLAUDIT_SERVING_POLL_SECONDS": ".1",
        "PLAUDIT_SERVING_ENFORCE_EAGER": "1",
        "PLAUDIT_LEARNER_MIN_EVENTS": "1000000",
    }
    server = start_up(tmp_path_factory.mktemp("browser") / "home", environment)
    yield server
    server.stop()


@pytest.fixture(scope="package")
def stand_in() -> Iterator[StandIn]:
    """The page before a server that tells whatever a test wants it to."""
    with StandIn() as server:
        yield server


@pytest.fixture
def told(stand_in: StandIn) -> StandIn:
    """The stand-in, as its story begins."""
    stand_in.reset()
    return stand_in


@pytest.fixture
def contexts(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Make browser contexts, with nothing stored; a script error on any page fails the test."""
    made: list[BrowserContext] = []
    errors: list[str] = []

    def make(**options: object) -> BrowserContext:
        context = browser.new_context(**{"viewport": DESKTOP, **options})  # type: ignore[arg-type]
        context.add_init_script(short_answers())
        context.on("weberror", lambda error: errors.append(str(error.error)))
        context.on(
            "console", lambda m: errors.append(m.text) if _is_fault(m.type, m.text) else None
        )
        context.set_default_timeout(PATIENCE)
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()
    assert not errors, errors


def _is_fault(kind: str, text: str) -> bool:
    """Tell what the page has to answer for: a request that fails is a test's own doing."""
    return kind == "error" and not text.startswith("Failed to load resource")


@pytest.fixture
def page(contexts: Callable[..., BrowserContext], plaudit: Plaudit) -> Page:
    """A page of the real server, with nothing stored."""
    page = contexts().new_page()
    page.goto(plaudit.url)
    return page


@pytest.fixture
def chat(contexts: Callable[..., BrowserContext], told: StandIn) -> Page:
    """A page of the stand-in, with nothing stored."""
    page = contexts().new_page()
    page.goto(told.url)
    expect(page.locator(".live")).to_contain_text("v5")
    return page
