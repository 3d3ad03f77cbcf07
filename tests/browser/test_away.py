"""The server dies and restarts: nothing is lost, and each vote counts once."""

import os
import signal
from collections import Counter
from collections.abc import Callable

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


def test_a_vote_with_a_lost_response_and_one_made_during_the_outage_count_once(
    page: Page, plaudit: Plaudit
) -> None:
    ask_and_wait(page, "the server dies in this vote", 2)
    statuses: list[int] = []

    def store_but_drop_response(route: Route) -> None:
        statuses.append(route.fetch().status)  # the vote is in the log now, ...
        kill_serving(plaudit)  # ... but the server dies before the browser gets the response
        route.abort()

    page.route("**/v1/feedback", store_but_drop_response, times=1)
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_contain_text("The server is unavailable.")
    assert statuses == [201]
    turn = last_turn(page)
    expect(turn.locator(".vote-fate")).to_have_text("waiting to be sent")
    turn.get_by_role("button", name="Good answer").first.click()
    expect(page.get_by_role("alert")).to_contain_text("2 votes of yours are sent then")
    expect(page.get_by_role("alert")).to_have_count(0, timeout=RESTART_MS)
    expect(turn.locator(".vote-fate")).to_have_text(["stored, not learned from yet"] * 2)
    first, second = browser_votes(page)
    kinds = Counter(
        e.WhichOneof("kind") for e in logged_events(plaudit, first["body"]["completion_id"])
    )
    assert kinds == {"comparison": 1, "rating": 1}
    assert first["tried"]
    assert second["state"] == "stored"


def test_a_broken_stream_is_reported_and_a_waiting_question_is_sent_after_the_outage(
    page: Page, plaudit: Plaudit
) -> None:
    ignore_eos(page)
    ask(page, "it breaks in the middle", answers=1)
    wait_for_text(last_turn(page).locator(".answer-text"), 5)
    kill_serving(plaudit)
    turn = wait_for_status(page, "settled")
    expect(turn.locator(".problem")).to_contain_text("connection was lost")
    received = turn.locator(".answer-text").inner_text()
    assert received
    ask(page, "asked during the outage", answers=1)
    expect(last_turn(page).locator(".problem")).to_contain_text("as soon as possible")
    expect(page.get_by_role("alert").filter(has_text="unavailable")).to_have_count(
        0, timeout=RESTART_MS
    )
    wait_for_status(page, "settled")
    expect(last_turn(page).locator(".problem")).to_have_count(0)
    assert last_turn(page).locator(".answer-text").inner_text()
    assert page.locator(".turn").first.locator(".answer-text").inner_text() == received


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
