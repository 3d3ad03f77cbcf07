"""Likelihoods of preferences given scores: pairs with ties, and graded approval.

Shapes: P pairs, M approvals.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def davidson_log_probs(difference: Tensor, log_tie: Tensor) -> Tensor:
    """Return log-probabilities of win, loss and tie, [..., 3], by Davidson's model of ties.

    With strengths exp(s): win : loss : tie = exp(d/2) : exp(-d/2) : nu, for d the difference of
    scores. Davidson 1970, "On extending the Bradley-Terry model to accommodate ties". Without
    ties nu falls to 0, and Bradley-Terry is left.

    Args:
        difference: Score of the first minus score of the second, any shape.
        log_tie: log nu, one number.

    """
    logits = torch.stack([difference / 2, -difference / 2, log_tie.expand_as(difference)], dim=-1)
    return logits.log_softmax(-1)


def pair_log_likelihoods(
    differences_P: Tensor, outcomes_P: Tensor, log_tie: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the log-likelihood of each pair's outcome, and that of the opposite outcome.

    Args:
        differences_P: Score of the first minus score of the second.
        outcomes_P: 0 where the first was preferred, 1 the second, 2 a tie (its own opposite).

    """
    log_probs_P3 = davidson_log_probs(differences_P, log_tie)
    opposites_P = torch.where(outcomes_P == 2, 2, 1 - outcomes_P)
    return (
        log_probs_P3.gather(-1, outcomes_P[:, None]).squeeze(-1),
        log_probs_P3.gather(-1, opposites_P[:, None]).squeeze(-1),
    )


def approval_log_likelihoods(scores_M: Tensor, approvals_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logistic log-likelihood of graded approval in [0, 1], and of the opposite.

    Args:
        scores_M: Score less the offset at which people are as likely to approve as not.
        approvals_M: A thumb is 0 or 1.

    """
    up_M, down_M = F.logsigmoid(scores_M), F.logsigmoid(-scores_M)
    return (
        approvals_M * up_M + (1 - approvals_M) * down_M,
        (1 - approvals_M) * up_M + approvals_M * down_M,
    )
