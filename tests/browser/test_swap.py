"""Another version goes live while people chat: nothing on screen is lost."""

from string import ascii_lowercase

from playwright.sync_api import Page, expect

from deploy.policies import operations
from learner.model import load_tokenizer
from tests.browser.actions import ask, asking_for, last_turn, long_text, wait_status
from tests.servers import Plaudit


def letters(plaudit: Plaudit) -> list[int]:
    """Give the ids of the tokens that are one letter."""
    vocabulary = load_tokenizer(plaudit.registry.path(1)).get_vocab()
    return [vocabulary[letter] for letter in ascii_lowercase]


def test_a_swap_in_the_middle_of_a_stream(page: Page, plaudit: Plaudit) -> None:
    before = plaudit.version()
    version = max(plaudit.registry.versions()) + 1
    plaudit.add_checkpoint(version, before, seed=version)
    expect(page.get_by_role("link", name=f"v{before} is live")).to_be_visible()
    asking_for(page, max_tokens=900, allowed_token_ids=letters(plaudit))  # no Markdown, no end
    ask(page, "swapped while it is written", answers=2)
    first = last_turn(page).locator(".candidate .answer-text").first
    long_text(first)
    said = first.inner_text()[:30]
    field = page.get_by_role("textbox", name="Your message")
    field.fill("half a question")
    plaudit.announce(version, before)
    toast = page.get_by_text(f"Version {version} is live.")
    expect(toast).to_be_visible()
    expect(field).to_have_value("half a question")
    turn = wait_status(page, "deciding")
    assert first.inner_text()[:30] == said
    expect(turn.locator(".problem")).to_have_count(0)
    page.locator("body").click(position={"x": 700, "y": 5})
    page.keyboard.press("1")
    expect(turn.get_by_text(f"version {version}", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name=f"v{version} is live")).to_be_visible()
    operations(plaudit.home).rollback("test")
    expect(page.get_by_text(f"Version {before} is live again.")).to_be_visible()
    operations(plaudit.home).resume("test")
    plaudit.wait_version(before)
