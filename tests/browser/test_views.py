"""The views of votes, learning and operators, in states that a real server takes hours to reach.

The real routes are tested with the serving package, and end to end in test_learned.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.browser.actions import (
    ask_and_wait,
    browser_votes,
    wait_for,
    wait_for_status,
    wait_until_stored,
)
from tests.support.browser.stand_in import StandIn
from tests.support.browser.story import version


@pytest.fixture
def view(contexts: Callable[..., BrowserContext], stand_in: StandIn) -> Page:
    page = contexts().new_page()
    page.goto(stand_in.url)
    return page


def open_view(page: Page, name: str) -> None:
    page.get_by_role("navigation", name="Views").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()


def publish_version_6(stand_in: StandIn) -> None:
    """Make version 6 live."""
    six = version(5, 1.79e9) | {"version": 6, "parent": 5, "state": "live"}
    versions = [v | {"state": "published"} if v["version"] == 5 else v
                for v in stand_in.snapshot["versions"]]  # fmt: skip
    loop = {**stand_in.snapshot["loop"], "stage": "waiting"}
    stand_in.snapshot = stand_in.snapshot | {"live": 6, "versions": [*versions, six], "loop": loop}


def test_the_loop_shows_the_current_stage_and_updates(view: Page, stand_in: StandIn) -> None:
    open_view(view, "Learning")
    step = view.locator(".loop [aria-current=step]")
    expect(step).to_contain_text("PPO")
    expect(step).to_contain_text("iteration 6 of 14")
    stand_in.snapshot = stand_in.snapshot | {"loop": {**stand_in.snapshot["loop"], "stage": "gate"}}
    expect(step).to_contain_text("Gate")
    expect(view.get_by_text("Not yet learned from")).to_be_visible()


def test_a_waiting_learner_says_how_many_votes_are_missing_and_why(
    view: Page, stand_in: StandIn
) -> None:
    def wait_for_votes(missing: int, reason: str) -> None:
        waiting = {"stage": "waiting", "votes_missing": missing, "reason": reason}
        stand_in.snapshot = stand_in.snapshot | {"loop": {**stand_in.snapshot["loop"], **waiting}}

    open_view(view, "Learning")
    loop = view.get_by_role("region", name="The loop")
    expect(loop.get_by_text("The next cycle needs")).to_have_count(0)
    wait_for_votes(12, "So far the votes show no pattern.")
    expect(loop).to_contain_text("The next cycle needs about 12 more votes.")
    expect(loop).to_contain_text("So far the votes show no pattern.")
    wait_for_votes(1, "Few.")
    expect(loop).to_contain_text("The next cycle needs about 1 more vote.")
    wait_for_votes(0, "Few.")
    expect(loop).to_contain_text("There are enough votes for the next cycle.")


def test_the_learning_view_says_what_the_model_costs_on_this_machine(view: Page) -> None:
    open_view(view, "Learning")
    expect(view.get_by_text("What it costs here: 0.5 GiB on disk")).to_be_visible()


def chart_values(view: Page, title: str) -> list[list[str]]:
    """Return the cells of a chart's table."""
    chart = view.locator("figure.chart").filter(has_text=title).first
    chart.locator("summary").click()
    rows = chart.locator("tbody tr").all()
    return [[cell.strip() for cell in row.locator("td").all_inner_texts()] for row in rows]


def test_charts_show_the_figures_of_each_version(view: Page) -> None:
    open_view(view, "Learning")
    assert chart_values(view, "Win rate")[-1] == ["5", "88%", "64%"]
    assert chart_values(view, "Reward model, on held-out votes")[0] == ["2", "76%", "10%"]
    perplexity = chart_values(view, "Text perplexity")
    assert perplexity[0] == ["2", "10.6"]  # exp(2.36)
    curves = view.locator("figure.chart").filter(has_text="Reward against KL")
    expect(curves.locator(".legend li")).to_have_text([f"version {n}" for n in (2, 3, 4, 5)])
    expect(curves.locator("polyline")).to_have_count(4)
    bars = view.locator("figure.chart").filter(has_text="Votes by kind")
    expect(bars.locator("dt")).to_have_text(["Comparisons", "Thumbs", "Rankings", "Better answers"])


