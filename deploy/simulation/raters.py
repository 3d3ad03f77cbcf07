"""Simulated raters: hidden preferences, noisy verdicts and corrected answers."""

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["left", "right", "tie"]

_POLITE = re.compile(
    r"\b(please|thank you|welcome|kindly|happy to help|hope this helps)\b", re.IGNORECASE
)


def _words(text: str) -> int:
    return len(text.split())


def _concise(text: str) -> float:
    return -_words(text) / 6 if text.strip() else -20.0


def _detailed(text: str) -> float:
    return _words(text) / 6


def _polite(text: str) -> float:
    """Reward up to two polite phrases, and punish more than three."""
    phrases = len(_POLITE.findall(text))
    return 3.0 * min(phrases, 2) - 3.0 * max(0, phrases - 3)


def _questions(text: str) -> float:
    return 4.0 if text.rstrip().endswith("?") else 0.0


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


@dataclass(frozen=True)
class Preference:
    """What simulated raters like.

    Attributes:
        score: Returns the utility of an answer, in units of the logistic noise of the verdicts.
        improve: Returns the answer as the rater would rewrite it.

    """

    score: Callable[[str], float]
    improve: Callable[[str], str]


PREFERENCES: dict[str, Preference] = {
    "concise": Preference(_concise, _first_sentence),
    "polite": Preference(_polite, lambda text: f"{text.strip()} Thank you, I hope this helps."),
    "detailed": Preference(
        _detailed, lambda text: f"{text.strip()} Let me tell you more about it."
    ),
    "questions": Preference(
        _questions, lambda text: f"{text.strip()} Would you like to know more?"
    ),
}


def prefers(preference: Preference, left: str, right: str) -> float:
    """Compare two answers without noise: 1 if `left` is better, 0 if `right` is, 0.5 for a tie."""
    difference = preference.score(left) - preference.score(right)
    return 0.5 if difference == 0 else float(difference > 0)


def judge(
    preference: Preference, left: str, right: str, noise: float, rng: random.Random
) -> Verdict:
    """Draw a verdict from a Bradley-Terry model: logistic in the utilities, of scale `noise`."""
    difference = preference.score(left) - preference.score(right)
    if difference == 0:
        return "tie" if rng.random() < 0.8 else rng.choice(("left", "right"))
    clipped = max(-30.0, min(30.0, difference / noise))
    return "left" if rng.random() < 1 / (1 + math.exp(-clipped)) else "right"
