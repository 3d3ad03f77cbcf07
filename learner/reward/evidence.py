"""Whether votes are enough to start a learning cycle, and how many are missing otherwise.

Votes are looked at again and again while they arrive, and each look may find a pattern by chance.
So the bound here is a 99% bound, where a cycle itself is content with 95% (`learner.reward.probe`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final

from learner.data.owner_bound import effective_votes
from learner.data.preferences import PreferenceExample, Split
from learner.reward.statistics import KeyedValue, mean_bounds
from learner.settings import RewardSettings

_QUANTILE: Final = 2.326  # of the normal distribution: a one-sided 99% bound
_UNCLEAR: Final = (
    "So far a simple model predicts which answers people prefer a little better than chance, which "
    "may be luck."
)
_NO_PATTERN: Final = (
    "So far the votes show no pattern: a simple model predicts them no better than chance."
)
_NAMES: Final[Mapping[Split, str]] = {
    "reward": "train the reward model",
    "held_out": "measure the reward model",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Whether votes are enough for a learning cycle.

    Attributes:
        missing: Estimated number of votes that are missing; 0 if there are enough, and None if
            the votes so far do not tell.
        reason: Why votes are missing, in words for users; empty if there are enough.

    """

    missing: int | None
    reason: str = ""


ENOUGH: Final = Evidence(0)


def check_splits(
    examples: Mapping[Split, Sequence[PreferenceExample]], settings: RewardSettings
) -> Evidence:
    """Check that there are votes to train a reward model and to measure it, by their weights."""
    shares = {"held_out": settings.held_out_share, "reward": 1 - settings.held_out_share}
    needed = {"held_out": 1, "reward": settings.min_train}
    votes = {split: effective_votes(examples[split]) for split in _NAMES}
    missing = {split: math.ceil((needed[split] - votes[split]) / shares[split]) for split in _NAMES}
    worst = max(_NAMES, key=missing.__getitem__)
    if missing[worst] <= 0:
        return ENOUGH
    reason = (
        f"{len(examples[worst])} of the votes so far {_NAMES[worst]}; at least {needed[worst]} "
        "must. Which ones do depends on the question."
    )
    if votes[worst] < len(examples[worst]):
        reason += f" These count for {votes[worst]:g}, because many are of one API key."
    return Evidence(missing[worst], reason)


def check_gains(gains: Sequence[KeyedValue], weights: Iterable[float] = repeat(1.0)) -> Evidence:
    """Check that new votes are predicted better than chance.

    The lower bound of their mean gain must be above 0. Its distance from the mean shrinks with the
    root of the number of votes, which gives the number that is missing if the mean stays.

    Args:
        gains: Prompt key and gain of each new vote (see `learner.reward.probe`), in nats.
        weights: Weight of each vote; by default all are 1.

    """
    lower, upper = mean_bounds(gains, weights, _QUANTILE)
    if lower > 0:
        return ENOUGH
    mean, count = (lower + upper) / 2, len(gains)
    if mean <= 0 or lower == -upper:
        return Evidence(None, _NO_PATTERN)
    needed = count * ((mean - lower) / mean) ** 2
    return Evidence(max(1, math.ceil(needed) - count), _UNCLEAR)
