"""Votes given by clicks lead to a new live version, and the page shows which votes it used."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.browser.actions import (
    add_request_fields,
    ask_and_wait,
    browser_votes,
    wait_for_status,
)
from tests.support.learner_cycles import SETTINGS, environment_of
from tests.support.servers import Plaudit, start_up
from tests.support.votes import ANSWERS, PREFERRED

VOTES = 60
# With these settings a model with random weights learns in seconds and passes the gate.
LEARNER = SETTINGS.model_copy(
    update={
        "min_events": VOTES,
        "reward": SETTINGS.reward.model_copy(update={"epochs": 20, "held_out_share": 0.3}),
    }
)
ENVIRONMENT = {
    **environment_of(LEARNER),
    "PLAUDIT_SERVING_POLL_SECONDS": ".1",
    "PLAUDIT_SERVING_ENFORCE_EAGER": "1",
}


@pytest.fixture
def learning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    server = start_up(tmp_path_factory.mktemp("learning") / "home", ENVIRONMENT)
    yield server
    server.stop()


def vote_by_click(page: Page, number: int) -> None:
    turn = ask_and_wait(page, f"Is {number} a number?", 2)
    left, right = (text.strip() for text in turn.locator(".answer-text").all_inner_texts())
    assert {left, right} <= set(ANSWERS)
    choice = "Tie" if left == right else "A is better" if left == PREFERRED else "B is better"
    turn.get_by_role("button", name=choice).click()
    wait_for_status(page, "settled")


def test_sixty_votes_by_click_publish_a_version(learning: Plaudit, contexts: object) -> None:
    context: BrowserContext = contexts()  # type: ignore[operator]
    page = context.new_page()
    page.goto(learning.url)
    page.get_by_label("An API key is needed.").fill(learning.make_key("user", trusted_users=True))
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("link", name="v1 is live")).to_be_visible()
    expect(page.get_by_role("link", name="Operator")).to_have_count(0)
    add_request_fields(page, structured_outputs={"choice": ANSWERS})
    for number in range(VOTES):
        if number % 10 == 0:
            page.get_by_role("link", name="New chat").click()
            expect(page.locator(".turn")).to_have_count(0)
        vote_by_click(page, number)
    toast = page.get_by_text("Version 2 is live.")
    expect(toast).to_be_visible(timeout=300_000)
    learning.wait_version(2)
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Your votes").click()
    group = page.get_by_role("region", name="Learned in version 2", exact=True)
    expect(group.get_by_role("listitem")).to_have_count(VOTES)
    expect(group.get_by_role("listitem").get_by_text("learned in version 2")).to_have_count(VOTES)
    assert {vote["learned_in"] for vote in browser_votes(page)} == {2}
    group.get_by_role("link", name="Learned in version 2").click()
    expect(page.get_by_text(f"{VOTES} votes of yours went into this version.")).to_be_visible()
    expect(page.get_by_role("heading", name="Gate")).to_be_visible()
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible()
    page.get_by_role("link", name="All versions").click()
    expect(page.get_by_role("link", name="Version 2 from version 1")).to_be_visible()
    expect(page.get_by_role("heading", name="The same prompt, two versions")).to_be_visible()
    expect(page.locator(".sample")).not_to_have_count(0)
