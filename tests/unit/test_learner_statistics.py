"""Wilson's bound by hand."""

import pytest

from learner.statistics import wilson_lower


def test_wilson_by_hand() -> None:
    # 8 of 10, z = 1.96: (0.8 + 0.19208 - 1.96 sqrt(0.016 + 0.009604)) / 1.38416
    assert wilson_lower(8, 10, z=1.96) == pytest.approx(0.4902, abs=1e-4)


def test_wilson_of_nothing_is_zero_and_of_much_is_near_the_share() -> None:
    assert wilson_lower(0, 0) == 0
    assert wilson_lower(6000, 10000) == pytest.approx(0.6, abs=0.01)
    assert wilson_lower(0, 10) == pytest.approx(0, abs=1e-9)
