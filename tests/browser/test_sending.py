"""What becomes of votes and requests where the way to the server is bad, and of votes later on."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.actions import ask_and_wait, stored, votes_of, wait_for
from tests.browser.stand_in import StandIn
from tests.browser.story import version

# Time limits are those of the page, a tenth as long.
HASTE = """
  const timeout = AbortSignal.timeout.bind(AbortSignal);
  AbortSignal.timeout = (milliseconds) => timeout(milliseconds / 10);
"""


@pytest.fixture
def page(contexts: Callable[..., BrowserContext], told: StandIn) -> Page:
    page = contexts().new_page()
    page.goto(told.url)
    expect(page.locator(".live")).to_contain_text("v5")
    return page


def fate(page: Page) -> Any:
    return page.locator(".turn .vote-fate")


def turning(page: Page) -> bool:
    """Let what the browser tells come through."""
    page.wait_for_timeout(50)
    return True


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404, "body": "<h1>no such host</h1>"},
        {"status": 408, "json": {"detail": "Request timeout"}},
        {"status": 201, "body": '{"id": "fb-'},
        {"status": 500, "json": {"error": {"message": "Bad luck.", "code": "internal"}}},
    ],
    ids=lambda answer: str(answer["status"]),
)
def test_a_vote_is_kept_until_the_server_itself_has_answered(
    page: Page, told: StandIn, answer: dict[str, Any]
) -> None:
    ask_and_wait(page, "on a bad way", 2)
    page.route("**/v1/feedback", lambda route: route.fulfill(**answer), times=1)
    page.keyboard.press("1")
    stored(page)
    assert len(told.feedback) == 1


def test_a_vote_that_always_fails_keeps_back_no_other_but_those_on_its_turn(
    page: Page, told: StandIn
) -> None:
    def fail(route: Route) -> None:
        if "chatcmpl-1" in (route.request.post_data or ""):
            route.fulfill(status=500, json={"error": {"message": "Bad luck.", "code": "internal"}})
        else:
            route.continue_()

    page.route("**/v1/feedback", fail)
    ask_and_wait(page, "unlucky", 2)
    page.keyboard.press("1")
    page.get_by_role("button", name="Good answer").first.click()
    ask_and_wait(page, "lucky", 2)
    page.locator("body").press("2")
    expect(fate(page).last).to_have_text("stored, not learned from yet")
    assert [vote["completion_id"] for vote in told.feedback.values()] == ["chatcmpl-2"]
    page.unroute("**/v1/feedback")
    wait_for(lambda: len(told.feedback) == 3, "votes on the first turn", 20)
    kinds = [vote["feedback"]["kind"] for vote in told.feedback.values()]
    assert kinds == ["comparison", "comparison", "rating"]


def test_one_kept_vote_is_sent_by_two_tabs_and_counts_once(page: Page, told: StandIn) -> None:
    ask_and_wait(page, "kept for both", 2)
    page.context.route("**/v1/feedback", lambda route: route.abort())
    page.keyboard.press("1")
    expect(fate(page)).to_have_text("waiting to be sent")
    other = page.context.new_page()
    sent: list[str] = []
    for tab in (page, other):
        tab.on("request", lambda r: sent.append(r.url) if r.method == "POST" else None)
    other.goto(told.url)
    expect(other.get_by_text("not sent")).to_be_attached()
    wait_for(lambda: turning(other) and sent, "try of the other tab")
    page.context.unroute("**/v1/feedback")
    for tab in (page, other):
        tab.evaluate("dispatchEvent(new Event('online'))")
    for tab in (page, other):
        expect(tab.get_by_text("not sent")).to_have_count(0)
    stored(page)
    assert len(told.feedback) == 1


def test_undo_with_another_key_says_that_the_vote_still_counts(page: Page, told: StandIn) -> None:
    ask_and_wait(page, "of another key", 2)
    page.keyboard.press("1")
    told.gone = {stored(page)["id"]}
    page.get_by_role("button", name="Undo: A is better than B").click()
    expect(page.get_by_text("There is no such feedback of yours.")).to_be_attached()
    (vote,) = votes_of(page)
    assert (vote["state"], vote["undo"]) == ("stored", False)
    page.get_by_role("link", name="Your votes").click()
    said = "stored, not learned from yet; not undone: There is no such feedback of yours."
    expect(page.locator(".vote-fate")).to_have_text(said)


def newer(told: StandIn, state: str) -> None:
    six = version(5, 1.79e9) | {"version": 6, "parent": 5, "state": state}
    told.snapshot = told.snapshot | {"versions": [*told.snapshot["versions"], six]}


def test_votes_are_looked_for_from_the_oldest_that_is_pending(page: Page, told: StandIn) -> None:
    for name in ("first", "second"):
        ask_and_wait(page, name, 1)
        page.get_by_role("button", name="Good answer").last.click()
        stored(page)
    told.looked.clear()
    told.learned_in = 6
    newer(told, "waiting")  # nothing goes live, but somebody's votes made it
    expect(fate(page)).to_have_text(["learned in version 6"] * 2)
    assert told.looked == ["fb-0", "limit=100&after=fb-0"]
    told.looked.clear()
    newer(told, "waiting")
    page.wait_for_timeout(500)
    assert told.looked == []


def test_comments_and_votes_that_were_replaced_are_not_followed(page: Page, told: StandIn) -> None:
    turn = ask_and_wait(page, "to be read", 1)
    turn.get_by_role("button", name="Comment on this answer").click()
    page.get_by_role("dialog").get_by_label("Your comment").fill("Too long.")
    page.get_by_role("button", name="Send comment").click()
    stored(page)
    turn.get_by_role("button", name="Good answer").click()
    told.superseded = {stored(page)["id"]}
    newer(told, "on_trial")
    expect(fate(page)).to_have_text(["stored, to be read", "replaced by a later vote"])
    told.looked.clear()
    newer(told, "on_trial")
    page.wait_for_timeout(500)
    assert told.looked == []
    page.get_by_role("link", name="Your votes").click()
    group = page.get_by_role("region", name="Stored, not for learning", exact=True)
    expect(group.get_by_role("listitem")).to_have_count(2)


def test_a_request_that_is_never_answered_is_given_up(
    contexts: Callable[..., BrowserContext], told: StandIn
) -> None:
    context = contexts()
    context.add_init_script(HASTE)
    page = context.new_page()
    page.goto(told.url)
    ask_and_wait(page, "into the void", 2)
    page.route("**/v1/feedback", lambda route: None, times=1)
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_contain_text("The server is away.")
    stored(page)


def test_a_stream_of_events_that_falls_silent_is_opened_anew(
    contexts: Callable[..., BrowserContext], told: StandIn
) -> None:
    page = contexts().new_page()
    page.clock.install()
    told.silent = True
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if r.url.endswith("/events") else None)
    page.goto(told.url)
    page.clock.run_for(30_000)
    wait_for(lambda: turning(page) and asked, "stream")
    assert len(asked) == 1
    told.silent = False

    def opened_anew() -> bool:  # 40 s after it was opened, which takes the page a while
        page.clock.run_for(5_000)
        return len(asked) >= 2

    wait_for(opened_anew, "second stream")
    expect(page.locator(".live")).to_contain_text("v5")


@pytest.mark.parametrize("status", [429, 500])
def test_a_first_look_at_the_server_that_fails_is_repeated(
    contexts: Callable[..., BrowserContext], told: StandIn, status: int
) -> None:
    page = contexts().new_page()
    body = json.dumps({"error": {"message": "Not now.", "code": "rate_limit_exceeded"}})
    late: dict[str, Any] = {"status": status, "body": body, "headers": {"Retry-After": "1"}}
    page.route("**/v1/models", lambda route: route.fulfill(**late), times=1)
    page.goto(told.url)
    expect(page.locator(".live")).to_contain_text("v5")


def test_a_full_browser_lets_old_votes_go_for_new_ones(page: Page, told: StandIn) -> None:
    ask_and_wait(page, "the old one", 1)
    page.get_by_role("button", name="Good answer").click()
    old = stored(page)["key"]
    page.evaluate(
        """() => {
          const room = 5 * 1024 * 1024;
          for (let size = room; size >= 1; size = Math.floor(size / 2)) {
            try {
              localStorage.filler = (localStorage.filler ?? "") + "x".repeat(size);
            } catch { /* half as much, then */ }
          }
        }"""
    )
    ask_and_wait(page, "the new one", 1)
    page.get_by_role("button", name="Bad answer").last.click()
    wait_for(lambda: turning(page) and len(told.feedback) == 2, "second vote")
    (kept,) = votes_of(page)
    assert kept["key"] != old
    assert kept["body"]["feedback"]["value"] == "down"
