"""Simulated raters."""

import random

import pytest

from deploy.simulation.raters import PREFERENCES, judge, prefers


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("concise", "Cats purr.", "Cats purr, and they do so for many reasons, one by one."),
        ("concise", "Cats purr.", ""),
        ("detailed", "Cats purr, and they do so for many reasons.", "Cats purr."),
        ("polite", "Thank you for asking. Cats purr.", "Cats purr."),
        ("questions", "Cats purr. Do you have a cat?", "Cats purr."),
    ],
)
def test_preferences_prefer(name: str, better: str, worse: str) -> None:
    preference = PREFERENCES[name]
    assert prefers(preference, better, worse) == 1
    assert prefers(preference, worse, better) == 0
    assert prefers(preference, better, better) == 0.5
    assert preference.score(preference.improve(worse)) >= preference.score(worse)


def test_judgement_is_noisy_but_not_random() -> None:
    rng = random.Random(0)
    preference = PREFERENCES["concise"]
    long, short = " ".join(["word"] * 12), " ".join(["word"] * 4)
    verdicts = [judge(preference, short, long, 0.7, rng) for _ in range(1000)]
    share = verdicts.count("left") / 1000
    assert 0.8 < share < 0.95  # logistic of (8/6)/0.7 = 0.87