def test_gate_decisions_show_reasons_and_the_lineage_shows_votes(view: Page) -> None:
    open_view(view, "Learning")
    decisions = view.get_by_role("region", name="Decisions of the gate")
    refused = decisions.locator("[data-passed=false]")
    expect(refused).to_contain_text("its lower bound .44 is less than .5")
    first = decisions.get_by_role("listitem").filter(has_text="Version 2published")
    expect(first).to_contain_text("112 votes")
    expect(first).to_contain_text("98 comparisons and 14 thumbs")
    lineage = view.get_by_role("region", name="Lineage").first
    expect(lineage.get_by_role("link", name="Version 4 from version 2, 106 votes")).to_be_visible()


def test_two_versions_answer_the_same_prompt_side_by_side(view: Page) -> None:
    open_view(view, "Learning")
    section = view.get_by_role("region", name="The same prompt, two versions")
    section.get_by_label("Left").select_option("2")
    section.get_by_label("Right").select_option("5")
    sample = section.get_by_role("article").filter(has_text="Where does a horse live?")
    expect(sample.locator(".two > div").nth(0)).to_have_text(re.compile("A horse lives in a field"))
    expect(sample.locator(".two > div").nth(1)).to_have_text("In a stable or in a field.")


def test_a_report_has_its_own_page(view: Page) -> None:
    open_view(view, "Learning")
    view.get_by_role("link", name="Version 5 from version 4").click()
    expect(view.get_by_role("heading", name="Version 5", level=1)).to_be_visible()
    gate = view.get_by_role("region", name="Gate").first
    expect(gate.get_by_role("row").filter(has_text="KL to the SFT")).to_contain_text("at most 25")
    expect(view.get_by_role("heading", name="Before and after")).to_be_visible()


def test_a_new_version_is_announced_with_the_votes_it_learned_from(
    view: Page, stand_in: StandIn
) -> None:
    ask_and_wait(view, "a vote for version 6", 2)
    view.keyboard.press("1")
    wait_until_stored(view)
    field = view.get_by_role("textbox", name="Your message")
    field.fill("unsent words")
    stand_in.learned_in = 6
    publish_version_6(stand_in)
    toast = view.locator(".toast").filter(has_text="Version 6 is live.")
    expect(toast).to_contain_text("It has learned from 1 vote of yours.")
    expect(field).to_have_value("unsent words")
    expect(view.locator(".turn .vote-fate")).to_have_text("learned in version 6")
    toast.get_by_role("link", name="See what changed").click()
    expect(view.get_by_text("1 vote of yours went into this version.")).to_be_visible()
    open_view(view, "Your votes")
    group = view.get_by_role("region", name="Learned in version 6", exact=True)
    expect(group.get_by_role("listitem")).to_have_count(1)


def ask_before_version_6(view: Page, stand_in: StandIn, *questions: str) -> None:
    """Ask questions in one conversation, vote on the answers of version 5, and publish 6."""
    for number, question in enumerate(questions):
        stand_in.answers = [f"Early {number}.", f"Other {number}."]
        ask_and_wait(view, question, 2)
        view.get_by_role("button", name="A is better", exact=True).last.click()
        wait_for_status(view, "settled")
    stand_in.answers = ["Late."]
    publish_version_6(stand_in)
    expect(view.get_by_role("link", name="v6 is live")).to_be_visible()


def test_an_own_question_is_compared_with_what_an_earlier_version_said(
    view: Page, stand_in: StandIn
) -> None:
    ask_before_version_6(view, stand_in, "Where does an owl live?")
    before = view.locator(".turn .answer .answer-text").first.inner_text()
    view.get_by_role("link", name="See what changed").click()
    section = view.get_by_role("region", name="Your own questions, answered by version 6")
    expect(section.get_by_role("listitem")).to_contain_text("Where does an owl live? version 5")
    section.get_by_role("button", name="Compare with what it said before").click()
    turn = wait_for_status(view, "deciding")
    texts = turn.locator(".candidate .answer-text").all_inner_texts()
    assert sorted(texts) == sorted([before, "Late."])
    expect(turn.get_by_text("version 5")).to_have_count(0)  # the comparison is blind
    letter = "AB"[texts.index("Late.")]
    turn.get_by_role("button", name=f"{letter} is better", exact=True).click()
    vote = wait_until_stored(view)["body"]
    first, second = (stand_in.chat_requests[place]["messages"] for place in (0, 1))
    assert first == second
    assert vote["completion_id"] == "chatcmpl-2"
    feedback = vote["feedback"]
    winner, loser = ("left", "right") if feedback["verdict"] == "left" else ("right", "left")
    assert feedback[winner] == 0
    assert feedback[loser]["completion_id"] == "chatcmpl-1"
    expect(turn.get_by_text("version 6", exact=True)).to_be_visible()
    open_view(view, "Learning")
    expect(view.get_by_role("button", name="Compare with what it said before")).to_have_count(0)


