"""Accessibility: axe-core on every view in both themes and sizes, phones, reduced motion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.browser.actions import ask, ask_and_wait, choose_answers, wait_until_stored
from tests.support.browser.stand_in import StandIn

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}


def welcome(page: Page) -> None:
    expect(page.get_by_role("heading", name="Ask. Compare. Teach.")).to_be_visible()


def streaming(page: Page) -> None:
    ask(page, "How do I make tea?", 2)
    expect(page.locator(".candidate strong").first).to_be_visible()


def comparing(page: Page) -> None:
    ask_and_wait(page, "How do I make tea?", 2)


def ranking(page: Page) -> None:
    ask_and_wait(page, "How do I make tea?", 4)
    page.get_by_role("button", name="Answer B").click()
    page.get_by_role("button", name="Best: put it here").click()


def voted(page: Page) -> None:
    comparing(page)
    page.get_by_role("button", name="A is better").click()
    wait_until_stored(page)
    page.get_by_text("The other answer").click()


def dialog(page: Page) -> None:
    voted(page)
    page.get_by_role("button", name="Write a better answer").first.click()


def editing(page: Page) -> None:
    voted(page)
    page.get_by_role("button", name="Edit and send again").click()


def options(page: Page) -> None:
    page.get_by_role("button", name="Chat settings").click()


def votes(page: Page) -> None:
    voted(page)
    page.evaluate("location.hash = '#/votes'")
    expect(page.get_by_role("heading", name="Your votes")).to_be_visible()


def learning(page: Page) -> None:
    page.evaluate("location.hash = '#/learning'")
    expect(page.locator(".sample")).not_to_have_count(0)
    expect(page.locator("figure .legend").filter(has_text="version 5")).to_be_visible()


def report(page: Page) -> None:
    page.evaluate("location.hash = '#/learning/5'")
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible()


def operator(page: Page) -> None:
    page.evaluate("location.hash = '#/operator'")
    expect(page.get_by_role("heading", name="Audit trail")).to_be_visible()


def confirming(page: Page) -> None:
    operator(page)
    page.get_by_role("button", name="Roll back").click()


def key(page: Page) -> None:
    body = {"error": {"message": "This server needs a valid API key.", "code": "invalid_api_key"}}
    page.route("**/v1/models", lambda route: route.fulfill(status=401, json=body))
    page.reload()
    expect(page.get_by_label("An API key is needed.")).to_be_visible()


def toast(page: Page) -> None:
    voted(page)
    menu(page)
    page.get_by_role("button", name="Delete “How do I make tea?”").click()
    expect(page.get_by_role("button", name="Restore it")).to_be_visible()


def menu(page: Page) -> None:
    opener = page.get_by_role("button", name="Menu")
    if opener.is_visible():  # on a phone
        opener.click()
    expect(page.get_by_role("link", name="Learning")).to_be_visible()


def no_report(page: Page) -> None:
    page.evaluate("location.hash = '#/learning/1'")
    expect(page.get_by_role("heading", name="Version 1", level=1)).to_be_visible()
    expect(page.get_by_text("no report", exact=False)).to_be_visible()


def held(page: Page) -> None:
    learning(page)
    expect(page.get_by_text("Publishing is held")).to_be_visible()


def waiting(page: Page) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    page.route("**/readyz", lambda route: route.abort())
    ask(page, "How do I make tea?", 2)
    expect(page.get_by_text("Your message is sent as soon as possible.")).to_be_visible()


def unavailable(page: Page) -> None:
    comparing(page)
    page.route("**/v1/**", lambda route: route.abort())
    page.route("**/readyz", lambda route: route.abort())
    page.get_by_role("button", name="A is better").click()
    expect(page.get_by_text("The server is unavailable.")).to_be_visible()


VIEWS: dict[str, Callable[[Page], None]] = {
    view.__name__: view
    for view in (
        welcome, streaming, comparing, ranking, voted, dialog, editing, options, votes, learning,
        report, operator, confirming, unavailable, key, toast, menu, no_report, held, waiting,
    )
}  # fmt: skip


SHORT_LIVED = ("streaming", "toast")  # gone before the second theme is checked
# A theme changes nothing but colours, so that the second one needs no other rule.
COLOURS = "{ runOnly: ['color-contrast'] }"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("name", VIEWS)
def test_axe_finds_no_violations_and_nothing_overflows_the_screen(
    contexts: Callable[..., BrowserContext], stand_in: StandIn, name: str, size: str
) -> None:
    stand_in.tokens_per_second = 20 if name == "streaming" else 0
    stand_in.snapshot = stand_in.snapshot | {"held": name == "held"}
    # The page's content security policy would block axe-core, which the test injects.
    options = PHONE if size == "phone" else {}
    page = contexts(reduced_motion="reduce", bypass_csp=True, **options).new_page()
    backgrounds = set()
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        if not backgrounds or name in SHORT_LIVED:
            page.goto(stand_in.url)
            VIEWS[name](page)
            page.evaluate(AXE)
        rules = COLOURS if theme == "dark" else "{ resultTypes: ['violations'] }"
        results = page.evaluate(f"axe.run({rules})")
        violations = [
            (v["id"], [node["html"] for node in v["nodes"]]) for v in results["violations"]
        ]
        assert not violations, theme
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], theme
        backgrounds.add(page.evaluate(BACKGROUND))
    assert len(backgrounds) == 2, "the theme did not change"


def test_the_theme_survives_a_reload(
    contexts: Callable[..., BrowserContext], stand_in: StandIn
) -> None:
    page = contexts(color_scheme="light").new_page()
    page.goto(stand_in.url)
    light = page.evaluate(BACKGROUND)
    page.get_by_role("button", name="Use the dark theme").click()
    dark = page.evaluate(BACKGROUND)
    assert dark != light
    page.reload()
    assert page.evaluate(BACKGROUND) == dark


def test_asking_and_voting_work_on_a_phone(
    contexts: Callable[..., BrowserContext], stand_in: StandIn
) -> None:
    page = contexts(**PHONE).new_page()
    page.goto(stand_in.url)
    page.get_by_role("button", name="Menu").tap()
    expect(page.get_by_role("link", name="Learning")).to_be_visible()
    page.get_by_role("link", name="New chat").first.tap()
    choose_answers(page, 2)
    page.get_by_role("textbox", name="Your message").fill("by thumb")
    page.get_by_role("button", name="Send").tap()
    page.get_by_role("button", name="B is better").tap()
    assert wait_until_stored(page)["body"]["feedback"]["verdict"] == "right"
    page.get_by_role("button", name="Menu").tap()
    page.get_by_role("link", name="Your votes").tap()
    expect(page.get_by_text("B is better than A")).to_be_visible()


def test_reduced_motion_disables_animations(
    contexts: Callable[..., BrowserContext], stand_in: StandIn
) -> None:
    animations = {}
    for motion in ("reduce", "no-preference"):
        page = contexts(reduced_motion=motion).new_page()
        page.route("**/v1/chat/completions", lambda route: None)  # the answer never begins
        page.goto(stand_in.url)
        ask(page, "still", 1)
        expect(page.get_by_role("img", name="Waiting for the answer")).to_be_visible()
        animations[motion] = page.evaluate(
            "document.getAnimations().filter((a) => a.playState === 'running').length"
        )
    assert animations["reduce"] == 0
    assert animations["no-preference"] > 0


def test_finished_answers_are_announced_to_screen_readers(
    contexts: Callable[..., BrowserContext], stand_in: StandIn
) -> None:
    page = contexts().new_page()
    page.goto(stand_in.url)
    ask_and_wait(page, "read it to me", 2)
    status = page.get_by_role("status").filter(has_text="complete")
    expect(status).to_contain_text("Answers A and B are complete. Press 1 for A, 2 for B")
