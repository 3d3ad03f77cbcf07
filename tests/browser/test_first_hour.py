"""A person teaches the default model by 40 clicks at most, and prefers what comes of it.

With PLAUDIT_PICTURES set, the pictures of the tutorial are taken anew, in docs/images.
"""

import os
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from learner.corpus import prompts
from tests.support.browser.actions import ask_and_wait, wait_for_status
from tests.support.servers import Plaudit, free_port

MAX_VOTES = 40
FIRST_LOOK = 30
FRESH = 8
LEARNED_SECONDS = 1500
ENVIRONMENT = {"PLAUDIT_SERVING_POLL_SECONDS": ".1", "PLAUDIT_SERVING_ENFORCE_EAGER": "1"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    home = tmp_path_factory.mktemp("first-hour") / "home"
    home.mkdir()
    server = Plaudit(home, environment=ENVIRONMENT)
    ports = ["--port", str(server.port), "--learner-port", str(free_port())]
    server.run("up", "--home", str(home), *ports)
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    taken = Path(__file__).parents[2] / "docs" / "images"
    return taken if os.environ.get("PLAUDIT_PICTURES") else tmp_path


@pytest.fixture
def page(contexts: Callable[..., BrowserContext], default_model: Plaudit) -> Page:
    page = contexts().new_page()
    page.goto(default_model.url)
    page.evaluate("localStorage['plaudit.settings'] = '{}'")  # answers of any length
    page.reload()
    expect(page.get_by_role("link", name="v1 is live")).to_be_visible()
    return page


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def prefer_the_shorter(turn: Locator) -> None:
    """Click on the verdict of a person who likes short answers."""
    left, right = words(turn.locator(".candidate .answer-text").all_inner_texts())
    name = "Tie" if left == right else "A is better" if left < right else "B is better"
    turn.get_by_role("button", name=name, exact=True).click()


def open_learning(page: Page) -> Locator:
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Learning").click()
    return page.get_by_role("region", name="The loop")


def vote_until_a_cycle_starts(page: Page, questions: Iterator[str], pictures: Path) -> None:
    """Ask and vote in new chats."""
    for votes in range(1, MAX_VOTES + 1):
        page.get_by_role("link", name="New chat").click()
        turn = ask_and_wait(page, next(questions), 2)
        if votes == 1:
            page.screenshot(path=pictures / "first-hour-voting.png")
        prefer_the_shorter(turn)
        wait_for_status(page, "settled")
        if votes >= FIRST_LOOK and votes % 2 == 0:
            loop = open_learning(page)
            page.wait_for_timeout(5000)
            if not loop.locator("[aria-current=step]").get_by_text("Votes").count():
                return
            expect(loop).to_contain_text("votes")  # how many are missing, and why
            if votes == FIRST_LOOK:
                page.screenshot(path=pictures / "first-hour-missing.png")


def lengths_of_answers(page: Page, questions: Iterator[str]) -> list[int]:
    """Return the words of answers to fresh questions, four to each."""
    found: list[int] = []
    for _ in range(FRESH):
        page.get_by_role("link", name="New chat").click()
        turn = ask_and_wait(page, next(questions), 4)
        found += words(turn.locator(".candidate .answer-text").all_inner_texts())
    return found


def test_forty_clicks_lead_to_a_version_that_the_person_prefers(page: Page, pictures: Path) -> None:
    asked, fresh = prompts("vote"), prompts("eval")
    random.Random(0).shuffle(asked)
    random.Random(0).shuffle(fresh)
    before = lengths_of_answers(page, iter(fresh))
    vote_until_a_cycle_starts(page, iter(asked), pictures)
    expect(page.get_by_role("link", name="v2 is live")).to_be_visible(
        timeout=LEARNED_SECONDS * 1000
    )
    after = lengths_of_answers(page, iter(fresh))
    assert statistics.mean(after) < 0.9 * statistics.mean(before)
    open_learning(page)
    page.get_by_role("button", name="Compare with what it said before").first.click()
    turn = wait_for_status(page, "deciding")
    expect(turn.locator(".candidate .answer-text")).to_have_count(2)
    page.screenshot(path=pictures / "first-hour-comparing.png")
    prefer_the_shorter(turn)
    wait_for_status(page, "settled")
