"""Confidence bounds of proportions and means."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final

KeyedValue = tuple[str, float]  # values with the same key are not independent

_NO_BOUND: Final = 1e3  # stands for infinity, which JSON cannot represent


def wilson_lower(successes: float, trials: float, z: float = 1.645) -> float:
    """Return the lower bound of Wilson's interval (1927) of a proportion; 0 without trials.

    Args:
        successes: Number of successes; a tie may count as half a success.
        trials: Number of trials.
        z: Quantile of the normal distribution; the default gives a one-sided 95% bound.

    """
    if trials == 0:
        return 0.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, (centre - spread) / (1 + z * z / trials))  # rounding may go below 0


def mean_bounds(
    values: Iterable[KeyedValue], weights: Iterable[float] = repeat(1.0), z: float = 1.645
) -> tuple[float, float]:
    """Return the lower and the upper bound of the weighted mean, each one-sided 95% by default.

    Without `weights` all are 1. Values with the same key form a cluster (Liang and Zeger 1986). The
    quantile is that of Student's distribution, by Cornish and Fisher's expansion. With fewer than
    two keys, or very wide bounds, the bounds are -1000 and 1000.
    """
    weighted: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)
    for (key, value), weight in zip(values, weights, strict=False):
        weighted[key].append(weight * value)
        shares[key].append(weight)
    degrees = len(weighted) - 1
    if degrees < 1:
        return -_NO_BOUND, _NO_BOUND
    mass = sum(map(sum, shares.values()))
    mean = sum(map(sum, weighted.values())) / mass
    squares = sum((sum(weighted[key]) - mean * sum(shares[key])) ** 2 for key in weighted)
    error = math.sqrt(squares * (degrees + 1) / degrees) / mass
    first = (z**3 + z) / (4 * degrees)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    spread = (z + first + second) * error
    return max(mean - spread, -_NO_BOUND), min(mean + spread, _NO_BOUND)


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted mean; 0 without values."""
    total = sum(value * weight for value, weight in zip(values, weights, strict=True))
    return total / sum(weights) if weights else 0.0
