"""Every kind of vote, by keys and by pointer: the page sends what the user saw and chose."""

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from protos.plaudit.v1.feedback_pb2 import Comparison, Rating, Source
from tests.support.browser.actions import (
    add_request_fields,
    ask_and_wait,
    browser_votes,
    logged_events,
    vote_event,
    wait_for,
    wait_for_status,
    wait_until_stored,
)
from tests.support.servers import Plaudit

WORDS = ["red", "green", "blue", "black", "white", "brown", "grey", "pink"]
BUTTONS = {"1": "A is better", "2": "B is better", "=": "Tie", "0": "Both bad"}
VERDICTS = {
    "1": Comparison.VERDICT_LEFT,
    "2": Comparison.VERDICT_RIGHT,
    "=": Comparison.VERDICT_TIE,
    "0": Comparison.VERDICT_BOTH_BAD,
}


def answer_in_words(page: Page, *answers: str) -> None:
    """Restrict the model, whose weights are random, to the given answers or to WORDS."""
    add_request_fields(page, structured_outputs={"choice": list(answers or WORDS)})


def answer_texts(turn: Locator) -> list[str]:
    """Return the answers on the screen, from left to right."""
    return [text.strip() for text in turn.locator(".candidate .answer-text").all_inner_texts()]


def shown_order(plaudit: Plaudit, vote: dict[str, Any]) -> list[int]:
    return list(vote_event(plaudit, vote).shown)


@pytest.mark.parametrize("by", ["key", "pointer"])
@pytest.mark.parametrize("key", BUTTONS)
def test_a_verdict_on_two_answers(page: Page, plaudit: Plaudit, key: str, by: str) -> None:
    turn = ask_and_wait(page, f"verdict {key} by {by}", 2)
    page.wait_for_timeout(300)
    if by == "key":
        page.keyboard.press(key)
    else:
        turn.get_by_role("button", name=BUTTONS[key]).click()
    event = vote_event(plaudit, wait_until_stored(page))
    assert event.comparison.verdict == VERDICTS[key]
    assert sorted(event.shown) == [0, 1]
    assert [event.comparison.left.choice, event.comparison.right.choice] == list(event.shown)
    assert event.source == Source.SOURCE_PAGE
    assert 250 <= event.decision_ms <= 20_000
    expect(turn.locator(".vote-fate")).to_have_text("stored, not learned from yet")


def test_positions_are_shuffled_and_reported_as_shown(page: Page, plaudit: Plaudit) -> None:
    orders = set()
    answer_in_words(page)
    for number in range(12):
        turn = ask_and_wait(page, f"shuffle {number}", 2)
        left, right = answer_texts(turn)
        page.keyboard.press("1")
        wait_for_status(page, "settled")
        vote = wait_until_stored(page)
        record = plaudit.records()[vote["body"]["completion_id"]]
        order = shown_order(plaudit, vote)
        assert [left, right] == [record.choices[choice].text for choice in order]
        orders.add(tuple(order))
        if len(orders) == 2:
            return
    pytest.fail(f"always in the same order: {orders}")


def test_the_conversation_continues_from_the_preferred_answer(page: Page, plaudit: Plaudit) -> None:
    ask_and_wait(page, "prefer the right one", 2)
    page.keyboard.press("2")
    vote = wait_until_stored(page)
    record = plaudit.records()[vote["body"]["completion_id"]]
    preferred = record.choices[shown_order(plaudit, vote)[1]].text
    ask_and_wait(page, "go on from it", 1)
    records = plaudit.records().values()
    after = next(r for r in records if r.messages[-1].content == "go on from it")
    assert after.messages[1].content == preferred


def test_versions_are_hidden_before_the_vote(page: Page) -> None:
    turn = ask_and_wait(page, "blind", 2)
    assert "version" not in turn.inner_text().lower()
    page.keyboard.press("1")
    expect(turn.get_by_text("version 1", exact=True)).to_be_visible()


