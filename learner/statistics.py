"""Figures about opinions: confidence bound and calibration."""

import math
from collections.abc import Sequence


def wilson_lower(successes: float, trials: float, z: float = 1.645) -> float:
    """Give the lower end of Wilson's interval of a proportion; one-sided 95 % by default.

    Wilson 1927. 0 where there are no trials. Half successes (ties) may be counted.
    """
    if trials == 0:
        return 0.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (centre - spread) / (1 + z * z / trials)


def calibration_error(
    probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10
) -> float:
    """Give the expected calibration error over bins of equal width (Guo et al. 2017)."""
    if not probabilities:
        return 0.0
    error = 0.0
    for b in range(bins):
        inside = [
            (p, o)
            for p, o in zip(probabilities, outcomes, strict=True)
            if b == min(int(p * bins), bins - 1)
        ]
        if inside:
            error += abs(sum(p for p, _ in inside) - sum(o for _, o in inside))
    return error / len(probabilities)
