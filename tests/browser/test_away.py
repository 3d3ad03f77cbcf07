"""The server dies and restarts: nothing is lost, and each vote counts once."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.support.browser.actions import (
    ask,
    ask_and_wait,
    browser_votes,
    ignore_eos,
    last_turn,
    logged_events,
    wait_for,
    wait_for_status,
    wait_for_text,
)
from tests.support.servers import START_SECONDS, Plaudit

RESTART_MS = 1000 * START_SECONDS


def kill_serving(plaudit: Plaudit) -> None:
    """Kill the endpoint and its engine; `plaudit up` restarts them."""
    assert plaudit.process is not None
    children = psutil.Process(plaudit.process.pid).children()
    (serving,) = [child for child in children if "serve" in child.cmdline()]
    os.killpg(serving.pid, signal.SIGKILL)
    serving.wait(20)


def test_an_outage_in_the_middle_of_a_vote_and_of_an_answer(page: Page, plaudit: Plaudit) -> None:
    """Both votes count once, the text received stays, and the waiting question is answered."""
    rated, voted, broken, asked = (page.locator(".turn").nth(number) for number in range(4))
    ask_and_wait(page, "rated during the outage", 1)
    ask_and_wait(page, "the server dies in a vote on this", 2)
    page.keyboard.press("1")
    expect(voted.locator(".vote-fate")).to_have_text("stored, not learned from yet")
    statuses: list[int] = []

    def store_but_drop_response(route: Route) -> None:
        statuses.append(route.fetch().status)  # the vote is in the log now, ...
        kill_serving(plaudit)  # ... but the server dies before the browser gets the response
        route.abort()

    page.route("**/v1/feedback", store_but_drop_response, times=1)
    ignore_eos(page)
    ask(page, "it breaks in the middle", answers=1)
    wait_for_text(broken.locator(".answer-text"), 5)
    voted.get_by_role("button", name="Good answer").first.click()

    unavailable = page.locator(".status-bar").filter(has_text="The server is unavailable.")
    expect(unavailable).to_be_visible()
    assert statuses == [201]
    expect(broken).to_have_attribute("data-status", "settled")
    expect(broken.locator(".problem")).to_contain_text("connection was lost")
    received = broken.locator(".answer-text").inner_text()
    assert received
    expect(voted.get_by_text("waiting to be sent")).to_have_count(1)
    rated.get_by_role("button", name="Good answer").click()
    expect(unavailable).to_contain_text("2 votes of yours are sent then")
    ask(page, "asked during the outage", answers=1)
    expect(asked.locator(".problem")).to_contain_text("as soon as possible")

    expect(unavailable).to_have_count(0, timeout=RESTART_MS)
    wait_for_status(page, "settled")
    expect(asked.locator(".problem")).to_have_count(0)
    assert asked.locator(".answer-text").inner_text()
    assert broken.locator(".answer-text").inner_text() == received
    stored = "stored, not learned from yet"
    expect(voted.locator(".vote-fate")).to_have_text([stored] * 2)
    expect(rated.locator(".vote-fate")).to_have_text(stored)
    _, lost, waiting = browser_votes(page)
    assert lost["tried"]
    assert (lost["state"], waiting["state"]) == ("stored", "stored")
    assert _kinds(plaudit, lost) == {"comparison": 1, "rating": 1}
    assert _kinds(plaudit, waiting) == {"rating": 1}


def _kinds(plaudit: Plaudit, vote: dict[str, Any]) -> Counter[str | None]:
    """Return how many events of each kind there are on the completion of a vote."""
    events = logged_events(plaudit, vote["body"]["completion_id"])
    return Counter(event.WhichOneof("kind") for event in events)


def test_an_unsent_vote_survives_closing_the_page(
    contexts: Callable[..., BrowserContext], plaudit: Plaudit
) -> None:
    context = contexts()
    page = context.new_page()
    page.goto(plaudit.url)
    ask_and_wait(page, "closed before it is sent", 2)
    page.route("**/v1/feedback", lambda route: route.abort())
    page.keyboard.press("2")
    expect(last_turn(page).locator(".vote-fate")).to_have_text("waiting to be sent")
    (unsent,) = browser_votes(page)
    page.close()
    reopened = context.new_page()
    reopened.goto(plaudit.url)
    reopened.wait_for_function("key => JSON.parse(localStorage[key]).state === 'stored'",
                            arg=f"plaudit.vote.{unsent['key']}")  # fmt: skip
    assert len(logged_events(plaudit, unsent["body"]["completion_id"])) == 1


def test_a_vote_undone_before_it_is_confirmed_does_not_count(page: Page, plaudit: Plaudit) -> None:
    """The vote may have arrived: it is sent again to get its id, and then retracted."""
    ask_and_wait(page, "undone while unsent", 2)

    def store_but_drop_response(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/v1/feedback", store_but_drop_response, times=1)
    page.keyboard.press("1")
    expect(last_turn(page).locator(".vote-fate")).to_have_text("waiting to be sent")
    last_turn(page).get_by_role("button", name="Undo").click()
    completion = browser_votes(page)[0]["body"]["completion_id"]

    def kinds() -> list[str | None]:
        page.wait_for_timeout(50)
        return [event.WhichOneof("kind") for event in logged_events(plaudit, completion)]

    wait_for(lambda: kinds() == ["comparison", "retraction"], "retraction")
