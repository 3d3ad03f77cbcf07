"""Estimate the reliability of each rater: those who contradict the others count less.

A rater says what they mean with probability r and the opposite otherwise, and the likelihood of a
vote is that mixture. This is Crowd-BT (Chen, Bennett, Collins-Thompson and Horvitz 2013, "Pairwise
ranking aggregation in a crowdsourced setting") with a model's scores in place of one strength per
item, and a Beta prior on r whose posterior is summed over a grid.

Limits: it assumes that fewer than about half of the votes are hostile, even if they all come from
one person; otherwise the hostile raters are taken for the majority. A rater with unusual
preferences cannot be distinguished from one who lies.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.reward.likelihoods import mixture_losses

# Beta prior: nine votes in ten are meant, with the weight of five votes.
_PRIOR_ALPHA: Final = 4.5
_PRIOR_BETA: Final = 0.5
_PRIOR_MEAN: Final = _PRIOR_ALPHA / (_PRIOR_ALPHA + _PRIOR_BETA)
_GRID: Final = 400


@dataclass(frozen=True, slots=True)
class Prediction:
    """The log-likelihood of a vote under a model that was not fitted to it.

    Attributes:
        rater: Name of the rater; empty if unknown.
        meant: Log-likelihood of the vote, in nats.
        opposite: Log-likelihood of the opposite vote, in nats.
        weight: Share of a whole vote that the vote counts for.

    """

    rater: str
    meant: float
    opposite: float
    weight: float = 1.0


class Reliabilities:
    """The probability of each rater that a vote is what they mean.

    Raters without an estimate have the prior's mean. A vote without a rater (an empty name) is
    taken as meant.
    """

    def __init__(self, by_rater: Mapping[str, float] | None = None) -> None:
        """Keep the estimates by rater."""
        self._by_rater = dict(by_rater or {})

    def of(self, rater: str) -> float:
        """Return the reliability of a rater."""
        return self._by_rater.get(rater, _PRIOR_MEAN) if rater else 1.0

    def weight(self, rater: str) -> float:
        """Return the weight of a rater's votes, from 0 (no better than a coin) to 1."""
        return max(0.0, 2 * self.of(rater) - 1)

    def change(self, other: "Reliabilities") -> float:
        """Return the largest difference from another estimate of the same raters."""
        return max((abs(r - other.of(rater)) for rater, r in self._by_rater.items()), default=0.0)

    def count_unreliable(self) -> int:
        """Return the number of raters whose votes are more often not meant than meant."""
        return sum(r < 0.5 for r in self._by_rater.values())


def estimate(predictions: Iterable[Prediction]) -> tuple[Reliabilities, float]:
    """Return the posterior mean of each rater's reliability, and the log-evidence in nats.

    The evidence is the likelihood of all votes with the raters' reliabilities integrated out. It
    does not favour a model that is confident and often wrong over one that predicts nothing.
    """
    by_rater: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for one in predictions:
        by_rater[one.rater].append((one.meant, one.opposite, one.weight))
    evidence = sum(meant * weight for meant, _, weight in by_rater.pop("", []))
    means = {}
    for rater, votes in by_rater.items():
        means[rater], more = _posterior(torch.tensor(votes, dtype=torch.float64))
        evidence += more
    return Reliabilities(means), evidence


def _posterior(votes_N3: Tensor) -> tuple[float, float]:
    """Return the posterior mean of one rater's reliability, and the log-evidence of N votes.

    Args:
        votes_N3: Log-likelihood of each vote and of its opposite, and its weight.

    """
    # The prior's density is unbounded at r = 1. With r = 1 - u^2 it becomes
    # (1 - u^2)^(_PRIOR_ALPHA - 1) * u^(2 * _PRIOR_BETA - 1).
    grid_G = (torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID
    reliability_G = 1 - grid_G**2
    prior_G = (_PRIOR_ALPHA - 1) * reliability_G.log() + (2 * _PRIOR_BETA - 1) * grid_G.log()
    meant_1N, opposite_1N, weight_1N = votes_N3.T[:, None]
    mixtures_GN = -mixture_losses(meant_1N, opposite_1N, reliability_G[:, None])
    joint_G = prior_G.log_softmax(0) + (mixtures_GN * weight_1N).sum(-1)
    mean = (joint_G.softmax(0) * reliability_G).sum().item()
    return mean, joint_G.logsumexp(0).item()
