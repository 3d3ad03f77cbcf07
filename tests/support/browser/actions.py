"""User actions on the page, and readers of the log that check their effect."""

import json
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from playwright.sync_api import Locator, Page, Route, expect

from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from tests.support.servers import Plaudit

T = TypeVar("T")
TIMEOUT_SECONDS = 40


def wait_for(poll: Callable[[], T | None], what: str, seconds: float = TIMEOUT_SECONDS) -> T:
    """Poll until the result is truthy; the browser progresses only if `poll` calls Playwright."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := poll():
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {seconds} s")


def choose_answers(page: Page, number: int) -> None:
    page.get_by_role("radio", name=str(number), exact=True).check(force=True)


def ask(page: Page, text: str, answers: int | None = None) -> None:
    """Send a message without waiting for the answer."""
    if answers:
        choose_answers(page, answers)
    field = page.get_by_role("textbox", name="Your message")
    field.fill(text)
    field.press("Enter")


def last_turn(page: Page) -> Locator:
    return page.locator(".turn").last


def wait_for_status(page: Page, status: str) -> Locator:
    """Wait until the last turn has a status such as `streaming`, `deciding` or `settled`."""
    turn = last_turn(page)
    expect(turn).to_have_attribute("data-status", status, timeout=TIMEOUT_SECONDS * 1000)
    return turn


def ask_and_wait(page: Page, text: str, answers: int) -> Locator:
    turns = page.locator(".turn").count()
    ask(page, text, answers)
    expect(page.locator(".turn")).to_have_count(turns + 1)
    return wait_for_status(page, "deciding" if answers > 1 else "settled")


def browser_votes(page: Page) -> list[dict[str, Any]]:
    """Return the votes in the browser's storage, oldest first."""
    votes = page.evaluate(
        "Object.entries(localStorage).filter(([k]) => k.startsWith('plaudit.vote.'))"
        ".map(([, v]) => JSON.parse(v))"
    )
    return sorted(votes, key=lambda vote: vote["made"])


def wait_until_stored(page: Page) -> dict[str, Any]:
    """Wait until the server has stored the latest vote, and return it."""

    def latest() -> dict[str, Any] | None:
        page.wait_for_timeout(50)
        votes = browser_votes(page)
        return votes[-1] if votes and votes[-1]["state"] == "stored" else None

    return wait_for(latest, "stored vote")


def logged_events(plaudit: Plaudit, completion_id: str) -> list[FeedbackEvent]:
    """Return the feedback events of a completion in the log, oldest first."""
    logged = [FeedbackEvent.FromString(value) for value in plaudit.read_all("feedback")]
    return [event for event in logged if event.completion_id == completion_id]


def vote_event(plaudit: Plaudit, vote: dict[str, Any]) -> FeedbackEvent:
    """Return the single feedback event that a vote produced."""
    found = [
        e for e in logged_events(plaudit, vote["body"]["completion_id"]) if e.event_id == vote["id"]
    ]
    assert len(found) == 1
    return found[0]


def add_request_fields(page: Page, **fields: Any) -> None:
    """Add fields to every later chat request; another call replaces them."""

    def add(route: Route) -> None:
        body = route.request.post_data_json
        route.continue_(post_data=json.dumps({**body, **fields}))

    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", add)


def ignore_eos(page: Page, tokens: int = 900) -> None:
    """Make every answer `tokens` long, without an end token."""
    add_request_fields(page, ignore_eos=True, max_tokens=tokens)


def wait_for_text(locator: Locator, characters: int = 40) -> None:
    """Wait until an element has at least that many characters of text."""
    expect(locator).to_have_text(
        re.compile(rf"[\s\S]{{{characters},}}"), timeout=TIMEOUT_SECONDS * 1000
    )
