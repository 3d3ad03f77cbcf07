"""What becomes of votes and requests where the way to the server is bad, and of votes later on."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.support.browser.actions import ask_and_wait, stored, votes_of, wait_for
from tests.support.browser.stand_in import StandIn
from tests.support.browser.story import version

# Time limits are those of the page, a tenth as long.
HASTE = """
  const timeout = AbortSignal.timeout.bind(AbortSignal);
  AbortSignal.timeout = (milliseconds) => timeout(milliseconds / 10);
"""


def fate(chat: Page) -> Any:
    return chat.locator(".turn .vote-fate")


def turning(chat: Page) -> bool:
    """Let what the browser tells come through."""
    chat.wait_for_timeout(50)
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
    chat: Page, told: StandIn, answer: dict[str, Any]
) -> None:
    ask_and_wait(chat, "on a bad way", 2)
    chat.route("**/v1/feedback", lambda route: route.fulfill(**answer), times=1)
    chat.keyboard.press("1")
    stored(chat)
    assert len(told.feedback) == 1


def test_a_vote_that_always_fails_keeps_back_no_other_but_those_on_its_turn(
    chat: Page, told: StandIn
) -> None:
    def fail(route: Route) -> None:
        if "chatcmpl-1" in (route.request.post_data or ""):
            route.fulfill(status=500, json={"error": {"message": "Bad luck.", "code": "internal"}})
        else:
            route.continue_()

    chat.route("**/v1/feedback", fail)
    ask_and_wait(chat, "unlucky", 2)
    chat.keyboard.press("1")
    chat.get_by_role("button", name="Good answer").first.click()
    ask_and_wait(chat, "lucky", 2)
    chat.locator("body").press("2")
    expect(fate(chat).last).to_have_text("stored, not learned from yet")
    assert [vote["completion_id"] for vote in told.feedback.values()] == ["chatcmpl-2"]
    chat.unroute("**/v1/feedback")
    wait_for(lambda: len(told.feedback) == 3, "votes on the first turn", 20)
    kinds = [vote["feedback"]["kind"] for vote in told.feedback.values()]
    assert kinds == ["comparison", "comparison", "rating"]


def test_one_kept_vote_is_sent_by_two_tabs_and_counts_once(chat: Page, told: StandIn) -> None:
    ask_and_wait(chat, "kept for both", 2)
    told.failing = True
    chat.keyboard.press("1")
    expect(fate(chat)).to_have_text("waiting to be sent")
    other = chat.context.new_page()
    sent: list[str] = []
    other.on("request", lambda r: sent.append(r.url) if r.method == "POST" else None)
    other.goto(told.url)
    expect(other.get_by_text("not sent")).to_be_attached()
    wait_for(lambda: turning(other) and sent, "try of the other tab")
    told.failing = False
    for tab in (chat, other):
        expect(tab.get_by_text("not sent")).to_have_count(0)
    stored(chat)
    assert len(told.feedback) == 1


def test_undo_with_another_key_says_that_the_vote_still_counts(chat: Page, told: StandIn) -> None:
    ask_and_wait(chat, "of another key", 2)
    chat.keyboard.press("1")
    told.gone = {stored(chat)["id"]}
    chat.get_by_role("button", name="Undo: A is better than B").click()
    expect(chat.get_by_text("There is no such feedback of yours.")).to_be_attached()
    (vote,) = votes_of(chat)
    assert (vote["state"], vote["undo"]) == ("stored", False)
    chat.get_by_role("link", name="Your votes").click()
    said = "stored, not learned from yet; not undone: There is no such feedback of yours."
    expect(chat.locator(".vote-fate")).to_have_text(said)


def newer(told: StandIn, state: str) -> None:
    six = version(5, 1.79e9) | {"version": 6, "parent": 5, "state": state}
    told.snapshot = told.snapshot | {"versions": [*told.snapshot["versions"], six]}


def test_votes_are_looked_for_from_the_oldest_that_is_pending(chat: Page, told: StandIn) -> None:
    for name in ("first", "second"):
        ask_and_wait(chat, name, 1)
        chat.get_by_role("button", name="Good answer").last.click()
        stored(chat)
    told.looked.clear()
    told.learned_in = 6
    newer(told, "waiting")  # nothing goes live, but somebody's votes made it
    expect(fate(chat)).to_have_text(["learned in version 6"] * 2)
    assert told.looked == ["fb-0", "limit=100&after=fb-0"]
    told.looked.clear()
    newer(told, "waiting")
    chat.wait_for_timeout(500)
    assert told.looked == []


def test_comments_and_votes_that_were_replaced_are_not_followed(chat: Page, told: StandIn) -> None:
    turn = ask_and_wait(chat, "to be read", 1)
    turn.get_by_role("button", name="Comment on this answer").click()
    chat.get_by_role("dialog").get_by_label("Your comment").fill("Too long.")
    chat.get_by_role("button", name="Send comment").click()
    stored(chat)
    turn.get_by_role("button", name="Good answer").click()
    told.superseded = {stored(chat)["id"]}
    newer(told, "on_trial")
    expect(fate(chat)).to_have_text(["stored for the operators", "replaced by a later vote"])
    told.looked.clear()
    newer(told, "on_trial")
    chat.wait_for_timeout(500)
    assert told.looked == []
    chat.get_by_role("link", name="Your votes").click()
    group = chat.get_by_role("region", name="Stored, not for learning", exact=True)
    expect(group.get_by_role("listitem")).to_have_count(2)


def test_a_request_that_is_never_answered_is_given_up(
    contexts: Callable[..., BrowserContext], told: StandIn
) -> None:
    context = contexts()
    context.add_init_script(HASTE)
    chat = context.new_page()
    chat.goto(told.url)
    ask_and_wait(chat, "into the void", 2)
    chat.route("**/v1/feedback", lambda route: None, times=1)
    chat.route("**/readyz", lambda route: route.abort())  # away until that was seen
    chat.keyboard.press("1")
    expect(chat.get_by_role("alert")).to_contain_text("The server is unavailable.")
    chat.unroute("**/readyz")
    stored(chat)


def test_a_stream_of_events_that_falls_silent_is_opened_anew(
    contexts: Callable[..., BrowserContext], told: StandIn
) -> None:
    chat = contexts().new_page()
    chat.clock.install()
    told.silent = True
    asked: list[str] = []
    chat.on("request", lambda r: asked.append(r.url) if r.url.endswith("/events") else None)
    chat.goto(told.url)
    chat.clock.run_for(30_000)
    wait_for(lambda: turning(chat) and asked, "stream")
    assert len(asked) == 1
    told.silent = False

    def opened_anew() -> bool:  # 40 s after it was opened, which takes the page a while
        chat.clock.run_for(5_000)
        return len(asked) >= 2

    wait_for(opened_anew, "second stream")
    expect(chat.locator(".live")).to_contain_text("v5")


@pytest.mark.parametrize("status", [429, 500])
def test_a_first_look_at_the_server_that_fails_is_repeated(
    contexts: Callable[..., BrowserContext], told: StandIn, status: int
) -> None:
    chat = contexts().new_page()
    body = json.dumps({"error": {"message": "Not now.", "code": "rate_limit_exceeded"}})
    late: dict[str, Any] = {"status": status, "body": body, "headers": {"Retry-After": "1"}}
    chat.route("**/v1/models", lambda route: route.fulfill(**late), times=1)
    chat.goto(told.url)
    expect(chat.locator(".live")).to_contain_text("v5")


def test_a_full_browser_lets_old_votes_go_for_new_ones(chat: Page, told: StandIn) -> None:
    ask_and_wait(chat, "the old one", 1)
    chat.get_by_role("button", name="Good answer").click()
    old = stored(chat)["key"]
    chat.evaluate(
        """() => {
          const room = 5 * 1024 * 1024;
          for (let size = room; size >= 1; size = Math.floor(size / 2)) {
            try {
              localStorage.filler = (localStorage.filler ?? "") + "x".repeat(size);
            } catch { /* half as much, then */ }
          }
        }"""
    )
    ask_and_wait(chat, "the new one", 1)
    chat.get_by_role("button", name="Bad answer").last.click()
    wait_for(lambda: turning(chat) and len(told.feedback) == 2, "second vote")
    (kept,) = votes_of(chat)
    assert kept["key"] != old
    assert kept["body"]["feedback"]["value"] == "down"
