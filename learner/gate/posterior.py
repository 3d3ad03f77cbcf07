"""The posterior of a linear model of votes: what it does not know, besides what it knows.

Laplace's approximation of a Bayesian logistic model (MacKay 1992, "The evidence framework applied
to classification networks"; Chu and Ghahramani 2005, "Preference learning with Gaussian processes",
with a linear kernel). How strong a taste is, is not known either: each strength of the prior
counts by its evidence. A single strength that predicts best would be too sure that what it cannot
see is not there.

Shapes: D features, S draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.reward.linear import LinearFits


@dataclass(frozen=True, slots=True)
class Posterior:
    """Normal approximation of the weights' posterior under a normal prior.

    Attributes:
        mean_D: Most probable weights, in float64.
        factor_DD: Lower Cholesky factor of the inverse of the covariance.
        log_tie: log nu of Davidson's model of ties, a scalar.
        log_evidence: Logarithm of the probability of the votes under this prior, in nats.

    """

    mean_D: Tensor
    factor_DD: Tensor
    log_tie: Tensor
    log_evidence: float


def posterior(fits: LinearFits, reliability_E: Tensor, penalty: float) -> Posterior:
    """Fit the weights to votes under a prior of the variance 1 / penalty.

    Args:
        fits: Single model (`folds=1`) of the votes.
        reliability_E: Probability that each example is meant.
        penalty: Inverse variance of the prior.

    """
    parameters = fits.initial_parameters()
    fits.fit(parameters, reliability_E, penalty)
    weights_D, log_tie = parameters[0].detach().squeeze(-1).double(), parameters[1].detach()
    factor_DD = torch.linalg.cholesky(fits.precision(parameters, reliability_E, penalty))
    log_evidence = (
        -fits.total_loss(parameters, reliability_E)
        - penalty / 2 * (weights_D @ weights_D).item()
        + len(weights_D) / 2 * math.log(penalty)
        - factor_DD.diagonal().log().sum().item()
    )
    return Posterior(weights_D, factor_DD, log_tie, log_evidence)


def draw_weights(posteriors: Sequence[Posterior], *, draws: int, seed: int) -> Tensor:
    """Draw weights from a mixture of posteriors, each of which counts by its evidence, [D, S].

    Args:
        posteriors: Posteriors of the same weights under different priors.
        draws: Number of draws, S.
        seed: Random seed.

    """
    generator = torch.Generator().manual_seed(seed)
    evidence = torch.tensor([one.log_evidence for one in posteriors], dtype=torch.float64)
    chosen_S = torch.multinomial(evidence.softmax(0), draws, True, generator=generator)
    size = len(posteriors[0].mean_D)
    noise_DS = torch.randn(size, draws, generator=generator, dtype=torch.float64)
    parts = []
    for number, one in enumerate(posteriors):
        own_DS = noise_DS[:, chosen_S == number].to(one.factor_DD.device)
        deviations_DS = torch.linalg.solve_triangular(one.factor_DD.T, own_DS, upper=True)
        parts.append(one.mean_D[:, None] + deviations_DS)
    return torch.cat(parts, dim=1)