def test_four_answers_are_ranked_by_dragging_with_a_tie(page: Page, plaudit: Plaudit) -> None:
    answer_in_words(page)
    turn = ask_and_wait(page, "rank by dragging", 4)
    send = turn.get_by_role("button", name="Send the order")
    expect(send).to_be_disabled()
    for letter, rank in (("C", 0), ("A", 1), ("D", 1), ("B", 3)):
        chip = turn.locator(f".chip[data-letter={letter}]")
        start, end = chip.bounding_box(), turn.locator(f"[data-rank='{rank}']").bounding_box()
        assert start
        assert end
        page.mouse.move(start["x"] + 20, start["y"] + 20)
        page.mouse.down()
        page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] - 25, steps=6)
        page.mouse.up()
        expect(turn.locator(f"[data-rank='{rank}'] .chip[data-letter={letter}]")).to_be_visible()
    send.click()
    vote = wait_until_stored(page)
    event = vote_event(plaudit, vote)
    a, b, c, d = event.shown
    groups = [{x.choice for x in group.candidates} for group in event.ranking.groups]
    assert groups == [{c}, {a, d}, {b}]
    assert event.decision_ms > 0
    expect(turn.get_by_text("Ranked C > A = D > B")).to_be_visible()
    record = plaudit.records()[vote["body"]["completion_id"]]
    best = turn.locator(".answer > .answer-text").inner_text()
    assert best == record.choices[c].text


def test_three_answers_are_ranked_by_keys(page: Page, plaudit: Plaudit) -> None:
    turn = ask_and_wait(page, "rank by keys", 3)
    for key in ("b", "1", "a", "3", "c", "1"):
        page.keyboard.press(key)
    expect(turn.get_by_role("button", name="Send the order")).to_be_enabled()
    page.keyboard.press("Enter")
    event = vote_event(plaudit, wait_until_stored(page))
    a, b, c = event.shown
    groups = [{x.choice for x in group.candidates} for group in event.ranking.groups]
    assert groups == [{b, c}, {a}]


def test_answers_are_ranked_by_taps(page: Page, plaudit: Plaudit) -> None:
    turn = ask_and_wait(page, "rank by taps", 3)
    for letter, rank in (("A", "2nd"), ("B", "Best"), ("C", "3rd")):
        turn.get_by_role("button", name=f"Answer {letter}").click()
        turn.get_by_role("button", name=f"{rank}: put it here").click()
    turn.get_by_role("button", name="Send the order").click()
    event = vote_event(plaudit, wait_until_stored(page))
    a, b, c = event.shown
    assert [[x.choice for x in g.candidates] for g in event.ranking.groups] == [[b], [a], [c]]


def test_thumbs_can_be_reversed_and_retracted(page: Page, plaudit: Plaudit) -> None:
    turn = ask_and_wait(page, "thumbs", 1)
    up = turn.get_by_role("button", name="Good answer", exact=True)
    down = turn.get_by_role("button", name="Bad answer", exact=True)
    up.click()
    first = wait_until_stored(page)
    assert vote_event(plaudit, first).rating.value == Rating.VALUE_UP
    expect(up).to_have_attribute("aria-pressed", "true")
    down.click()
    expect(down).to_have_attribute("aria-pressed", "true")
    expect(up).to_have_attribute("aria-pressed", "false")
    completion = first["body"]["completion_id"]
    wait_for(lambda: len(logged_events(plaudit, completion)) == 3, "retraction and second vote")
    down.click()
    expect(down).to_have_attribute("aria-pressed", "false")
    wait_for(lambda: len(logged_events(plaudit, completion)) == 4, "second retraction")
    kinds = [event.WhichOneof("kind") for event in logged_events(plaudit, completion)]
    assert kinds == ["rating", "retraction", "rating", "retraction"]


def test_thumbs_on_one_of_two_candidates(page: Page, plaudit: Plaudit) -> None:
    turn = ask_and_wait(page, "thumbs on B", 2)
    turn.get_by_role("button", name="Bad answer (B)").click()
    vote = wait_until_stored(page)
    event = vote_event(plaudit, vote)
    assert event.rating.value == Rating.VALUE_DOWN
    page.keyboard.press("1")
    wait_for_status(page, "settled")
    wait_for(lambda: len(browser_votes(page)) == 2, "comparison")
    assert event.rating.candidate.choice == shown_order(plaudit, wait_until_stored(page))[1]