def test_an_earlier_question_of_a_conversation_is_compared_in_a_copy(
    view: Page, stand_in: StandIn
) -> None:
    ask_before_version_6(view, stand_in, "What is tea?", "And coffee?")
    view.get_by_role("button", name="Compare with version 6").first.click()
    turn = wait_for_status(view, "deciding")
    expect(view.locator(".turn")).to_have_count(1)
    expect(turn.locator(".candidate .answer-text")).to_have_count(2)
    assert stand_in.chat_requests[-1]["messages"] == stand_in.chat_requests[0]["messages"]
    history = view.get_by_role("navigation", name="Conversations").get_by_role("link")
    expect(history).to_have_text(["What is tea?", "What is tea?"])
    history.nth(1).click()
    expect(view.locator(".turn")).to_have_count(2)
    expect(view.locator(".turn[data-status=settled]")).to_have_count(2)


def test_answers_of_the_live_version_are_not_compared_with_it(view: Page) -> None:
    ask_and_wait(view, "now", 1)
    expect(view.get_by_text("version 5", exact=True)).to_be_visible()
    expect(view.get_by_role("button", name="Compare with")).to_have_count(0)


@pytest.mark.parametrize(
    ("button", "explanation", "confirm", "path"),
    [
        ("Roll back", "All new answers come from version 4, no longer from version 5.", "Roll back",
         "rollback"),
        ("Hold publishing", "No new version goes live until you resume publishing.",
         "Hold publishing", "hold"),
        ("Make live: version 2", "All new answers come from version 2, no longer from version 5.",
         "Make version 2 live", "2/activate"),
    ],
)  # fmt: skip
def test_an_operator_action_is_explained_and_must_be_confirmed(
    view: Page, stand_in: StandIn, button: str, explanation: str, confirm: str, path: str
) -> None:
    open_view(view, "Operator")
    view.get_by_role("button", name=button).click()
    dialog = view.get_by_role("dialog")
    expect(dialog).to_contain_text(explanation)
    dialog.get_by_role("button", name="Cancel").click()
    assert stand_in.policy_requests == []
    view.get_by_role("button", name=button).click()
    dialog.get_by_label("Reason").fill("it rambles")
    dialog.get_by_role("button", name=confirm).click()
    expect(dialog).to_have_count(0)
    assert stand_in.policy_requests == [(path, {"reason": "it rambles"})]


def explanation_lines(view: Page, button: str) -> list[str]:
    """Return the lines of a dialog's explanation."""
    view.get_by_role("button", name=button, exact=True).click()
    lines = view.get_by_role("dialog").get_by_role("listitem").all_inner_texts()
    view.get_by_role("button", name="Cancel").click()
    return lines


HOLD_NOTICE = "Publishing is then held: no new version goes live until you resume it."


@pytest.mark.parametrize(
    ("button", "to", "undone"),
    [("Roll back", 4, "5"), ("Make live: version 2", 2, "4 and 5")],
)
def test_every_rollback_is_explained_as_one(
    view: Page, stand_in: StandIn, button: str, to: int, undone: str
) -> None:
    stand_in.snapshot = stand_in.snapshot | {"on_trial": 6}
    open_view(view, "Operator")
    assert explanation_lines(view, button) == [
        f"All new answers come from version {to}, no longer from version 5.",
        "The trial of version 6 ends now, whatever its votes say so far.",
        "Running answers are finished; no request is lost.",
        "The next learning cycle starts from it.",
        f"Rolled back, and never again a parent: version {undone}.",
        HOLD_NOTICE,
    ]


def test_a_rollback_goes_to_the_version_that_the_server_names(
    view: Page, stand_in: StandIn
) -> None:
    # Version 4 was replaced before it was live.
    stand_in.snapshot = stand_in.snapshot | {"previous": 2}
    open_view(view, "Operator")
    assert explanation_lines(view, "Roll back")[0] == (
        "All new answers come from version 2, no longer from version 5."
    )


