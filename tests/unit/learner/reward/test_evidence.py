"""When votes are enough for a cycle, and how many are missing otherwise."""

from dataclasses import replace

import pytest

from learner.data.preferences import PreferenceExample, Split
from learner.reward.evidence import ENOUGH, check_gains, check_splits
from learner.settings import RewardSettings

EXAMPLE = PreferenceExample("0", ((1, 2),), (1,))
SETTINGS = RewardSettings(held_out_share=0.2, min_train=8)


def split(reward: int, held_out: int) -> dict[Split, list[PreferenceExample]]:
    return {"reward": [EXAMPLE] * reward, "held_out": [EXAMPLE] * held_out}


def keyed(*gains: float) -> list[tuple[str, float]]:
    return [(str(key), gain) for key, gain in enumerate(gains)]


def test_every_split_needs_its_votes() -> None:
    assert check_splits(split(8, 1), SETTINGS) == ENOUGH
    found = check_splits(split(4, 3), SETTINGS)
    assert found.missing == 5  # four of the reward model's 0.8
    assert found.reason.startswith("4 of the votes so far train the reward model; at least 8 must")
    found = check_splits(split(9, 0), SETTINGS)
    assert found.missing == 5  # one of the 0.2 that are held out
    assert found.reason.startswith("0 of the votes so far measure the reward model")


def test_weighted_votes_are_needed_and_count_by_their_weights() -> None:
    parts = split(12, 1)
    parts["reward"] = [replace(example, weight=0.5) for example in parts["reward"]]
    found = check_splits(parts, SETTINGS)
    assert found.missing == 3  # two more of the reward model's 0.8
    assert found.reason.endswith("These count for 6, because many are of one API key.")
    gains = keyed(*[0.5] * 20, *[-0.5] * 20, 0.4, 0.6)
    assert check_gains(gains, [1.0] * 20 + [0.01] * 20 + [1.0] * 2) == ENOUGH
    assert check_gains(gains) != ENOUGH


def test_clear_gains_are_enough() -> None:
    assert check_gains(keyed(*[0.5, 0.4, 0.3] * 10)) == ENOUGH


def test_unclear_gains_give_the_number_of_votes_at_which_they_would_be_clear() -> None:
    few = check_gains(keyed(*[1.1, -0.9] * 20))
    assert few.missing is not None
    # The error of the mean is 1/sqrt(n); 2.33 of them equal the mean of 0.1 at 541 votes.
    assert 480 <= few.missing <= 580
    assert "may be luck" in few.reason
    assert check_gains(keyed(*[1.1, -0.9] * 400)) == ENOUGH


@pytest.mark.parametrize("gains", [[-0.1, 0.1], [-0.2, 0.1, -0.1], [0.5], []])
def test_gains_that_are_no_better_than_chance_tell_nothing(gains: list[float]) -> None:
    found = check_gains(keyed(*gains))
    assert found.missing is None
    assert "no pattern" in found.reason
