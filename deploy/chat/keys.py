"""The keys that vote on the answers on screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

LABELS: Final = "ABCD"
MAX_ANSWERS: Final = len(LABELS)


@dataclass(frozen=True)
class Action:
    """What a key does.

    Attributes:
        kind: Name of the action.
        choice: Index of the choice that it is about, and that the conversation continues with.

    """

    kind: Literal["better", "tie", "up", "down", "correct", "skip", "quit"]
    choice: int


def bindings(shown: Sequence[int]) -> dict[str, Action]:
    """Return the action of each key.

    The key for corrections is `c`, or `e` where `c` stands for the third answer.

    Args:
        shown: Indices of the choices on screen, in their order; at least one.

    """
    first = shown[0]
    if len(shown) == 1:
        votes = {"u": Action("up", first), "d": Action("down", first)}
    else:
        votes = {LABELS[choice].lower(): Action("better", choice) for choice in shown}
        votes["t"] = Action("tie", first)
    correct = "e" if "c" in votes else "c"
    return votes | {
        correct: Action("correct", first),
        "s": Action("skip", first),
        "q": Action("quit", first),
    }


def parse_key(key: str, shown: Sequence[int]) -> Action | None:
    """Return the action of a key, or None if it has none; an empty text stands for Enter."""
    return bindings(shown).get(key.strip().lower() or "s")


def parse_label(key: str, shown: Sequence[int]) -> int | None:
    """Return the choice whose label is `key`, or None if no answer on screen has it."""
    labels = {LABELS[choice].lower(): choice for choice in shown}
    return labels.get(key.strip().lower())


def menu(shown: Sequence[int]) -> str:
    """Return the line that lists the keys."""
    names = {
        "tie": "tie",
        "up": "thumbs up",
        "down": "thumbs down",
        "correct": "correct",
        "skip": "or Enter: skip",
        "quit": "quit",
    }
    keys = bindings(shown)
    better = "/".join(key for key, action in keys.items() if action.kind == "better")
    entries = [f"{better}: better"] if better else []
    for key, action in keys.items():
        if action.kind in names:
            separator = " " if action.kind == "skip" else ": "
            entries.append(f"{key}{separator}{names[action.kind]}")
    return ", ".join(entries)
