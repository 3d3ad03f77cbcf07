"""Losses and estimators of PPO, as pure functions on tensors.

Shapes: N answer tokens, concatenated without padding; V entries of the vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def policy_loss(
    log_probs_N: Tensor,
    old_log_probs_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    *,
    clip: float,
    count: float,
) -> Tensor:
    """Return PPO's clipped surrogate loss (Schulman et al. 2017, arXiv:1707.06347, eq. 7).

    For tokens sampled by an earlier policy this is the decoupled objective: the ratio is clipped
    around the policy at the start of the iteration, and weighted by that policy's ratio to the
    one that sampled (Hilton et al. 2022, "Batch size-invariance for policy optimization").

    Args:
        log_probs_N: Log-probabilities under the policy in training.
        old_log_probs_N: Log-probabilities under the policy at the start of the iteration.
        advantages_N: Advantages.
        weights_N: Truncated importance weights of that policy to the sampler.
        clip: Maximum distance of the ratio from 1.
        count: Number of answer tokens in the whole minibatch, of which these may be a part.

    """
    ratio_N = (log_probs_N - old_log_probs_N).exp()
    clipped_N = ratio_N.clamp(1 - clip, 1 + clip)
    gain_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    return -(weights_N * gain_N).sum() / count


def clipped_share(
    log_probs_N: Tensor, old_log_probs_N: Tensor, *, clip: float, count: float
) -> Tensor:
    """Return the share of tokens whose ratio is outside the clipping range."""
    ratio_N = (log_probs_N - old_log_probs_N).exp()
    return ((ratio_N - 1).abs() > clip).sum() / count


def value_loss(
    values_N: Tensor,
    old_values_N: Tensor,
    returns_N: Tensor,
    weights_N: Tensor,
    *,
    clip: float,
    count: float,
) -> Tensor:
    """Return half the squared error: the larger one of the value and of the clipped value.

    Args:
        values_N: Values from the critic in training.
        old_values_N: Values from the critic at the start of the iteration.
        returns_N: Returns.
        weights_N: Importance weights as in `policy_loss`: answers of an earlier policy have other
            returns than this policy's.
        clip: Maximum distance of the clipped value from the old value.
        count: Number of answer tokens in the whole minibatch, of which these may be a part.

    """
    clipped_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    errors_N = torch.maximum((values_N - returns_N) ** 2, (clipped_N - returns_N) ** 2)
    return 0.5 * (weights_N * errors_N).sum() / count


def importance_weights(old_log_probs_N: Tensor, sampler_log_probs_N: Tensor, cap: float) -> Tensor:
    """Return min(p_trainer / p_sampler, cap) for each token, without gradient.

    Truncated importance sampling between the engine that sampled and the one that trains
    (Ionides 2008; Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy").
    """
    return (old_log_probs_N - sampler_log_probs_N).exp().clamp_max(cap).detach()


def token_log_probs(logits_NV: Tensor, tokens_N: Tensor, temperature: float) -> Tensor:
    """Return the log-probability of each token under its logits."""
    return -F.cross_entropy(_tempered(logits_NV, temperature), tokens_N, reduction="none")


def _tempered(logits_NV: Tensor, temperature: float) -> Tensor:
    logits_NV = logits_NV.float()
    return logits_NV if temperature == 1.0 else logits_NV / temperature


@torch.no_grad()
def token_entropies(logits_NV: Tensor, temperature: float) -> Tensor:
    """Return the entropy of each distribution, in nats."""
    log_probs_NV = _tempered(logits_NV, temperature).log_softmax(-1)
    return -(log_probs_NV.exp() * log_probs_NV).sum(-1)


def effective_sample_size(weights_N: Tensor) -> Tensor:
    """Return Kish's effective sample size as a share of N: (sum w)^2 / (N sum w^2).

    It is 1 if all weights are equal and 1/N if one outweighs all others (Kish 1965).
    """
    return weights_N.sum() ** 2 / (len(weights_N) * (weights_N**2).sum()).clamp_min(1e-12)
