"""A confidence bound."""

import math


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
