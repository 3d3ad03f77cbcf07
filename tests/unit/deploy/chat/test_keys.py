"""The keys that vote."""

import pytest

from deploy.chat.keys import Action, menu, parse_key, parse_label


@pytest.mark.parametrize(
    ("key", "action"),
    [
        ("a", Action("better", 0)),
        (" B ", Action("better", 1)),
        ("t", Action("tie", 0)),
        ("c", Action("correct", 0)),
        ("s", Action("skip", 0)),
        ("", Action("skip", 0)),
        ("q", Action("quit", 0)),
        ("u", None),
        ("d", None),
        ("ab", None),
        ("\x1b", None),
    ],
)
def test_keys_for_two_answers(key: str, action: Action | None) -> None:
    assert parse_key(key, [0, 1]) == action


@pytest.mark.parametrize(
    ("key", "action"),
    [
        ("u", Action("up", 0)),
        ("d", Action("down", 0)),
        ("c", Action("correct", 0)),
        ("a", None),
        ("t", None),
    ],
)
def test_keys_for_one_answer(key: str, action: Action | None) -> None:
    assert parse_key(key, [0]) == action


def test_labels_come_before_other_keys() -> None:
    assert parse_key("c", [0, 1, 2]) == Action("better", 2)
    assert parse_key("d", [0, 1, 2]) is None
    assert parse_key("d", [0, 1, 2, 3]) == Action("better", 3)
    assert parse_key("e", [0, 1, 2]) == Action("correct", 0)


def test_answers_keep_their_labels_when_others_have_not_begun() -> None:
    assert parse_key("b", [1, 3]) == Action("better", 1)
    assert parse_key("a", [1, 3]) is None
    assert parse_key("", [1, 3]) == Action("skip", 1)
    assert parse_label("D", [1, 3]) == 3
    assert parse_label("a", [1, 3]) is None


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (1, "u: thumbs up, d: thumbs down, c: correct, s or Enter: skip, q: quit"),
        (2, "a/b: better, t: tie, c: correct, s or Enter: skip, q: quit"),
        (4, "a/b/c/d: better, t: tie, e: correct, s or Enter: skip, q: quit"),
    ],
)
def test_the_menu_lists_all_keys(number: int, line: str) -> None:
    assert menu(range(number)) == line
