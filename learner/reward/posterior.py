"""The posterior of a linear model of votes: what it does not know, besides what it knows.

Laplace's approximation of a Bayesian logistic model (MacKay 1992, "The evidence framework applied
to classification networks"; Chu and Ghahramani 2005, "Preference learning with Gaussian processes",
with a linear kernel). How strong a taste is, and whether it is for what an answer says or for how
it is built, is not known either: each pair of strengths of the priors of states and structure
counts by its evidence. A single pair that predicts best would be too sure that what it cannot see
is not there, and one strength for both shrinks a taste for one thing too much.

Shapes: A answers, E training examples, D features, S draws.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Final

import torch
from torch import Tensor

from learner.data.preferences import PreferenceExample
from learner.reward.calibration import ScoredPair
from learner.reward.evaluation import scored_pairs
from learner.reward.features import feature_groups
from learner.reward.linear import LinearFits, cross_fit, standardise
from learner.reward.reliability import Reliabilities

_DRAWS: Final = 1000
# Inverse variances of the weights of states and of structure, each of which has a length of 1.
_STATE_PENALTIES: Final = (1.0, 10.0, 100.0)
_STRUCTURE_PENALTIES: Final = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class ScorePosterior:
    """Draws from the posterior of the weights that score answers by their features.

    Attributes:
        mean_D: Mean of the features, which is subtracted.
        scale_D: Divisor of the features.
        weights_DS: Weights, S draws.
        log_tie: log nu of Davidson's model of ties, a scalar.

    """

    mean_D: Tensor
    scale_D: Tensor
    weights_DS: Tensor
    log_tie: Tensor

    def scores(self, features_AD: Tensor) -> Tensor:
        """Return scores of answers in log-odds, [S, A]; 0 is a typical rated answer."""
        return self.differences(features_AD, self.mean_D)

    def differences(self, features_ND: Tensor, others_ND: Tensor) -> Tensor:
        """Return differences of the scores of N pairs of answers, [S, N].

        Args:
            features_ND: Features of the first answers.
            others_ND: Features of the second answers.

        """
        pairs_ND = ((features_ND - others_ND) / self.scale_D).double()
        return (pairs_ND @ self.weights_DS).T

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the posterior, to be saved."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """Predictions of votes by models that were fitted to the votes on other prompts.

    Attributes:
        pairs: Pairs of which one answer was preferred.
        gains_E: Log-likelihood of each example minus that under equal scores, in nats.

    """

    pairs: list[ScoredPair]
    gains_E: Tensor


def fit_scores(
    features_AD: Tensor,
    examples: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
    *,
    seed: int,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> tuple[ScorePosterior, CrossFitted]:
    """Fit the posterior of the scores to votes, and predict the same votes by cross-fitting.

    Args:
        features_AD: Features of the examples' answers (`learner.reward.features`), in order.
        examples: Training examples; at least one.
        reliabilities: Reliability of each rater.
        seed: Random seed of the draws.
        raise_if_stopped: Called regularly; its exception ends the fit.

    """
    groups = feature_groups(features_AD)
    states_AD, mean_D, scale_D = standardise(features_AD, examples, groups)
    reliability_E = states_AD.new_tensor([reliabilities.of(example.rater) for example in examples])
    found = []
    for penalties in product(_STATE_PENALTIES, _STRUCTURE_PENALTIES):
        width_D = torch.cat(
            [states_AD.new_full((n,), penalty**-0.5)
             for n, penalty in zip(groups, penalties, strict=True)]
        )  # fmt: skip
        fits = LinearFits(states_AD * width_D, examples, folds=1, raise_if_stopped=raise_if_stopped)
        found.append((_widened(posterior(fits, reliability_E, 1.0), width_D.double()), width_D))
    best, width_D = max(found, key=lambda one: one[0].log_evidence)
    weights_DS = draw_weights([one for one, _ in found], draws=_DRAWS, seed=seed)
    fitted = ScorePosterior(mean_D, scale_D, weights_DS, best.log_tie)
    crossed = cross_fit(
        states_AD * width_D,
        examples,
        reliability_E,
        penalties=(1.0,),
        raise_if_stopped=raise_if_stopped,
    )
    answers_E = torch.tensor([len(e.sequences) for e in examples], device=states_AD.device)
    weights_AD = crossed.weights_ED.repeat_interleave(answers_E, dim=0)
    scores_A = (states_AD * width_D * weights_AD).sum(-1)
    pairs = scored_pairs(scores_A, examples, reliabilities)
    return fitted, CrossFitted(pairs, crossed.gains_E)


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


def _widened(found: Posterior, width_D: Tensor) -> Posterior:
    """Return the posterior of the weights of features that were multiplied by `width_D`."""
    return replace(
        found, mean_D=found.mean_D * width_D, factor_DD=found.factor_DD / width_D[:, None]
    )


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
