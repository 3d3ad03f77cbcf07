"""The server goes away and comes back: nothing is lost, and each vote counts once."""

import os
import signal
from collections import Counter
from collections.abc import Callable

import psutil
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.support.browser.actions import (
    ask,
    ask_and_wait,
    endless,
    events,
    last_turn,
    long_text,
    votes_of,
    wait_for,
    wait_status,
)
from tests.support.servers import START_SECONDS, Plaudit

BACK = 1000 * START_SECONDS


def kill_serving(plaudit: Plaudit) -> None:
    """Kill the endpoint and its engine; `plaudit up` starts them again."""
    assert plaudit.process is not None
    children = psutil.Process(plaudit.process.pid).children()
    (serving,) = [child for child in children if "serve" in child.cmdline()]
    os.killpg(serving.pid, signal.SIGKILL)
    serving.wait(20)


def test_a_vote_whose_answer_was_lost_and_one_made_meanwhile_count_once(
    page: Page, plaudit: Plaudit
) -> None:
    ask_and_wait(page, "the server dies in this vote", 2)
    kept: list[int] = []

    def stored_but_not_told(route: Route) -> None:
        kept.append(route.fetch().status)  # it is in the log now ...
        kill_serving(plaudit)  # ... and the server dies before the browser hears of it
        route.abort()

    page.route("**/v1/feedback", stored_but_not_told, times=1)
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_contain_text("The server is unavailable.")
    assert kept == [201]
    turn = last_turn(page)
    expect(turn.locator(".vote-fate")).to_have_text("waiting to be sent")
    turn.get_by_role("button", name="Good answer").first.click()
    expect(page.get_by_role("alert")).to_contain_text("2 votes of yours are sent then")
    expect(page.get_by_role("alert")).to_have_count(0, timeout=BACK)
    expect(turn.locator(".vote-fate")).to_have_text(["stored, not learned from yet"] * 2)
    first, second = votes_of(page)
    kinds = Counter(e.WhichOneof("kind") for e in events(plaudit, first["body"]["completion_id"]))
    assert kinds == {"comparison": 1, "rating": 1}
    assert first["tried"]
    assert second["state"] == "stored"


def test_a_stream_that_breaks_says_so_and_a_question_is_asked_by_itself_later(
    page: Page, plaudit: Plaudit
) -> None:
    endless(page)
    ask(page, "it breaks in the middle", answers=1)
    long_text(last_turn(page).locator(".answer-text"), 5)
    kill_serving(plaudit)
    turn = wait_status(page, "settled")
    expect(turn.locator(".problem")).to_contain_text("connection was lost")
    said = turn.locator(".answer-text").inner_text()
    assert said
    ask(page, "asked while it is away", answers=1)
    expect(last_turn(page).locator(".problem")).to_contain_text("as soon as possible")
    expect(page.get_by_role("alert").filter(has_text="unavailable")).to_have_count(0, timeout=BACK)
    wait_status(page, "settled")
    expect(last_turn(page).locator(".problem")).to_have_count(0)
    assert last_turn(page).locator(".answer-text").inner_text()
    assert page.locator(".turn").first.locator(".answer-text").inner_text() == said


def test_an_unsent_vote_outlives_the_page(
    contexts: Callable[..., BrowserContext], plaudit: Plaudit
) -> None:
    context = contexts()
    page = context.new_page()
    page.goto(plaudit.url)
    ask_and_wait(page, "closed before it is sent", 2)
    page.route("**/v1/feedback", lambda route: route.abort())
    page.keyboard.press("2")
    expect(last_turn(page).locator(".vote-fate")).to_have_text("waiting to be sent")
    (unsent,) = votes_of(page)
    page.close()
    again = context.new_page()
    again.goto(plaudit.url)
    again.wait_for_function("key => JSON.parse(localStorage[key]).state === 'stored'",
                            arg=f"plaudit.vote.{unsent['key']}")  # fmt: skip
    assert len(events(plaudit, unsent["body"]["completion_id"])) == 1


def test_a_vote_undone_before_it_is_sent_never_counts(page: Page, plaudit: Plaudit) -> None:
    """It may have arrived: so it is sent once more to learn its id, and then retracted."""
    ask_and_wait(page, "undone while unsent", 2)

    def stored_but_not_told(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/v1/feedback", stored_but_not_told, times=1)
    page.keyboard.press("1")
    expect(last_turn(page).locator(".vote-fate")).to_have_text("waiting to be sent")
    last_turn(page).get_by_role("button", name="Undo").click()
    completion = votes_of(page)[0]["body"]["completion_id"]

    def kinds() -> list[str | None]:
        page.wait_for_timeout(50)
        return [event.WhichOneof("kind") for event in events(plaudit, completion)]

    wait_for(lambda: kinds() == ["comparison", "retraction"], "retraction")
