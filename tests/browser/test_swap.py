"""A version goes live during a chat: nothing on the screen is lost."""

from string import ascii_lowercase

from playwright.sync_api import Page, expect

from learner.models.loading import load_tokenizer
from tests.support.browser.actions import (
    add_request_fields,
    ask,
    last_turn,
    wait_for_status,
    wait_for_text,
)
from tests.support.servers import Plaudit


def letters(plaudit: Plaudit) -> list[int]:
    """Return the ids of the tokens that are single letters."""
    vocabulary = load_tokenizer(plaudit.registry.path(1)).get_vocab()
    return [vocabulary[letter] for letter in ascii_lowercase]


def confirm(page: Page, button: str, explanation: str, answer: str) -> None:
    """Press an operator's button, check the dialog's explanation, and confirm."""
    page.get_by_role("button", name=button).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(explanation)
    dialog.get_by_role("button", name=answer).click()
    expect(dialog).to_have_count(0)


def test_a_swap_in_the_middle_of_a_stream(page: Page, plaudit: Plaudit) -> None:
    before = plaudit.version()
    version = max(plaudit.registry.versions()) + 1
    plaudit.add_checkpoint(version, before, seed=version)
    expect(page.get_by_role("link", name=f"v{before} is live")).to_be_visible()
    # Letters only: no Markdown and no end token.
    add_request_fields(page, max_tokens=900, allowed_token_ids=letters(plaudit))
    ask(page, "swapped during streaming", answers=2)
    first = last_turn(page).locator(".candidate .answer-text").first
    wait_for_text(first)
    text_before = first.inner_text()[:30]
    field = page.get_by_role("textbox", name="Your message")
    field.fill("half a question")
    plaudit.announce(version, before)
    toast = page.get_by_text(f"Version {version} is live.")
    expect(toast).to_be_visible()
    expect(field).to_have_value("half a question")
    turn = wait_for_status(page, "deciding")
    assert first.inner_text()[:30] == text_before
    expect(turn.locator(".problem")).to_have_count(0)
    page.locator("body").click(position={"x": 700, "y": 5})
    page.keyboard.press("1")
    expect(turn.get_by_text(f"version {version}", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name=f"v{version} is live")).to_be_visible()
    page.get_by_role("link", name="Operator").click()
    confirm(page, "Roll back", f"no longer from version {version}", "Roll back")
    expect(page.get_by_text(f"Version {before} is live again.")).to_be_visible()
    plaudit.wait_version(before)
    confirm(
        page,
        "Resume publishing",
        "that pass the gate go live automatically again",
        "Resume publishing",
    )
    expect(page.get_by_role("button", name="Hold publishing")).to_be_visible()
    entries = page.get_by_role("region", name="Audit trail").get_by_role("listitem")
    expect(entries.first).to_contain_text("resumed publishing")
    expect(entries.nth(1)).to_contain_text(f"rolled back from version {version} to {before}")
