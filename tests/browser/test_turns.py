"""Turns of a conversation when requests fail, and in two tabs."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.browser.actions import (
    ask,
    ask_and_wait,
    browser_votes,
    last_turn,
    wait_for,
    wait_for_status,
    wait_until_stored,
)
from tests.support.browser.stand_in import StandIn


def disconnect(page: Page) -> None:
    for path in ("**/v1/**", "**/readyz"):
        page.route(path, lambda route: route.abort())


def reconnect(page: Page) -> None:
    for path in ("**/v1/**", "**/readyz"):
        page.unroute(path)
    page.evaluate("dispatchEvent(new Event('online'))")  # the page retries at once


def prompts(stand_in: StandIn) -> list[list[str]]:
    """Return the user messages of each chat request."""
    return [
        [m["content"] for m in body["messages"] if m["role"] == "user"]
        for body in stand_in.chat_requests
    ]


def ask_while_disconnected(page: Page, text: str) -> None:
    disconnect(page)
    ask(page, text, 2)
    wait_for_status(page, "waiting")
    expect(last_turn(page).locator(".problem")).to_contain_text("sent as soon as possible")


def test_a_waiting_question_keeps_its_context_and_blocks_the_next(
    chat: Page, stand_in: StandIn
) -> None:
    ask_and_wait(chat, "first", 1)
    ask_while_disconnected(chat, "second")
    field = chat.get_by_role("textbox", name="Your message")
    field.fill("third")
    field.press("Enter")
    expect(chat.locator(".turn")).to_have_count(2)
    reconnect(chat)
    wait_for_status(chat, "deciding")
    expect(field).to_be_focused()  # the user is typing there
    expect(field).to_have_value("third")
    assert prompts(stand_in) == [["first"], ["first", "second"]]


@pytest.mark.parametrize("how", ["stop", "edit", "delete"])
def test_a_question_withdrawn_while_it_waits_is_not_sent(
    chat: Page, stand_in: StandIn, how: str
) -> None:
    ask_while_disconnected(chat, "never mind")
    if how == "stop":
        chat.get_by_role("button", name="Stop", exact=True).click()
        wait_for_status(chat, "settled")
    elif how == "edit":
        chat.get_by_role("button", name="Edit and send again").click()
        field = last_turn(chat).get_by_role("textbox", name="Your message")
        field.fill("rather this")
        field.press("Enter")
        wait_for_status(chat, "waiting")
    else:
        chat.get_by_role("button", name="Delete “never mind”").click()
    reconnect(chat)
    expect(chat.get_by_role("alert").filter(has_text="unavailable")).to_have_count(0)
    if how == "edit":
        wait_for_status(chat, "deciding")
    chat.wait_for_timeout(300)
    assert prompts(stand_in) == ([["rather this"]] if how == "edit" else [])


def test_a_waiting_question_survives_a_reload(chat: Page, stand_in: StandIn) -> None:
    ask_while_disconnected(chat, "later")
    chat.wait_for_timeout(800)  # longer than the delay of saving
    chat.unroute("**/v1/**")
    chat.unroute("**/readyz")
    chat.reload()
    wait_for_status(chat, "deciding")
    assert prompts(stand_in) == [["later"]]


def test_a_stream_that_ends_before_its_first_token_is_retried(
    chat: Page, stand_in: StandIn
) -> None:
    empty: dict[str, Any] = {"status": 200, "content_type": "text/event-stream", "body": ""}
    chat.route("**/v1/chat/completions", lambda route: route.fulfill(**empty), times=1)
    ask(chat, "broken", 1)
    wait_for_status(chat, "settled")
    expect(last_turn(chat).locator(".answer-text")).not_to_be_empty()
    assert prompts(stand_in) == [["broken"]]


def test_keys_vote_once_and_on_one_turn_only(chat: Page, stand_in: StandIn) -> None:
    pending: list[Any] = []
    chat.route("**/v1/chat/completions", lambda route: pending.append(route), times=1)
    ask(chat, "stopped before its first token", 2)
    wait_for_status(chat, "streaming")
    chat.get_by_role("button", name="Stop", exact=True).click()
    wait_for_status(chat, "settled")
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
    assert wait_until_stored(chat)["body"]["feedback"]["verdict"] == "left"
    assert len(browser_votes(chat)) == 1


def test_a_page_closed_before_the_first_token_leaves_nothing_to_vote_on(
    chat: Page, stand_in: StandIn
) -> None:
    chat.route("**/v1/chat/completions", lambda route: None)
    ask(chat, "too soon", 2)
    wait_for_status(chat, "streaming")
    chat.wait_for_timeout(800)
    chat.close()  # without notice to the script; on a reload it might see the request fail
    reopened = chat.context.new_page()
    reopened.goto(chat.url)
    turn = wait_for_status(reopened, "settled")
    expect(turn.get_by_text("No answer.")).to_be_visible()
    turn.get_by_role("button", name="Ask again").click()
    wait_for_status(reopened, "deciding")


def test_two_tabs_show_the_same_conversations(chat: Page, stand_in: StandIn) -> None:
    stand_in.tokens_per_second = 4
    ask(chat, "in both tabs", 2)
    expect(chat.locator(".candidate strong").first).to_be_visible()
    chat.wait_for_timeout(500)
    other = chat.context.new_page()
    other.goto(chat.url)
    wait_for_status(other, "streaming")  # the first tab streams; the turn is not aborted
    stand_in.tokens_per_second = 0  # send the rest at once
    wait_for_status(chat, "deciding")
    wait_for_status(other, "deciding")
    expect(other.get_by_text("Stopped.")).to_have_count(0)
    other.keyboard.press("1")
    wait_for_status(chat, "settled")
    ask_and_wait(chat, "from the first tab", 1)
    expect(other.locator(".turn")).to_have_count(2)
    ask_and_wait(other, "from the other", 1)
    expect(chat.locator(".prompt-text").last).to_have_text("from the other")
    other.get_by_role("button", name="Delete “in both tabs”").click()
    expect(chat.get_by_role("button", name="Delete “in both tabs”")).to_have_count(0)


def second_tab_streaming(chat: Page, stand_in: StandIn) -> Page:
    """Ask in one tab, and return another tab that shows the answer streaming."""
    stand_in.tokens_per_second = 2
    ask(chat, "seen in another tab", 1)
    expect(last_turn(chat).locator(".answer-text")).to_contain_text("Warm")
    chat.wait_for_timeout(600)
    other = chat.context.new_page()
    other.goto(chat.url)
    wait_for_status(other, "streaming")
    return other


def test_either_tab_stops_an_answer(chat: Page, stand_in: StandIn) -> None:
    other = second_tab_streaming(chat, stand_in)
    other.get_by_role("button", name="Stop", exact=True).click()
    for page in (chat, other):
        wait_for_status(page, "settled")
        expect(page.get_by_text("Stopped.")).to_be_visible()


# Makes reads in this tab take 250 ms, and presses Stop 100 ms after the next change it hears of, so
# that the read finishes after the stop.
SLOW_READS = """() => {
  const { set } = Object.getOwnPropertyDescriptor(IDBTransaction.prototype, "oncomplete");
  Object.defineProperty(IDBTransaction.prototype, "oncomplete", {
    set(handler) {
      set.call(this, (event) => setTimeout(handler, this.mode === "readonly" ? 250 : 0, event));
    },
  });
  return new Promise((resolve) => {
    const channel = new BroadcastChannel("plaudit");
    channel.onmessage = ({ data }) => {
      if (data.kind !== "changed") return;
      channel.close();
      setTimeout(() => resolve(document.querySelector(".stop").click()), 100);
    };
  });
}"""


def test_a_slow_read_does_not_restart_a_stopped_answer(chat: Page, stand_in: StandIn) -> None:
    other = second_tab_streaming(chat, stand_in)
    other.evaluate(SLOW_READS)
    for page in (chat, other):
        expect(page.get_by_text("Stopped.")).to_be_visible()
        other.wait_for_timeout(1000)  # everything is saved and read by then
        wait_for_status(page, "settled")
        expect(page.get_by_text("Stopped.")).to_be_visible()


def test_an_answer_of_a_closed_tab_can_be_stopped(chat: Page, stand_in: StandIn) -> None:
    other = second_tab_streaming(chat, stand_in)
    chat.close()
    other.get_by_role("button", name="Stop", exact=True).click()
    wait_for_status(other, "settled")


def test_buttons_act_on_the_answer_written_by_the_user(
    contexts: Callable[..., BrowserContext], stand_in: StandIn
) -> None:
    page = contexts(permissions=["clipboard-read", "clipboard-write"]).new_page()
    page.goto(stand_in.url)
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
    assert wait_until_stored(page)["body"]["feedback"]["kind"] == "rating"
    turn.get_by_role("button", name="Undo: A better answer, written by you").last.click()
    expect(turn.locator(".answer-text").first).to_have_text("My own words.")
    turn.get_by_role("button", name="Undo: A better answer, written by you").click()
    expect(turn.get_by_text("Your answer", exact=True)).to_have_count(0)


def test_markdown_nested_too_deeply_is_shown_as_plain_text(chat: Page, stand_in: StandIn) -> None:
    deep = ">" * 3000 + " x"
    stand_in.answers = [deep, "1. " * 3000 + "x"]
    turn = ask_and_wait(chat, "nesting", 2)
    expect(turn.locator(".candidate").filter(has_text=deep)).to_have_count(1)
    chat.keyboard.press("1")
    wait_for_status(chat, "settled")
    stand_in.answers = ["fine"]
    ask_and_wait(chat, "and then?", 1)
    expect(last_turn(chat).locator(".answer-text")).to_have_text("fine")


def test_markdown_that_the_parser_fails_on_is_shown_as_plain_text(chat: Page) -> None:
    # Chromium throws a SyntaxError where the stack ends while a regular expression is compiled.
    shown = chat.evaluate(
        """async () => {
          const { src } = document.querySelector("script[type=module]");
          const { html, render } = await import(new URL("ui.js", src));
          const { Markdown } = await import(new URL("markdown.js", src));
          const { exec } = RegExp.prototype;
          RegExp.prototype.exec = function (text) {
            if (new Error().stack.includes("marked.js")) {
              throw new SyntaxError(`Invalid regular expression: ${this}: Stack overflow`);
            }
            return exec.call(this, text);
          };
          try {
            const place = document.createElement("div");
            render(html`<${Markdown} text="> nested *deeply*" />`, place);
            return place.textContent;
          } finally {
            RegExp.prototype.exec = exec;
          }
        }"""
    )
    assert shown == "> nested *deeply*"


def test_time_away_from_the_page_is_not_decision_time(chat: Page, stand_in: StandIn) -> None:
    ask_and_wait(chat, "for later", 2)
    hide = """hidden => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    chat.evaluate(hide, True)
    chat.wait_for_timeout(1500)
    chat.evaluate(hide, False)
    chat.keyboard.press("1")
    assert wait_until_stored(chat)["body"]["decision_ms"] < 1000
    ask_and_wait(chat, "after a reload", 2)
    chat.wait_for_timeout(1500)
    chat.reload()
    wait_for_status(chat, "deciding")
    chat.locator("body").press("1")
    wait_for(lambda: len(stand_in.feedback) == 2, "second vote")
    assert wait_until_stored(chat)["body"]["decision_ms"] < 1000
