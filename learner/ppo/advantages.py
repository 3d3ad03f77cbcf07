"""Rewards per token, generalised advantage estimation, and whitening.

Shapes: B answers, T tokens of a padded row, N tokens without padding.
"""

from typing import Final

import torch
from torch import Tensor

_DUPLICATE_PENALTY: Final = 2.0  # of an answer that the policy always gives and the reference never


def token_rewards(
    log_probs_BT: Tensor,
    reference_log_probs_BT: Tensor,
    scores_B: Tensor,
    mask_BT: Tensor,
    kl_coef: float,
) -> Tensor:
    """Return -kl_coef * (log p - log p_ref) at every answer token, plus the score at the last one.

    Args:
        log_probs_BT: Log-probabilities of the tokens under the policy.
        reference_log_probs_BT: Log-probabilities of the tokens under the reference policy.
        scores_B: Score of each answer.
        mask_BT: True at answer tokens; every row has at least one.
        kl_coef: KL coefficient.

    """
    rewards_BT = torch.where(mask_BT, -kl_coef * (log_probs_BT - reference_log_probs_BT), 0.0)
    rows_B = torch.arange(len(scores_B), device=scores_B.device)
    rewards_BT[rows_B, _last_index(mask_BT)] += scores_B
    return rewards_BT


def duplicate_penalties(log_probs_BT: Tensor, reference_log_probs_BT: Tensor) -> Tensor:
    """Return the penalty on the score of each answer for being given again and again, [B].

    The probability of an answer is the expected share of its duplicates among other answers to the
    prompt. Only what exceeds the reference policy's counts: some questions have one answer.

    Args:
        log_probs_BT: Log-probabilities of the tokens under the policy, 0 off the answers.
        reference_log_probs_BT: Log-probabilities of the tokens under the reference policy.

    """
    own_B, reference_B = (x.sum(-1).exp() for x in (log_probs_BT, reference_log_probs_BT))
    return _DUPLICATE_PENALTY * (own_B - reference_B).clamp_min(0.0)


def _last_index(mask_BT: Tensor) -> Tensor:
    """Return the index of the last true entry of each row, [B]."""
    indices_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return torch.where(mask_BT, indices_T, -1).amax(-1)


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns (Schulman et al. 2016, arXiv:1506.02438), zero off the mask.

    Args:
        rewards_BT: Reward of each token.
        values_BT: Value of the state in which each token was chosen.
        mask_BT: True at answer tokens, which are contiguous in each row; the episode ends after
            the last one.
        gamma: Discount factor.
        lam: Exponential weight of the estimators.

    """
    advantages_BT = torch.zeros_like(rewards_BT)
    following_B = torch.zeros_like(rewards_BT[:, 0])
    value_B = torch.zeros_like(following_B)
    for t in reversed(range(rewards_BT.shape[1])):
        chosen_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * value_B - values_BT[:, t]
        following_B = torch.where(chosen_B, delta_B + gamma * lam * following_B, following_B)
        value_B = torch.where(chosen_B, values_BT[:, t], value_B)
        advantages_BT[:, t] = torch.where(chosen_B, following_B, 0.0)
    returns_BT = torch.where(mask_BT, advantages_BT + values_BT, 0.0)
    return advantages_BT, returns_BT


def whiten(values_N: Tensor, weights_N: Tensor) -> Tensor:
    """Return the values shifted and scaled to weighted mean 0 and deviation 1.

    If all weights are 0, the values are returned unchanged.
    """
    total = weights_N.sum()
    if total == 0:
        return values_N
    centred_N = values_N - (weights_N * values_N).sum() / total
    variance = (weights_N * centred_N**2).sum() / total
    return centred_N / (variance.sqrt() + 1e-8)


def adapted_kl_coef(kl_coef: float, kl: float, *, target: float, step: float = 0.1) -> float:
    """Return the KL coefficient after one step towards the target divergence.

    A proportional controller whose error is clipped to 0.2 (Ziegler et al. 2019,
    arXiv:1909.08593, 2.2).

    Args:
        kl_coef: Present KL coefficient.
        kl: Measured divergence, in nats per answer.
        target: Target divergence, in nats per answer.
        step: Largest relative change of the coefficient.

    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + step * error / 0.2)