def test_resuming_publishing_names_the_version_that_goes_live(
    view: Page, stand_in: StandIn
) -> None:
    waiting = [version(5, 1.79e9) | {"version": n, "state": "waiting"} for n in (6, 7)]
    versions = [*stand_in.snapshot["versions"], *waiting]
    stand_in.snapshot = stand_in.snapshot | {"held": True, "versions": versions}
    open_view(view, "Operator")
    expect(view.get_by_role("row").filter(has_text="Version 7")).to_contain_text("held back")
    first, second = explanation_lines(view, "Resume publishing")
    assert first == "New versions that pass the gate go live automatically again."
    assert second == (
        "Version 7, which was held back, goes live at once, or on trial if it was published for "
        "one."
    )
    assert HOLD_NOTICE not in explanation_lines(view, "Make live: version 6")


def test_a_rejected_action_shows_the_reason(view: Page, stand_in: StandIn) -> None:
    open_view(view, "Operator")
    view.get_by_role("button", name="Hold publishing").click()
    stand_in.snapshot = stand_in.snapshot | {"held": True}
    dialog = view.get_by_role("dialog")
    dialog.get_by_role("button", name="Hold publishing").click()
    expect(dialog.get_by_role("alert")).to_have_text("Publishing is on hold already.")


def test_the_audit_trail_shows_who_did_what(view: Page) -> None:
    open_view(view, "Operator")
    entries = view.get_by_role("region", name="Audit trail").get_by_role("listitem")
    expect(entries.nth(1)).to_contain_text("anna")
    expect(entries.nth(1)).to_contain_text("rolled version 3 back to version 2")


@pytest.mark.parametrize("role", ["user", "annotator"])
def test_only_operators_see_the_operator_view(view: Page, stand_in: StandIn, role: str) -> None:
    stand_in.role = role
    view.goto(f"{stand_in.url}/#/operator")
    view.reload()
    expect(view.get_by_role("link", name="Learning")).to_be_visible()
    expect(view.get_by_role("link", name="Operator")).to_have_count(0)
    expect(view.get_by_role("heading", name="Operator")).to_have_count(0)


def test_the_page_asks_for_a_key_if_the_server_requires_one(
    contexts: Callable[..., BrowserContext], stand_in: StandIn
) -> None:
    stand_in.key, stand_in.role = "right", "user"
    page = contexts().new_page()
    page.goto(stand_in.url)
    field = page.get_by_label("An API key is needed.")
    field.fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_text("This server needs a valid API key.")).to_be_visible()
    field.fill("right")
    page.get_by_role("button", name="Use this key").click()
    expect(field).to_have_count(0)
    expect(page.get_by_text("anna, user")).to_be_visible()
    ask_and_wait(page, "with a key", 1)
    page.reload()
    expect(page.get_by_text("anna, user")).to_be_visible()


def test_a_rejected_vote_shows_the_reason(view: Page) -> None:
    ask_and_wait(view, "refused", 2)
    body = {"error": {"message": "This completion is more than 30 days old.", "code": "expired"}}
    view.route("**/v1/feedback", lambda route: route.fulfill(status=410, json=body))
    view.keyboard.press("1")
    fate = view.locator(".turn .vote-fate")
    expect(fate).to_have_text("rejected: This completion is more than 30 days old.")


def test_a_rate_limited_vote_is_sent_later(view: Page, stand_in: StandIn) -> None:
    ask_and_wait(view, "too fast", 2)
    body = {"error": {"message": "Too fast.", "code": "rate_limit_exceeded"}}
    response: dict[str, Any] = {"status": 429, "json": body, "headers": {"Retry-After": "1"}}
    view.route("**/v1/feedback", lambda route: route.fulfill(**response), times=1)
    view.keyboard.press("1")
    expect(view.locator(".turn .vote-fate")).to_have_text("waiting to be sent")
    wait_until_stored(view)
    assert len(stand_in.feedback) == 1


def test_two_tabs_do_not_overwrite_each_others_votes(view: Page, stand_in: StandIn) -> None:
    other = view.context.new_page()
    other.goto(stand_in.url)
    for page in (view, other):
        ask_and_wait(page, "in a tab", 2)
        page.locator("body").press("1")
    wait_for(lambda: len(stand_in.feedback) == 2, "two votes")
    assert len(browser_votes(view)) == 2
    expect(other.locator(".turn .vote-fate")).to_have_text("stored, not learned from yet")
