"""Take the screenshots in docs/images: `python -m tests.support.browser.screenshots [VIEW …]`."""

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import DESKTOP, short_answers_script
from tests.browser.test_access import PHONE, VIEWS
from tests.support.browser.stand_in import StandIn

IMAGES = Path(__file__).parents[3] / "docs" / "images"
SCREENSHOTS = ("comparing", "ranking", "voted", "votes", "learning", "report", "operator")
HEIGHTS = {"learning": 1750, "report": 1500}  # views longer than the desktop's screen
SIZES: dict[str, dict[str, Any]] = {"desktop": {"viewport": DESKTOP}, "phone": PHONE}
EARLIER_PROMPTS = ("What do owls eat?", "A poem about rain", "Help me plan a walk")


def add_earlier_conversations(page: Page) -> None:
    """Create a few conversations, so that the list of conversations is not empty."""
    for prompt in EARLIER_PROMPTS:
        page.evaluate("location.hash = '#/'")
        field = page.get_by_role("textbox", name="Your message")
        field.fill(prompt)
        field.press("Enter")
        page.locator("[data-status=deciding]").wait_for()
        page.get_by_role("button", name="A is better").click()
    page.wait_for_timeout(800)
    page.evaluate("location.hash = '#/'")
    page.locator(".welcome").wait_for()


def take(browser: Browser, stand_in: StandIn, name: str, size: str, theme: str) -> None:
    """Take one screenshot."""
    stand_in.reset()
    options = SIZES[size] | {"color_scheme": theme, "reduced_motion": "reduce"}
    context = browser.new_context(**options)
    context.add_init_script(short_answers_script())
    page = context.new_page()
    page.goto(stand_in.url)
    add_earlier_conversations(page)
    VIEWS[name](page)
    page.mouse.move(1, 1)
    if size == "desktop":
        page.set_viewport_size(DESKTOP | {"height": HEIGHTS.get(name, DESKTOP["height"])})
    page.wait_for_timeout(400)
    page.screenshot(path=IMAGES / f"{name}-{size}-{theme}.png")
    context.close()


def main(names: list[str]) -> None:
    """Take the screenshots of the views in `names`, by default of all in SCREENSHOTS."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, StandIn() as stand_in:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name in names or SCREENSHOTS:
            for size in SIZES:
                for theme in ("light", "dark"):
                    take(browser, stand_in, name, size, theme)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
