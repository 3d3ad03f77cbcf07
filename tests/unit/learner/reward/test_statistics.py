"""Confidence bounds by hand."""

import math

import pytest

from learner.reward.statistics import mean_bounds, weighted_mean, wilson_lower


def test_wilson_by_hand() -> None:
    # 8 of 10, z = 1.96: (0.8 + 0.19208 - 1.96 sqrt(0.016 + 0.009604)) / 1.38416
    assert wilson_lower(8, 10, z=1.96) == pytest.approx(0.4902, abs=1e-4)


def test_wilson_bound_is_zero_without_trials_and_near_the_share_with_many() -> None:
    assert wilson_lower(0, 0) == 0
    assert wilson_lower(6000, 10000) == pytest.approx(0.6, abs=0.01)
    none = [wilson_lower(0, trials, z) for trials in range(1, 200) for z in (1, 1.645, 1.96)]
    assert 0 <= min(none) <= max(none) < 1e-9, "never below 0 for being rounded"


def test_bounds_of_a_mean_by_hand() -> None:
    """Four keys of one value each: mean 2.5, error sqrt(5/3/4); Student's t at 3 is 2.353."""
    found = mean_bounds(
        (key, value) for key, value in zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True)
    )
    spread = 2.353 * math.sqrt(5 / 3 / 4)
    assert found == pytest.approx((2.5 - spread, 2.5 + spread), abs=0.05)


def test_values_with_one_key_count_as_one_cluster() -> None:
    once = [("a", 1.0), ("b", 3.0), ("c", 2.0)]
    assert mean_bounds(once * 5) == pytest.approx(mean_bounds(once))
    assert mean_bounds([("a", 1.0)] * 9) == (-1000, 1000)
    assert mean_bounds([]) == (-1000, 1000)


def test_weighted_values_count_as_often_as_their_weights_say() -> None:
    values = [("a", 1.0), ("b", 3.0), ("c", 2.0)]
    repeated = [("a", 1.0), *[("b", 3.0)] * 4, *[("c", 2.0)] * 2]
    assert mean_bounds(values, [0.25, 1.0, 0.5]) == pytest.approx(mean_bounds(repeated))
    assert weighted_mean([1.0, 3.0, 2.0], [0.25, 1.0, 0.5]) == pytest.approx(17 / 7)
    assert weighted_mean([], []) == 0
