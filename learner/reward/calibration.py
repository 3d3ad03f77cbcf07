"""Calibration of a reward model's probabilities: temperature and expected calibration error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_BINS: Final = 10
_TEMPERATURES: Final = (0.02, 50.0)  # smallest and largest temperature
_BISECTIONS: Final = 50


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair of answers of which one was preferred.

    Attributes:
        difference: Score of the first answer minus score of the second.
        first_won: Whether the first answer was preferred.
        weight: Weight of the rater.
        key: Hash of the prompt.

    """

    difference: float
    first_won: bool
    weight: float
    key: str


def calibration(pairs: Sequence[ScoredPair]) -> tuple[float, float, float]:
    """Return the best temperature, the calibration error with it, and the error without it.

    To measure the error on pairs that the temperature was not fitted to, each half of the prompts
    uses the temperature of the other half.
    """
    halves = [[pair for pair in pairs if int(pair.key[-8:], 16) % 2 == h] for h in (0, 1)]
    other_temperatures = [best_temperature(halves[1]), best_temperature(halves[0])]
    crossed = [*halves[0], *halves[1]]
    temperatures = [t for t, half in zip(other_temperatures, halves, strict=True) for _ in half]
    return (
        best_temperature(pairs),
        calibration_error(crossed, temperatures),
        calibration_error(pairs, [1.0] * len(pairs)),
    )


def best_temperature(pairs: Sequence[ScoredPair]) -> float:
    """Return the temperature that maximises the likelihood of the outcomes; 1 without pairs.

    One temperature divides all differences (Guo et al. 2017, arXiv:1706.04599). The negative
    log-likelihood is convex in its inverse, so bisection finds where the slope changes sign.
    """
    if not pairs:
        return 1.0

    def slope(inverse: float) -> float:
        return sum(
            pair.weight * pair.difference * (_sigmoid(pair.difference * inverse) - pair.first_won)
            for pair in pairs
        )

    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def calibration_error(pairs: Sequence[ScoredPair], temperatures: Sequence[float]) -> float:
    """Return the expected calibration error over ten bins of equal width (Guo et al. 2017).

    Each pair is seen from the answer with the higher score, so that the order of its answers does
    not matter, and counts by its weight.

    Args:
        pairs: Pairs with their outcomes.
        temperatures: Temperature of each pair.

    """
    gaps = [0.0] * _BINS
    total = sum(pair.weight for pair in pairs)
    for pair, temperature in zip(pairs, temperatures, strict=True):
        confidence = _sigmoid(abs(pair.difference) / temperature)
        correct = (pair.difference > 0) == pair.first_won
        gaps[min(int(confidence * _BINS), _BINS - 1)] += pair.weight * (confidence - correct)
    return sum(map(abs, gaps)) / total if total else 0.0


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))
