"""Losses and estimators of preference learning and PPO, as pure functions on tensors.

Shapes: B sequences, T tokens, K candidates. Masks are boolean; masked-out tokens get no gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def davidson_log_probs(difference: Tensor, log_tie: Tensor) -> Tensor:
    """Give log-probabilities of win, loss and tie, [..., 3], by Davidson's model of ties.

    With strengths exp(s): win : loss : tie = exp(d/2) : exp(-d/2) : nu, for d the difference of
    scores. Davidson 1970, "On extending the Bradley-Terry model to accommodate ties". Without
    ties nu falls to 0, and Bradley-Terry is left.

    Args:
        difference: Score of the first minus score of the second, any shape.
        log_tie: log nu, one number.

    """
    logits = torch.stack([difference / 2, -difference / 2, log_tie.expand_as(difference)], dim=-1)
    return logits.log_softmax(-1)


def ranking_loss(scores_K: Tensor, ranks_K: Tensor, log_tie: Tensor) -> Tensor:
    """Give the mean negative log-likelihood over all pairs of one ranking.

    All pairs of a ranking are one batch element (Ouyang et al. 2022, arXiv:2203.02155, 3.5), so
    that a ranking of many candidates counts as one opinion.

    Args:
        scores_K: Scores of the candidates.
        ranks_K: Their ranks, 0 is best; equal ranks are ties.

    """
    count = scores_K.shape[0]
    assert count >= 2, "a ranking has at least two candidates"
    first, second = torch.triu_indices(count, count, offset=1)
    log_probs_P3 = davidson_log_probs(scores_K[first] - scores_K[second], log_tie)
    sign_P = torch.sign(ranks_K[second] - ranks_K[first])
    outcome_P = torch.where(sign_P > 0, 0, torch.where(sign_P < 0, 1, 2))
    return -log_probs_P3.gather(-1, outcome_P[:, None]).mean()


def pointwise_loss(scores_N: Tensor, targets_N: Tensor, offset: Tensor) -> Tensor:
    """Give the mean logistic loss of graded approval in [0, 1] (a thumb is 0 or 1).

    The offset is the score at which people are as likely to approve as not; it is learned.
    """
    return F.binary_cross_entropy_with_logits(scores_N - offset, targets_N)


def masked_sum_over(values_BT: Tensor, mask_BT: Tensor, count: float) -> Tensor:
    """Sum the masked tokens and divide by a global token count (not this batch's own)."""
    return torch.where(mask_BT, values_BT, 0.0).sum() / count


def policy_loss(
    log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    advantages_BT: Tensor,
    weights_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    count: float,
) -> Tensor:
    """Give PPO's clipped surrogate loss (Schulman et al. 2017, arXiv:1707.06347, eq. 7).

    Args:
        weights_BT: Truncated importance weights of trainer to sampler.
        mask_BT: Tokens that the policy chose.
        count: Chosen tokens of the whole minibatch, of which this may be a part.

    """
    ratio_BT = torch.where(mask_BT, log_probs_BT - old_log_probs_BT, 0.0).exp()
    clipped_BT = ratio_BT.clamp(1 - clip, 1 + clip)
    gain_BT = torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    return masked_sum_over(-weights_BT * gain_BT, mask_BT, count)


def clipped_share(
    log_probs_BT: Tensor, old_log_probs_BT: Tensor, mask_BT: Tensor, *, clip: float, count: float
) -> Tensor:
    """Give the share of tokens whose ratio is outside the clipping range, for logs."""
    ratio_BT = (log_probs_BT - old_log_probs_BT).exp()
    return masked_sum_over(((ratio_BT - 1).abs() > clip).float(), mask_BT, count)


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    count: float,
) -> Tensor:
    """Give half the squared error, the worse of the value and the value clipped to the old one."""
    values_BT = torch.where(mask_BT, values_BT, returns_BT)  # masked: no error, no gradient
    near_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    worse_BT = torch.maximum((values_BT - returns_BT) ** 2, (near_BT - returns_BT) ** 2)
    return 0.5 * masked_sum_over(worse_BT, mask_BT, count)


def importance_weights(
    old_log_probs_BT: Tensor, sampler_log_probs_BT: Tensor, cap: float
) -> Tensor:
    """Give min(p_trainer / p_sampler, cap) for each token, without gradient.

    Truncated importance sampling between the engine that sampled and the one that trains
    (Ionides 2008; Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy").
    """
    return (old_log_probs_BT - sampler_log_probs_BT).exp().clamp_max(cap).detach()


def kl_k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Estimate KL(policy, reference) by log p/q: unbiased, may be negative (Schulman 2020)."""
    return log_probs - reference_log_probs


def kl_k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Estimate KL(policy, reference) by q/p - 1 - log q/p: unbiased, never negative."""
    log_ratio = reference_log_probs - log_probs
    return log_ratio.exp() - 1 - log_ratio


def token_log_probs(logits_BTV: Tensor, ids_BT: Tensor, temperature: float) -> Tensor:
    """Give each token's log-probability, predicted one before; 0 for the first. [B, T]."""
    log_probs_BTV = (logits_BTV[:, :-1].float() / temperature).log_softmax(-1)
    chosen_BT = log_probs_BTV.gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    return F.pad(chosen_BT, (1, 0))


@torch.no_grad()
def token_entropies(logits_BTV: Tensor, temperature: float) -> Tensor:
    """Give the entropy in nats of each token's distribution; 0 for the first token. [B, T]."""
    log_probs_BTV = (logits_BTV[:, :-1].float() / temperature).log_softmax(-1)
    return F.pad(-(log_probs_BTV.exp() * log_probs_BTV).sum(-1), (1, 0))
