"""What becomes of a question where things go wrong, and in two tabs."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.browser.actions import (
    ask,
    ask_and_wait,
    last_turn,
    stored,
    votes_of,
    wait_for,
    wait_status,
)
from tests.support.browser.stand_in import StandIn


def go_away(page: Page) -> None:
    for path in ("**/v1/**", "**/readyz"):
        page.route(path, lambda route: route.abort())


def come_back(page: Page) -> None:
    for path in ("**/v1/**", "**/readyz"):
        page.unroute(path)
    page.evaluate("dispatchEvent(new Event('online'))")  # which looks at once


def prompts(told: StandIn) -> list[list[str]]:
    """Return what was asked: of each request the users' messages."""
    return [[m["content"] for m in body["messages"] if m["role"] == "user"] for body in told.asked]


def ask_while_away(page: Page, text: str) -> None:
    go_away(page)
    ask(page, text, 2)
    wait_status(page, "waiting")
    expect(last_turn(page).locator(".problem")).to_contain_text("sent as soon as possible")


def test_a_question_waits_with_its_context_and_no_other_is_asked_meanwhile(
    chat: Page, told: StandIn
) -> None:
    ask_and_wait(chat, "first", 1)
    ask_while_away(chat, "second")
    field = chat.get_by_role("textbox", name="Your message")
    field.fill("third")
    field.press("Enter")
    expect(chat.locator(".turn")).to_have_count(2)
    come_back(chat)
    wait_status(chat, "deciding")
    expect(field).to_be_focused()  # somebody is writing there
    expect(field).to_have_value("third")
    assert prompts(told) == [["first"], ["first", "second"]]


@pytest.mark.parametrize("how", ["stop", "edit", "delete"])
def test_a_question_taken_back_while_it_waits_is_not_sent(
    chat: Page, told: StandIn, how: str
) -> None:
    ask_while_away(chat, "never mind")
    if how == "stop":
        chat.get_by_role("button", name="Stop", exact=True).click()
        wait_status(chat, "settled")
    elif how == "edit":
        chat.get_by_role("button", name="Edit and send again").click()
        field = last_turn(chat).get_by_role("textbox", name="Your message")
        field.fill("rather this")
        field.press("Enter")
        wait_status(chat, "waiting")
    else:
        chat.get_by_role("button", name="Delete “never mind”").click()
    come_back(chat)
    expect(chat.get_by_role("alert").filter(has_text="unavailable")).to_have_count(0)
    if how == "edit":
        wait_status(chat, "deciding")
    chat.wait_for_timeout(300)
    assert prompts(told) == ([["rather this"]] if how == "edit" else [])


def test_a_question_that_waits_outlives_the_page(chat: Page, told: StandIn) -> None:
    ask_while_away(chat, "later")
    chat.wait_for_timeout(800)  # writing is put off by less
    chat.unroute("**/v1/**")
    chat.unroute("**/readyz")
    chat.reload()
    wait_status(chat, "deciding")
    assert prompts(told) == [["later"]]


def test_what_broke_before_it_began_is_asked_again(chat: Page, told: StandIn) -> None:
    empty: dict[str, Any] = {"status": 200, "content_type": "text/event-stream", "body": ""}
    chat.route("**/v1/chat/completions", lambda route: route.fulfill(**empty), times=1)
    ask(chat, "broken", 1)
    wait_status(chat, "settled")
    expect(last_turn(chat).locator(".answer-text")).not_to_be_empty()
    assert prompts(told) == [["broken"]]


def test_a_key_votes_on_one_turn_once(chat: Page, told: StandIn) -> None:
    held: list[Any] = []
    chat.route("**/v1/chat/completions", lambda route: held.append(route), times=1)
    ask(chat, "stopped before its first token", 2)
    wait_status(chat, "streaming")
    chat.get_by_role("button", name="Stop", exact=True).click()
    wait_status(chat, "settled")
    ask_and_wait(chat, "the next one", 2)
    first = chat.locator(".turn").first
    expect(first).to_contain_text("No answer.")
    expect(first.get_by_role("button", name="Ask again")).to_have_count(0)
    chat.evaluate(
        """() => {
          for (const key of ["1", "2"]) {
            document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          }
        }"""
    )
    assert stored(chat)["body"]["feedback"]["verdict"] == "left"
    assert len(votes_of(chat)) == 1


def test_a_page_that_goes_before_the_first_token_leaves_nothing_to_vote_on(
    chat: Page, told: StandIn
) -> None:
    chat.route("**/v1/chat/completions", lambda route: None)
    ask(chat, "too soon", 2)
    wait_status(chat, "streaming")
    chat.wait_for_timeout(800)
    chat.close()  # with no word to its script; a reload may let it see the request fail
    again = chat.context.new_page()
    again.goto(chat.url)
    turn = wait_status(again, "settled")
    expect(turn.get_by_text("No answer.")).to_be_visible()
    turn.get_by_role("button", name="Ask again").click()
    wait_status(again, "deciding")


def test_two_tabs_show_the_same_conversations(chat: Page, told: StandIn) -> None:
    told.tokens_per_second = 4
    ask(chat, "in both tabs", 2)
    expect(chat.locator(".candidate strong").first).to_be_visible()
    chat.wait_for_timeout(500)
    other = chat.context.new_page()
    other.goto(chat.url)
    wait_status(other, "streaming")  # by the first tab, not broken off
    told.tokens_per_second = 0  # all the rest at once
    wait_status(chat, "deciding")
    wait_status(other, "deciding")
    expect(other.get_by_text("Stopped.")).to_have_count(0)
    other.keyboard.press("1")
    wait_status(chat, "settled")
    ask_and_wait(chat, "from the first tab", 1)
    expect(other.locator(".turn")).to_have_count(2)
    ask_and_wait(other, "from the other", 1)
    expect(chat.locator(".prompt-text").last).to_have_text("from the other")
    other.get_by_role("button", name="Delete “in both tabs”").click()
    expect(chat.get_by_role("button", name="Delete “in both tabs”")).to_have_count(0)