def test_a_comment_is_stored(page: Page, plaudit: Plaudit) -> None:
    turn = ask_and_wait(page, "comment", 1)
    turn.get_by_role("button", name="Comment on this answer").click()
    dialog = page.get_by_role("dialog", name="Comment")
    dialog.get_by_label("Your comment").fill("Too long by half.")
    dialog.get_by_role("button", name="Send comment").click()
    assert vote_event(plaudit, wait_until_stored(page)).comment.text == "Too long by half."
    expect(turn.get_by_text("Comment: “Too long by half.”")).to_be_visible()


def test_a_better_answer_is_a_demonstration_and_continues_the_conversation(
    page: Page, plaudit: Plaudit
) -> None:
    answer_in_words(page)
    turn = ask_and_wait(page, "correct me", 1)
    original = turn.locator(".answer-text").inner_text()
    turn.get_by_role("button", name="Write a better answer").click()
    dialog = page.get_by_role("dialog", name="Write a better answer")
    field = dialog.get_by_label("Your answer")
    assert field.input_value() == original
    field.fill("It is **four**.")
    dialog.get_by_role("button", name="Send answer").click()
    event = vote_event(plaudit, wait_until_stored(page))
    assert event.demonstration.text == "It is **four**."
    expect(turn.locator(".answer-text strong")).to_have_text("four")
    ask_and_wait(page, "are you sure?", 1)
    records = plaudit.records().values()
    after = next(r for r in records if r.messages[-1].content == "are you sure?")
    assert after.messages[1].content == "It is **four**."


def test_undoing_a_comparison_reopens_the_decision(page: Page, plaudit: Plaudit) -> None:
    turn = ask_and_wait(page, "undo", 2)
    page.keyboard.press("1")
    first = wait_until_stored(page)
    turn.get_by_role("button", name="Undo: A is better than B").click()
    wait_for_status(page, "deciding")
    completion = first["body"]["completion_id"]
    wait_for(lambda: len(logged_events(plaudit, completion)) == 2, "retraction")
    assert logged_events(plaudit, completion)[1].retraction.event_id == first["id"]
    page.keyboard.press("2")
    again = wait_until_stored(page)
    assert again["key"] != first["key"]
    assert vote_event(plaudit, again).comparison.verdict == Comparison.VERDICT_RIGHT


def test_a_regenerated_answer_is_compared_with_the_one_before(page: Page, plaudit: Plaudit) -> None:
    answer_in_words(page, "the first one")
    turn = ask_and_wait(page, "again please", 1)
    answer_in_words(page, "the second one")
    turn.get_by_role("button", name="Regenerate and compare").click()
    wait_for_status(page, "deciding")
    left, right = answer_texts(turn)
    new_is_right = right == "the second one"
    assert {left, right} == {"the first one", "the second one"}
    page.keyboard.press("2" if new_is_right else "1")
    vote = wait_until_stored(page)
    event = vote_event(plaudit, vote)
    one, two = event.comparison.left, event.comparison.right
    assert one.completion_id != two.completion_id
    assert [c.completion_id for c in event.shown_candidates] == [
        one.completion_id,
        two.completion_id,
    ]
    records = plaudit.records()
    old, new = (one, two) if new_is_right else (two, one)
    assert records[old.completion_id].messages == records[new.completion_id].messages
    assert event.completion_id == new.completion_id
    winner = Comparison.VERDICT_RIGHT if new_is_right else Comparison.VERDICT_LEFT
    assert event.comparison.verdict == winner
    assert turn.locator(".answer > .answer-text").inner_text() == "the second one"


def test_votes_are_listed_with_their_status(page: Page) -> None:
    ask_and_wait(page, "listed vote", 2)
    page.keyboard.press("=")
    wait_until_stored(page)
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Your votes").click()
    group = page.get_by_role("region", name="Stored, not learned from yet", exact=True)
    row = group.get_by_role("listitem").first
    expect(row).to_contain_text("listed vote")
    expect(row).to_contain_text("A and B are equally good")
    row.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("No votes yet.")).to_be_visible()
