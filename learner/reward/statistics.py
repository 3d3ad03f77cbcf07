"""Confidence bounds."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

KeyedValue = tuple[str, float]  # values of the same key hang together

_NO_BOUND: Final = 1e3  # in place of infinity, which JSON does not have


def wilson_lower(successes: float, trials: float, z: float = 1.645) -> float:
    """Return the lower end of Wilson's interval of a proportion; one-sided 95 % by default.

    Wilson 1927. 0 where there are no trials. Half successes (ties) may be counted.
    """
    if trials == 0:
        return 0.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, (centre - spread) / (1 + z * z / trials))  # it is rounded at 0


def mean_bounds(values: Iterable[KeyedValue], z: float = 1.645) -> tuple[float, float]:
    """Return bounds of the mean of values that hang together by key; 95 % each.

    By the keys' sums, as clusters (Liang and Zeger 1986), and Student's distribution in Cornish
    and Fisher's expansion. -1000 and 1000 where there are fewer than two keys.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for key, value in values:
        groups[key].append(value)
    free = len(groups) - 1
    if free < 1:
        return -_NO_BOUND, _NO_BOUND
    count = sum(map(len, groups.values()))
    mean = sum(map(sum, groups.values())) / count
    squares = sum((sum(own) - mean * len(own)) ** 2 for own in groups.values())
    error = math.sqrt(squares * (free + 1) / free) / count
    first = (z**3 + z) / (4 * free)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    spread = (z + first + second) * error
    return max(mean - spread, -_NO_BOUND), min(mean + spread, _NO_BOUND)