def seen_streaming(chat: Page, told: StandIn) -> Page:
    """Ask in one tab, and give another in which the answer is seen to stream."""
    told.tokens_per_second = 2
    ask(chat, "seen from elsewhere", 1)
    expect(last_turn(chat).locator(".answer-text")).to_contain_text("Warm")
    chat.wait_for_timeout(600)
    other = chat.context.new_page()
    other.goto(chat.url)
    wait_status(other, "streaming")
    return other


def test_either_tab_stops_an_answer(chat: Page, told: StandIn) -> None:
    other = seen_streaming(chat, told)
    other.get_by_role("button", name="Stop", exact=True).click()
    for page in (chat, other):
        wait_status(page, "settled")
        expect(page.get_by_text("Stopped.")).to_be_visible()


# Reading takes this tab 250 ms, and it stops the answer within that of having been told of more.
SLOW_TO_READ = """() => {
  const { set } = Object.getOwnPropertyDescriptor(IDBTransaction.prototype, "oncomplete");
  Object.defineProperty(IDBTransaction.prototype, "oncomplete", {
    set(act) {
      set.call(this, (event) => setTimeout(act, this.mode === "readonly" ? 250 : 0, event));
    },
  });
  return new Promise((resolve) => {
    const told = new BroadcastChannel("plaudit");
    told.onmessage = ({ data }) => {
      if (data.kind !== "changed") return;
      told.close();
      setTimeout(() => resolve(document.querySelector(".stop").click()), 100);
    };
  });
}"""


def test_what_was_read_late_does_not_bring_a_stopped_answer_back(chat: Page, told: StandIn) -> None:
    other = seen_streaming(chat, told)
    other.evaluate(SLOW_TO_READ)
    for page in (chat, other):
        expect(page.get_by_text("Stopped.")).to_be_visible()
        other.wait_for_timeout(1000)  # by then all is kept, and read
        wait_status(page, "settled")
        expect(page.get_by_text("Stopped.")).to_be_visible()


def test_an_answer_of_a_tab_that_is_gone_can_be_stopped(chat: Page, told: StandIn) -> None:
    other = seen_streaming(chat, told)
    chat.close()
    other.get_by_role("button", name="Stop", exact=True).click()
    wait_status(other, "settled")


def test_an_answer_of_ones_own_is_what_its_buttons_act_on(
    contexts: Callable[..., BrowserContext], told: StandIn
) -> None:
    page = contexts(permissions=["clipboard-read", "clipboard-write"]).new_page()
    page.goto(told.url)
    turn = ask_and_wait(page, "mine is better", 1)
    turn.get_by_role("button", name="Write a better answer").click()
    field = page.get_by_role("dialog").get_by_label("Your answer")
    field.fill("My own words.")
    page.get_by_role("button", name="Send answer").click()
    expect(turn.get_by_text("Your answer", exact=True)).to_be_visible()
    for name in ("Good answer", "Comment on this answer", "Regenerate and compare"):
        expect(turn.get_by_role("button", name=name, exact=True)).to_have_count(0)
    expect(turn.locator(".version")).to_have_count(0)
    turn.get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "My own words."
    turn.get_by_role("button", name="Change your answer").click()
    expect(field).to_have_value("My own words.")
    field.fill("Better words.")
    page.get_by_role("button", name="Send answer").click()
    expect(turn.locator(".answer-text").first).to_have_text("Better words.")
    turn.get_by_text("The other answer").click()
    expect(turn.locator(".others .answer-text")).to_contain_text("Warm the pot first")
    turn.get_by_role("button", name="Good answer (A)").click()
    assert stored(page)["body"]["feedback"]["kind"] == "rating"
    turn.get_by_role("button", name="Undo: A better answer, written by you").last.click()
    expect(turn.locator(".answer-text").first).to_have_text("My own words.")
    turn.get_by_role("button", name="Undo: A better answer, written by you").click()
    expect(turn.get_by_text("Your answer", exact=True)).to_have_count(0)


def test_text_that_is_nested_too_deep_is_shown_as_it_is(chat: Page, told: StandIn) -> None:
    deep = ">" * 3000 + " x"
    told.answers = [deep, "1. " * 3000 + "x"]
    turn = ask_and_wait(chat, "nesting", 2)
    expect(turn.locator(".candidate").filter(has_text=deep)).to_have_count(1)
    chat.keyboard.press("1")
    wait_status(chat, "settled")
    told.answers = ["fine"]
    ask_and_wait(chat, "and then?", 1)
    expect(last_turn(chat).locator(".answer-text")).to_have_text("fine")


def test_time_away_from_the_page_is_no_time_to_decide(chat: Page, told: StandIn) -> None:
    ask_and_wait(chat, "for later", 2)
    hide = """hidden => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    chat.evaluate(hide, True)
    chat.wait_for_timeout(1500)
    chat.evaluate(hide, False)
    chat.keyboard.press("1")
    assert stored(chat)["body"]["decision_ms"] < 1000
    ask_and_wait(chat, "after a reload", 2)
    chat.wait_for_timeout(1500)
    chat.reload()
    wait_status(chat, "deciding")
    chat.locator("body").press("1")
    wait_for(lambda: len(told.feedback) == 2, "second vote")
    assert stored(chat)["body"]["decision_ms"] < 1000
