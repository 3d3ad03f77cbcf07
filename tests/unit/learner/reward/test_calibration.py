"""Temperature and calibration error: by hand, and on overconfident scores."""

import math
import random

import pytest

from learner.reward.calibration import (
    ScoredPair,
    best_temperature,
    calibration,
    calibration_error,
)

NINE_TO_ONE = math.log(9)  # a difference that says .9


def pair(difference: float, first_won: bool, weight: float = 1.0) -> ScoredPair:
    return ScoredPair(difference, first_won, weight, "0")


def test_calibration_error_by_hand() -> None:
    # Confidence .9 in each: two right of three, so .9 - 2/3 whichever answer was preferred.
    found = [pair(NINE_TO_ONE, True), pair(-NINE_TO_ONE, False), pair(NINE_TO_ONE, False)]
    assert calibration_error(found, [1.0] * 3) == pytest.approx(0.9 - 2 / 3)
    assert calibration_error([], []) == 0


def test_pairs_count_by_the_weight_of_their_rater() -> None:
    found = [pair(NINE_TO_ONE, True, 0.9), pair(NINE_TO_ONE, False, 0.1)]
    assert calibration_error(found, [1.0] * 2) == pytest.approx(0, abs=1e-9)


def test_temperature_by_hand() -> None:
    # Three of four right at one difference: calibrated where it says .75, so d / T = ln 3.
    found = [pair(5.0, won) for won in (True, True, True, False)]
    assert best_temperature(found) == pytest.approx(5 / math.log(3), rel=1e-6)
    assert best_temperature([]) == 1


def test_scores_that_are_three_times_overconfident_are_calibrated() -> None:
    rng = random.Random(0)
    found = []
    for number in range(4000):
        true = rng.gauss(0, 1.5)
        won = rng.random() < 1 / (1 + math.exp(-true))
        found.append(ScoredPair(3 * true, won, 1.0, f"{number:08x}"))
    temperature, calibrated, plain = calibration(found)
    assert temperature == pytest.approx(3, rel=0.1)
    assert calibrated < 0.03 < 0.1 < plain


def test_the_temperature_stays_finite_if_all_pairs_are_right_or_wrong() -> None:
    assert 0 < best_temperature([pair(1.0, True)] * 5) < 1
    assert 1 < best_temperature([pair(1.0, False)] * 5) < 1000
