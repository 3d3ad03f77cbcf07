"""How far each rater can be trusted: those who contradict the crowd count less.

A rater says what they think with probability r, and the opposite else; an opinion's likelihood is
that mixture. This is Crowd-BT (Chen, Bennett, Collins-Thompson and Horvitz 2013, "Pairwise ranking
aggregation in a crowdsourced setting") with a model's scores in place of one strength an item, and
a Beta prior on r, of which the posterior is summed over a grid.

Not guaranteed where about half of the opinions or more are hostile, be they one person's: then the
crowd is those who lie. A rater with a taste of their own cannot be told from one who lies.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

# Beta prior: nine of ten opinions are meant, which weighs as much as five opinions.
_PRIOR_ALPHA: Final = 4.5
_PRIOR_BETA: Final = 0.5
_PRIOR: Final = _PRIOR_ALPHA / (_PRIOR_ALPHA + _PRIOR_BETA)
_GRID: Final = 400


@dataclass(frozen=True, slots=True)
class Prediction:
    """How likely an opinion is to a model that was not trained on it.

    Attributes:
        rater: Whose; empty for nobody in particular.
        meant: Log-likelihood of the opinion, nats.
        opposite: Of the opposite opinion.

    """

    rater: str
    meant: float
    opposite: float


class Reliabilities:
    """The probability that each rater says what they think.

    One who is not known has the prior's; nobody in particular (an empty name) is believed.
    """

    def __init__(self, by_rater: Mapping[str, float] | None = None) -> None:
        """Take what is known."""
        self._by_rater = dict(by_rater or {})

    def of(self, rater: str) -> float:
        """Return a rater's probability."""
        return self._by_rater.get(rater, _PRIOR) if rater else 1.0

    def weight(self, rater: str) -> float:
        """Return how much an opinion tells, 0 (a coin would do as well) to 1."""
        return max(0.0, 2 * self.of(rater) - 1)

    def change(self, other: "Reliabilities") -> float:
        """Return the largest difference to another estimate of the same raters."""
        return max((abs(r - other.of(rater)) for rater, r in self._by_rater.items()), default=0.0)

    def count_unreliable(self) -> int:
        """Count those who contradict the crowd more often than not."""
        return sum(r < 0.5 for r in self._by_rater.values())


def mixture_losses(meant_E: Tensor, opposite_E: Tensor, reliability_E: Tensor) -> Tensor:
    """Return the negative log-likelihood of each opinion, [E].

    Args:
        meant_E: Log-likelihoods of the opinions as they stand.
        opposite_E: Of the opposite opinions.
        reliability_E: Probability that each is meant; at 1 this is `-meant_E`.

    """
    return -torch.logaddexp(reliability_E.log() + meant_E, (1 - reliability_E).log() + opposite_E)


def estimate(forecasts: Iterable[Prediction]) -> tuple[Reliabilities, float]:
    """Return each rater's probability (its posterior mean), and the evidence.

    The evidence is the logarithm of how likely all opinions were, in nats, whatever the raters'
    probabilities: a model that forecasts nothing has no less of it than one that is sure and
    often wrong.
    """
    by_rater: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for forecast in forecasts:
        by_rater[forecast.rater].append((forecast.meant, forecast.opposite))
    evidence = sum(meant for meant, _ in by_rater.pop("", []))
    means = {}
    for rater, own in by_rater.items():
        means[rater], more = _posterior(torch.tensor(own, dtype=torch.float64))
        evidence += more
    return Reliabilities(means), evidence


def _posterior(likelihoods_N2: Tensor) -> tuple[float, float]:
    # With r = 1 - u^2 the prior's density, which has no bound at 1, is (1 - u^2)^(_MEANT - 1)
    # times u^(2 _NOT_MEANT - 1).
    grid_G = (torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID
    reliabilities_G = 1 - grid_G**2
    prior_G = (_PRIOR_ALPHA - 1) * reliabilities_G.log() + (2 * _PRIOR_BETA - 1) * grid_G.log()
    meant_1N, opposite_1N = likelihoods_N2.T[:, None]
    mixtures_GN = -mixture_losses(meant_1N, opposite_1N, reliabilities_G[:, None])
    joint_G = prior_G.log_softmax(0) + mixtures_GN.sum(-1)
    mean = (joint_G.softmax(0) * reliabilities_G).sum().item()
    return mean, joint_G.logsumexp(0).item()
