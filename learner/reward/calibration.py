"""Whether a probability of .7 means seven times in ten: temperature and calibration error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_BINS: Final = 10
_RANGE: Final = (0.02, 50.0)  # of the temperature
_HALVINGS: Final = 50


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair of which somebody preferred one.

    Attributes:
        difference: Score of the first less score of the second.
        weight: How far the rater is trusted.
        key: Hash of the prompt.

    """

    difference: float
    first_won: bool
    weight: float
    key: str


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


def best_temperature(judged: Sequence[Judged]) -> float:
    """Return the temperature under which these outcomes are likeliest; 1 where there are none.

    One number divides all differences (Guo et al. 2017, arXiv:1706.04599). The likelihood is
    convex in its inverse, so where the slope changes its sign is found by halving.
    """
    if not judged:
        return 1.0

    def slope(inverse: float) -> float:
        return sum(
            one.weight * one.difference * (_sigmoid(one.difference * inverse) - one.first_won)
            for one in judged
        )

    low, high = 1 / _RANGE[1], 1 / _RANGE[0]
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def calibration_error(judged: Sequence[Judged], temperature: Sequence[float]) -> float:
    """Return the expected calibration error over ten bins of equal width (Guo et al. 2017).

    Each pair is read from the side of the answer that the scores prefer, so that which one is
    called the first does not matter, and counts by its weight.
    """
    gaps = [0.0] * _BINS
    total = sum(one.weight for one in judged)
    for one, divisor in zip(judged, temperature, strict=True):
        confidence = _sigmoid(abs(one.difference) / divisor)
        right = (one.difference > 0) == one.first_won
        gaps[min(int(confidence * _BINS), _BINS - 1)] += one.weight * (confidence - right)
    return sum(map(abs, gaps)) / total if total else 0.0


def calibration(judged: Sequence[Judged]) -> tuple[float, float, float]:
    """Return the best temperature, the calibration error with one, and without.

    A temperature is not measured on the pairs that it was found on: the error is that of each half
    of the prompts with the other half's.
    """
    halves = [[one for one in judged if int(one.key[-8:], 16) % 2 == h] for h in (0, 1)]
    others = [best_temperature(halves[1]), best_temperature(halves[0])]
    crossed = [*halves[0], *halves[1]]
    temperatures = [t for t, half in zip(others, halves, strict=True) for _ in half]
    return (
        best_temperature(judged),
        calibration_error(crossed, temperatures),
        calibration_error(judged, [1.0] * len(judged)),
    )
