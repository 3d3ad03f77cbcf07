"""Votes and requests over a bad connection, and the later status of votes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.support.browser.actions import ask_and_wait, browser_votes, wait_for, wait_until_stored
from tests.support.browser.stand_in import StandIn
from tests.support.browser.story import version

# Makes the page's timeouts ten times shorter.
SHORT_TIMEOUTS = """
  const timeout = AbortSignal.timeout.bind(AbortSignal);
  AbortSignal.timeout = (milliseconds) => timeout(milliseconds / 10);
"""


def vote_status(chat: Page) -> Any:
    return chat.locator(".turn .vote-fate")


def handle_events(chat: Page) -> bool:
    """Let Playwright handle pending browser events; return True, for use in a condition."""
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
def test_a_vote_is_kept_until_plaudit_confirms_it(
    chat: Page, stand_in: StandIn, answer: dict[str, Any]
) -> None:
    ask_and_wait(chat, "over a bad connection", 2)
    chat.route("**/v1/feedback", lambda route: route.fulfill(**answer), times=1)
    chat.keyboard.press("1")
    wait_until_stored(chat)
    assert len(stand_in.feedback) == 1


def test_a_failing_vote_blocks_only_later_votes_on_the_same_turn(
    chat: Page, stand_in: StandIn
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
    expect(vote_status(chat).last).to_have_text("stored, not learned from yet")
    assert [vote["completion_id"] for vote in stand_in.feedback.values()] == ["chatcmpl-2"]
    chat.unroute("**/v1/feedback")
    wait_for(lambda: len(stand_in.feedback) == 3, "votes on the first turn", 20)
    kinds = [vote["feedback"]["kind"] for vote in stand_in.feedback.values()]
    assert kinds == ["comparison", "comparison", "rating"]


def test_a_vote_sent_by_two_tabs_counts_once(chat: Page, stand_in: StandIn) -> None:
    ask_and_wait(chat, "kept for both tabs", 2)
    stand_in.failing = True
    chat.keyboard.press("1")
    expect(vote_status(chat)).to_have_text("waiting to be sent")
    other = chat.context.new_page()
    sent: list[str] = []
    other.on("request", lambda r: sent.append(r.url) if r.method == "POST" else None)
    other.goto(stand_in.url)
    expect(other.get_by_text("not sent")).to_be_attached()
    wait_for(lambda: handle_events(other) and sent, "attempt of the other tab")
    stand_in.failing = False
    for tab in (chat, other):
        expect(tab.get_by_text("not sent")).to_have_count(0)
    wait_until_stored(chat)
    assert len(stand_in.feedback) == 1


def test_a_failed_undo_with_another_key_shows_that_the_vote_still_counts(
    chat: Page, stand_in: StandIn
) -> None:
    ask_and_wait(chat, "of another key", 2)
    chat.keyboard.press("1")
    stand_in.missing = {wait_until_stored(chat)["id"]}
    chat.get_by_role("button", name="Undo: A is better than B").click()
    expect(chat.get_by_text("There is no such feedback of yours.")).to_be_attached()
    (vote,) = browser_votes(chat)
    assert (vote["state"], vote["undo"]) == ("stored", False)
    chat.get_by_role("link", name="Your votes").click()
    status = "stored, not learned from yet; not undone: There is no such feedback of yours."
    expect(chat.locator(".vote-fate")).to_have_text(status)


def add_version(stand_in: StandIn, state: str) -> None:
    six = version(5, 1.79e9) | {"version": 6, "parent": 5, "state": state}
    stand_in.snapshot = stand_in.snapshot | {"versions": [*stand_in.snapshot["versions"], six]}


def test_vote_status_is_read_from_the_oldest_pending_vote_on(chat: Page, stand_in: StandIn) -> None:
    for name in ("first", "second"):
        ask_and_wait(chat, name, 1)
        chat.get_by_role("button", name="Good answer").last.click()
        wait_until_stored(chat)
    stand_in.feedback_reads.clear()
    stand_in.learned_in = 6
    add_version(stand_in, "waiting")  # not live yet, but it may have learned from these votes
    expect(vote_status(chat)).to_have_text(["learned in version 6"] * 2)
    assert stand_in.feedback_reads == ["fb-0", "limit=100&after=fb-0"]
    stand_in.feedback_reads.clear()
    add_version(stand_in, "waiting")
    chat.wait_for_timeout(500)
    assert stand_in.feedback_reads == []


def test_the_status_of_comments_and_superseded_votes_is_not_polled(
    chat: Page, stand_in: StandIn
) -> None:
    turn = ask_and_wait(chat, "to be read", 1)
    turn.get_by_role("button", name="Comment on this answer").click()
    chat.get_by_role("dialog").get_by_label("Your comment").fill("Too long.")
    chat.get_by_role("button", name="Send comment").click()
    wait_until_stored(chat)
    turn.get_by_role("button", name="Good answer").click()
    stand_in.superseded = {wait_until_stored(chat)["id"]}
    add_version(stand_in, "on_trial")
    expect(vote_status(chat)).to_have_text(["stored for the operators", "replaced by a later vote"])
    stand_in.feedback_reads.clear()
    add_version(stand_in, "on_trial")
    chat.wait_for_timeout(500)
    assert stand_in.feedback_reads == []
    chat.get_by_role("link", name="Your votes").click()
    group = chat.get_by_role("region", name="Stored, not for learning", exact=True)
    expect(group.get_by_role("listitem")).to_have_count(2)


def test_a_request_without_a_response_times_out(
    contexts: Callable[..., BrowserContext], stand_in: StandIn
) -> None:
    context = contexts()
    context.add_init_script(SHORT_TIMEOUTS)
    chat = context.new_page()
    chat.goto(stand_in.url)
    ask_and_wait(chat, "into the void", 2)
    chat.route("**/v1/feedback", lambda route: None)
    chat.route("**/readyz", lambda route: route.abort())
    chat.keyboard.press("1")
    expect(chat.get_by_role("alert")).to_contain_text("The server is unavailable.")
    chat.unroute("**/v1/feedback")
    chat.unroute("**/readyz")
    wait_until_stored(chat)


def test_a_silent_event_stream_is_reopened(
    contexts: Callable[..., BrowserContext], stand_in: StandIn
) -> None:
    chat = contexts().new_page()
    chat.clock.install()
    stand_in.silent = True
    requests: list[str] = []
    chat.on("request", lambda r: requests.append(r.url) if r.url.endswith("/events") else None)
    chat.goto(stand_in.url)
    chat.clock.run_for(30_000)
    wait_for(lambda: handle_events(chat) and requests, "stream")
    assert len(requests) == 1
    stand_in.silent = False

    def reopened() -> bool:  # after 40 s without an event, by the fake clock
        chat.clock.run_for(5_000)
        return len(requests) >= 2

    wait_for(reopened, "second stream")
    expect(chat.locator(".live")).to_contain_text("v5")


@pytest.mark.parametrize("status", [429, 500])
def test_a_failed_first_request_is_retried(
    contexts: Callable[..., BrowserContext], stand_in: StandIn, status: int
) -> None:
    chat = contexts().new_page()
    body = json.dumps({"error": {"message": "Not now.", "code": "rate_limit_exceeded"}})
    response: dict[str, Any] = {"status": status, "body": body, "headers": {"Retry-After": "1"}}
    chat.route("**/v1/models", lambda route: route.fulfill(**response), times=1)
    chat.goto(stand_in.url)
    expect(chat.locator(".live")).to_contain_text("v5")


def test_old_votes_are_dropped_when_the_storage_is_full(chat: Page, stand_in: StandIn) -> None:
    ask_and_wait(chat, "the old one", 1)
    chat.get_by_role("button", name="Good answer").click()
    old = wait_until_stored(chat)["key"]
    chat.evaluate(
        """() => {
          const capacity = 5 * 1024 * 1024;
          for (let size = capacity; size >= 1; size = Math.floor(size / 2)) {
            try {
              localStorage.filler = (localStorage.filler ?? "") + "x".repeat(size);
            } catch { /* no room: try half as much */ }
          }
        }"""
    )
    ask_and_wait(chat, "the new one", 1)
    chat.get_by_role("button", name="Bad answer").last.click()
    wait_for(lambda: handle_events(chat) and len(stand_in.feedback) == 2, "second vote")
    (remaining,) = browser_votes(chat)
    assert remaining["key"] != old
    assert remaining["body"]["feedback"]["value"] == "down"


def test_each_browser_has_a_name_of_its_own_that_stays(chat: Page, stand_in: StandIn) -> None:
    ask_and_wait(chat, "whose is this?", 2)
    chat.keyboard.press("1")
    wait_until_stored(chat)
    (asked,), (vote,) = stand_in.chat_requests, stand_in.feedback.values()
    assert asked["user"] == vote["user"]
    assert len(asked["user"].removeprefix("page-")) == 32
    chat.reload()
    ask_and_wait(chat, "and after a reload?", 2)
    assert stand_in.chat_requests[-1]["user"] == asked["user"]
    chat.get_by_role("button", name="Chat settings").click()
    expect(chat.get_by_role("dialog", name="Chat settings")).to_contain_text(asked["user"])
