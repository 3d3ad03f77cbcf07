"""How far each rater can be trusted: those who contradict the crowd count less.

A rater says what they think with probability r, and the opposite else; an opinion's likelihood is
that mixture. This is Crowd-BT (Chen, Bennett, Collins-Thompson and Horvitz 2013, "Pairwise ranking
aggregation in a crowdsourced setting") with the reward model's scores in place of one strength an
item, and a Beta prior on r, found by expectation and maximisation (Dawid and Skene 1979).

Not guaranteed where most opinions are hostile: then the crowd
is those who lie. A rater with a taste of their own cannot be told from one who lies.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

# Beta prior: nine of ten opinions are meant, which weighs as much as five opinions.
_MEANT: Final = 4.5
_NOT_MEANT: Final = 0.5
_PRIOR: Final = _MEANT / (_MEANT + _NOT_MEANT)
_CAP: Final = 0.98
_ROUNDS: Final = 30


@dataclass(frozen=True, slots=True)
class Forecast:
    """How likely an opinion is to a model that was not trained on it.

    Attributes:
        rater: Whose.
        advantage: Log-likelihood of the opinion less that of its opposite, nats.

    """

    rater: str
    advantage: float


class Reliabilities:
    """The probability that each rater says what they think.

    One who is not known has the prior's; nobody in particular (an empty name) is believed.
    """

    def __init__(self, by_rater: Mapping[str, float] | None = None) -> None:
        """Take what is known."""
        self._by_rater = dict(by_rater or {})

    def of(self, rater: str) -> float:
        """Give a rater's probability."""
        return self._by_rater.get(rater, _PRIOR) if rater else 1.0

    def weight(self, rater: str) -> float:
        """Give how much an opinion tells, 0 (a coin would do as well) to 1."""
        return max(0.0, 2 * self.of(rater) - 1)

    def change(self, other: "Reliabilities") -> float:
        """Give the largest difference to another estimate of the same raters."""
        return max((abs(r - other.of(rater)) for rater, r in self._by_rater.items()), default=0.0)

    def log_prior(self) -> float:
        """Give the logarithm of the prior's density, but for a constant."""
        return sum(
            _MEANT * math.log(r) + _NOT_MEANT * math.log(1 - r) for r in self._by_rater.values()
        )

    def doubted(self) -> int:
        """Count those who contradict the crowd more often than not."""
        return sum(r < 0.5 for r in self._by_rater.values())


def mixture_losses(meant_E: Tensor, opposite_E: Tensor, reliability_E: Tensor) -> Tensor:
    """Give the negative log-likelihood of each opinion, [E].

    Args:
        meant_E: Log-likelihoods of the opinions as they stand.
        opposite_E: Of the opposite opinions.
        reliability_E: Probability that each is meant; at 1 this is `-meant_E`.

    """
    return -torch.logaddexp(reliability_E.log() + meant_E, (1 - reliability_E).log() + opposite_E)


def estimate(forecasts: Iterable[Forecast]) -> Reliabilities:
    """Give each rater's probability, by expectation and maximisation from the prior."""
    by_rater: dict[str, list[float]] = defaultdict(list)
    for forecast in forecasts:
        if forecast.rater:
            by_rater[forecast.rater].append(forecast.advantage)
    return Reliabilities({rater: _posterior_mean(own) for rater, own in by_rater.items()})


def _posterior_mean(advantages: Sequence[float]) -> float:
    advantages_N = torch.tensor(advantages, dtype=torch.float64)
    share = _PRIOR
    for _ in range(_ROUNDS):
        odds = torch.tensor(share / (1 - share), dtype=torch.float64).log()
        meant = torch.sigmoid(advantages_N + odds).sum().item()
        share = (_MEANT + meant) / (_MEANT + _NOT_MEANT + len(advantages))
        share = min(share, _CAP)
    return share
