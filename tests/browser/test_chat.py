"""Chat: streaming, stopping, editing, several conversations, and the settings of requests."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.browser.actions import (
    add_request_fields,
    ask,
    ask_and_wait,
    choose_answers,
    ignore_eos,
    last_turn,
    wait_for,
    wait_for_status,
    wait_for_text,
)
from tests.support.servers import Plaudit


def test_an_answer_streams_token_by_token_and_is_saved(page: Page, plaudit: Plaudit) -> None:
    ignore_eos(page, 300)
    # Record in the page what it shows: a small model may finish before the test polls twice.
    page.evaluate(
        """() => {
          window.streamed = [];
          const record = () => {
            const answer = document.querySelector(".turn:last-of-type .answer-text");
            if (answer?.ariaBusy === "true") window.streamed.push(answer.textContent.length);
          };
          new MutationObserver(record).observe(
            document.body,
            { subtree: true, childList: true, characterData: true, attributes: true },
          );
        }"""
    )
    ask(page, "Hello there", answers=1)
    wait_for_status(page, "settled")
    answer = last_turn(page).locator(".answer-text")
    expect(answer).to_have_attribute("aria-busy", "false")
    final = answer.inner_text()
    lengths, whole = page.evaluate("window.streamed"), len(answer.text_content() or "")
    # A busy machine shows few intermediate states; one is enough to prove streaming.
    assert any(0 < length < whole for length in lengths), (lengths, whole)
    page.wait_for_timeout(300)  # saved by then
    page.reload()
    expect(last_turn(page).locator(".prompt-text")).to_have_text("Hello there")
    assert last_turn(page).locator(".answer-text").inner_text() == final


@pytest.mark.parametrize("by", ["button", "key"])
def test_a_stopped_answer_is_kept_and_can_be_voted_on(
    page: Page, plaudit: Plaudit, by: str
) -> None:
    ignore_eos(page)
    ask(page, "Count without end", answers=2)
    wait_for_text(page.locator(".candidate .answer-text").first)
    if by == "key":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Stop").click()
    turn = wait_for_status(page, "deciding")
    expect(turn.get_by_text("Stopped.")).to_have_count(2)
    completion_id = page.evaluate(
        """async () => {
          const db = await new Promise((done) => {
            const open = indexedDB.open("plaudit");
            open.onsuccess = () => done(open.result);
          });
          await new Promise((done) => setTimeout(done, 800));
          const all = db.transaction("conversations").objectStore("conversations").getAll();
          await new Promise((done) => (all.onsuccess = done));
          return all.result[0].turns[0].candidates[0].completion_id;
        }"""
    )
    record = wait_for(
        lambda: plaudit.records().get(completion_id), "record of the stopped completion"
    )
    assert {choice.finish_reason for choice in record.choices} == {"abort"}


def test_editing_a_message_replaces_the_later_turns_and_can_be_undone(page: Page) -> None:
    ask_and_wait(page, "first question", 1)
    ask_and_wait(page, "second question", 1)
    first = page.locator(".turn").first
    first.get_by_role("button", name="Edit and send again").click()
    field = first.get_by_role("textbox", name="Your message")
    field.fill("first question, reworded")
    field.press("Enter")
    expect(page.locator(".turn")).to_have_count(1)
    wait_for_status(page, "settled")
    expect(page.locator(".prompt-text")).to_have_text(["first question, reworded"])
    page.get_by_role("button", name="Restore them").click()
    expect(page.locator(".prompt-text")).to_have_text(["first question", "second question"])


def test_conversations_are_separate_saved_and_deletable(page: Page) -> None:
    ask_and_wait(page, "about owls", 1)
    page.get_by_role("link", name="New chat").click()
    expect(page.get_by_role("heading", name="Ask. Compare. Teach.")).to_be_visible()
    ask_and_wait(page, "about bees", 1)
    page.wait_for_timeout(800)  # longer than the delay of saving
    page.reload()
    history = page.get_by_role("navigation", name="Conversations")
    expect(history.get_by_role("link")).to_have_text(["about bees", "about owls"])
    history.get_by_role("link", name="about owls").click()
    expect(page.locator(".prompt-text")).to_have_text("about owls")
    history.get_by_role("button", name="Delete “about owls”").click()
    expect(history.get_by_role("link")).to_have_text(["about bees"])
    page.get_by_role("button", name="Restore it").click()
    expect(history.get_by_role("link")).to_have_text(["about bees", "about owls"])


def test_system_prompt_and_sampling_reach_the_server(page: Page, plaudit: Plaudit) -> None:
    page.get_by_role("button", name="Chat settings").click()
    drawer = page.get_by_role("dialog", name="Chat settings")
    expect(drawer.get_by_text("the model's own")).to_have_count(0)  # set by the fixture
    drawer.get_by_role("button", name="Defaults").click()
    expect(drawer.get_by_text("the model's own")).to_be_visible()
    drawer.get_by_label("System prompt").fill("You are a pirate.")
    drawer.get_by_label("Temperature").fill("0.5")
    drawer.get_by_label("Longest answer").fill("32")
    drawer.get_by_role("button", name="Done").click()
    ask_and_wait(page, "Who are you?", 1)
    records = plaudit.records().values()
    record = next(r for r in records if r.messages[-1].content == "Who are you?")
    assert [m.role for m in record.messages] == ["system", "user"]
    assert record.messages[0].content == "You are a pirate."
    assert record.sampling.temperature == pytest.approx(0.5)
    assert len(record.choices[0].token_ids) <= 32


def test_a_request_contains_the_earlier_turns(page: Page, plaudit: Plaudit) -> None:
    add_request_fields(page, structured_outputs={"choice": ["first answer"]})
    ask_and_wait(page, "one", 1)
    ask_and_wait(page, "and two", 1)
    records = plaudit.records().values()
    record = next(r for r in records if r.messages[-1].content == "and two")
    assert [m.role for m in record.messages] == ["user", "assistant", "user"]
    assert record.messages[0].content == "one"
    assert record.messages[1].content == "first answer"


def test_copy_puts_the_markdown_source_on_the_clipboard(
    contexts: Callable[..., BrowserContext], plaudit: Plaudit
) -> None:
    context = contexts(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(plaudit.url)
    add_request_fields(page, structured_outputs={"choice": ["**bold** words"]})
    turn = ask_and_wait(page, "copy this", 1)
    expect(turn.locator(".answer-text strong")).to_have_text("bold")
    turn.get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "**bold** words"


def test_typing_goes_into_the_message_when_the_page_opens_and_in_a_new_chat(page: Page) -> None:
    message = page.get_by_role("textbox", name="Your message")
    expect(message).to_be_focused()
    page.keyboard.type("at once")
    expect(message).to_have_value("at once")
    page.keyboard.press("Enter")
    wait_for_status(page, "deciding")
    page.get_by_role("link", name="New chat").click()
    expect(message).to_be_focused()


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    message = page.get_by_role("textbox", name="Your message")
    message.blur()
    page.keyboard.press("/")
    expect(message).to_be_focused()
    choose_answers(page, 2)
    page.get_by_role("textbox", name="Your message").focus()
    page.keyboard.type("by keys")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("alone")
    page.keyboard.press("Enter")
    turn = wait_for_status(page, "deciding")
    expect(turn.locator(".prompt-text")).to_have_text(re.compile(r"by keys\s+alone"))
    expect(page.get_by_role("region", name="Compare the answers")).to_be_focused()
    page.keyboard.press("1")
    wait_for_status(page, "settled")
    expect(page.get_by_role("textbox", name="Your message")).to_be_focused()
