"""Likelihoods of feedback given scores: pairs with ties, and graded approvals.

A rater means what they say with the probability that is their reliability, and the opposite
otherwise, so each example's likelihood is a mixture of the two (Crowd-BT, see
`learner.reward.reliability`).

Shapes: P pairs, M approvals, E training examples.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def davidson_log_probs(difference: Tensor, log_tie: Tensor) -> Tensor:
    """Return log-probabilities of win, loss and tie, [..., 3], in Davidson's model of ties.

    With strengths exp(s), win : loss : tie = exp(d/2) : exp(-d/2) : nu, where d is the difference
    of the scores. Davidson 1970, "On extending the Bradley-Terry model to accommodate ties". With
    nu = 0 it is the Bradley-Terry model.

    Args:
        difference: Score of the first answer minus score of the second, any shape.
        log_tie: log nu, a scalar.

    """
    logits = torch.stack([difference / 2, -difference / 2, log_tie.expand_as(difference)], dim=-1)
    return logits.log_softmax(-1)


def pair_log_likelihoods(
    differences_P: Tensor, outcomes_P: Tensor, log_tie: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the log-likelihood of each pair's outcome and of the opposite outcome, both [P].

    Args:
        differences_P: Score of the first answer minus score of the second.
        outcomes_P: 0 if the first answer was preferred, 1 if the second, 2 for a tie (which is
            its own opposite).
        log_tie: log nu, a scalar.

    """
    log_probs_P3 = davidson_log_probs(differences_P, log_tie)
    opposites_P = torch.where(outcomes_P == 2, 2, 1 - outcomes_P)
    return (
        log_probs_P3.gather(-1, outcomes_P[:, None]).squeeze(-1),
        log_probs_P3.gather(-1, opposites_P[:, None]).squeeze(-1),
    )


def approval_log_likelihoods(scores_M: Tensor, approvals_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logistic log-likelihood of each approval and of its opposite, both [M].

    Args:
        scores_M: Score minus the offset at which approval and disapproval are equally likely.
        approvals_M: Approvals from 0 to 1; thumbs are 0 or 1.

    """
    up_M, down_M = F.logsigmoid(scores_M), F.logsigmoid(-scores_M)
    return (
        approvals_M * up_M + (1 - approvals_M) * down_M,
        (1 - approvals_M) * up_M + approvals_M * down_M,
    )


def mixture_losses(meant_E: Tensor, opposite_E: Tensor, reliability_E: Tensor) -> Tensor:
    """Return the negative log-likelihood of each training example in nats, [E].

    Args:
        meant_E: Log-likelihood of each example if the rater meant it.
        opposite_E: Log-likelihood of each example if the rater meant the opposite.
        reliability_E: Probability that each example is meant; 1 gives `-meant_E`.

    """
    return -torch.logaddexp(reliability_E.log() + meant_E, (1 - reliability_E).log() + opposite_E)


def pair_information(differences_P: Tensor, log_tie: Tensor, reliability_P: Tensor) -> Tensor:
    """Return the Fisher information of each pair's outcome about its difference, [P].

    Args:
        differences_P: Score of the first answer minus score of the second.
        log_tie: log nu, a scalar.
        reliability_P: Probability that the rater means the outcome and not its opposite.

    """
    probs_P3 = davidson_log_probs(differences_P, log_tie).exp()
    win_P, loss_P, tie_P = probs_P3.unbind(-1)
    mean_P = (win_P - loss_P) / 2
    slope_P3 = probs_P3 * torch.stack([0.5 - mean_P, -0.5 - mean_P, -mean_P], dim=-1)
    rest_P = 1 - reliability_P
    win_slope_P, loss_slope_P, tie_slope_P = slope_P3.unbind(-1)
    return (
        _information(
            reliability_P * win_P + rest_P * loss_P,
            reliability_P * win_slope_P + rest_P * loss_slope_P,
        )
        + _information(
            reliability_P * loss_P + rest_P * win_P,
            reliability_P * loss_slope_P + rest_P * win_slope_P,
        )
        + _information(tie_P, tie_slope_P)
    )


def approval_information(scores_M: Tensor, reliability_M: Tensor) -> Tensor:
    """Return the Fisher information of each approval about its answer's score, [M].

    Args:
        scores_M: Score minus the offset at which approval and disapproval are equally likely.
        reliability_M: Probability that the rater means the approval and not its opposite.

    """
    up_M = scores_M.sigmoid()
    meant_M = reliability_M * up_M + (1 - reliability_M) * (1 - up_M)
    slope_M = (2 * reliability_M - 1) * up_M * (1 - up_M)
    return _information(meant_M, slope_M) + _information(1 - meant_M, -slope_M)


def _information(probability: Tensor, slope: Tensor) -> Tensor:
    """Return what one outcome adds to the Fisher information, given its probability's slope."""
    return slope**2 / probability.clamp_min(1e-12)
