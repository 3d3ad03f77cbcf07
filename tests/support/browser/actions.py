"""What people do on the page, and what the log then holds."""

import json
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from playwright.sync_api import Locator, Page, Route, expect

from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from tests.support.servers import Plaudit

T = TypeVar("T")
SECONDS = 40


def wait_for(look: Callable[[], T | None], what: str, seconds: float = SECONDS) -> T:
    """Look until there is something; the browser goes on meanwhile only if `look` uses it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {what} in {seconds} s")


def choose_answers(page: Page, number: int) -> None:
    page.get_by_role("radio", name=str(number), exact=True).check(force=True)


def ask(page: Page, text: str, answers: int | None = None) -> None:
    """Ask, and do not wait for the answer."""
    if answers:
        choose_answers(page, answers)
    field = page.get_by_role("textbox", name="Your message")
    field.fill(text)
    field.press("Enter")


def last_turn(page: Page) -> Locator:
    return page.locator(".turn").last


def wait_status(page: Page, status: str) -> Locator:
    """Wait until the last turn is `streaming`, `deciding` or `settled`."""
    turn = last_turn(page)
    expect(turn).to_have_attribute("data-status", status, timeout=SECONDS * 1000)
    return turn


def ask_and_wait(page: Page, text: str, answers: int) -> Locator:
    turns = page.locator(".turn").count()
    ask(page, text, answers)
    expect(page.locator(".turn")).to_have_count(turns + 1)
    return wait_status(page, "deciding" if answers > 1 else "settled")


def votes_of(page: Page) -> list[dict[str, Any]]:
    """Return the votes that the browser keeps, oldest first."""
    kept = page.evaluate(
        "Object.entries(localStorage).filter(([k]) => k.startsWith('plaudit.vote.'))"
        ".map(([, v]) => JSON.parse(v))"
    )
    return sorted(kept, key=lambda vote: vote["made"])


def stored(page: Page) -> dict[str, Any]:
    """Return the latest vote, once the server has it."""

    def look() -> dict[str, Any] | None:
        page.wait_for_timeout(50)
        votes = votes_of(page)
        return votes[-1] if votes and votes[-1]["state"] == "stored" else None

    return wait_for(look, "stored vote")


def events(plaudit: Plaudit, completion_id: str) -> list[FeedbackEvent]:
    """Return what the log holds about a completion, oldest first."""
    every = [FeedbackEvent.FromString(value) for value in plaudit.read_all("feedback")]
    return [event for event in every if event.completion_id == completion_id]


def event_of(plaudit: Plaudit, vote: dict[str, Any]) -> FeedbackEvent:
    """Return the one event that a vote became."""
    found = [e for e in events(plaudit, vote["body"]["completion_id"]) if e.event_id == vote["id"]]
    assert len(found) == 1
    return found[0]


def asking_for(page: Page, **more: Any) -> None:
    """Send more fields with every question from now on; a later call replaces them."""

    def add(route: Route) -> None:
        body = route.request.post_data_json
        route.continue_(post_data=json.dumps({**body, **more}))

    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", add)


def endless(page: Page, tokens: int = 900) -> None:
    """Let answers go on to `tokens`, whatever the model would like."""
    asking_for(page, ignore_eos=True, max_tokens=tokens)


def long_text(locator: Locator, characters: int = 40) -> None:
    """Wait until an element holds that much text."""
    expect(locator).to_have_text(re.compile(rf"[\s\S]{{{characters},}}"), timeout=SECONDS * 1000)
