"""What PPO computes for its rollouts before the first update of an iteration.

Old log-probabilities and values, importance weights, advantages and returns; and figures of the
rollouts. Nothing here changes the policy; only the critic is fitted, in the first iteration.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.models.forward import answer_logits, logits_and_states
from learner.models.ranks import Ranks
from learner.ppo.advantages import duplicate_penalties, gae, token_rewards, whiten
from learner.ppo.critic import Critic
from learner.ppo.losses import (
    effective_sample_size,
    importance_weights,
    token_entropies,
    token_log_probs,
)
from learner.ppo.reward import VotePosteriors
from learner.ppo.rollouts import RolloutBatch, finished_share
from learner.reward.model import RewardModel
from learner.settings import Dtype, PPOSettings


@dataclass(frozen=True, slots=True)
class TargetInputs:
    """Models and coefficients that targets are computed with.

    Attributes:
        policy: Policy as it is at the start of the iteration.
        reference: Reference policy of the KL penalty.
        reward: Reward model.
        posteriors: What the votes say beside the reward model; None if it scores alone.
        critic: Critic as it is at the start of the iteration.
        settings: Settings of PPO.
        kl_coef: KL coefficient of this iteration.
        unfinished_penalty: Penalty on the score of truncated answers.
        dtype: Type of the matrix products.
        fit_critic: Whether to fit the critic to the returns first, as in the first iteration.

    """

    policy: PreTrainedModel
    reference: PreTrainedModel
    reward: RewardModel
    posteriors: VotePosteriors | None
    critic: Critic
    settings: PPOSettings
    kl_coef: float
    unfinished_penalty: float
    dtype: Dtype
    fit_critic: bool = False


@dataclass(frozen=True, slots=True)
class PPOTargets:
    """Constants of the loss for the tokens of one batch, [N] each.

    Attributes:
        old_log_probs_N: Log-probabilities under the policy before the first update.
        old_values_N: Values of the critic before the first update.
        advantages_N: Advantages, whitened over all tokens of the iteration.
        returns_N: Returns.
        weights_N: Importance weights.

    """

    old_log_probs_N: Tensor
    old_values_N: Tensor
    advantages_N: Tensor
    returns_N: Tensor
    weights_N: Tensor


@dataclass(frozen=True, slots=True)
class RolloutStats:
    """Figures of an iteration's rollouts before the first update, over all processes.

    Figures per answer are of the answers sampled in this iteration, or of all if there are none.

    Attributes:
        score: Normalised score, mean.
        preferred: Probability that people prefer an answer to a typical rated one, as all votes
            tell, mean; 0 without posteriors.
        kl: log p - log p_ref per answer, mean, in nats.
        length: Tokens per answer, mean.
        ended: Share of finished answers.
        entropy: Entropy per token, mean, in nats.
        mismatch_kl: KL of the sampler's distribution to the trainer's, in nats per token; 0 if no
            answer was sampled in this iteration.
        effective_sample_size: Effective sample size of the weights of off-policy tokens, as a
            share of their number; 1 if there are none.

    """

    score: float
    preferred: float
    kl: float
    length: float
    ended: float
    entropy: float
    mismatch_kl: float
    effective_sample_size: float


@dataclass(frozen=True, slots=True)
class _ForwardOutputs:
    """Outputs of the models for one batch, without gradient.

    Attributes:
        scores_A: Normalised scores.
        preferred_SA: Probabilities that people prefer the answers, by draws from the posterior
            of all votes; S is 0 without it.
        log_probs_N: Log-probabilities under the policy.
        reference_N: Log-probabilities under the reference policy.
        entropies_N: Entropies of the policy's distributions.
        states_NH: Hidden states of the policy in which each token was chosen.

    """

    scores_A: Tensor
    preferred_SA: Tensor
    log_probs_N: Tensor
    reference_N: Tensor
    entropies_N: Tensor
    states_NH: Tensor


@torch.no_grad()
def compute_targets(
    batches: Sequence[RolloutBatch], inputs: TargetInputs, ranks: Ranks
) -> tuple[list[PPOTargets], RolloutStats]:
    """Compute the targets of each batch, and figures of all of them.

    Args:
        batches: This process's rollouts.
        inputs: Models and coefficients.
        ranks: Processes that train together.

    """
    outputs = [_forward(batch, inputs) for batch in batches]
    rewards = [_rewards(*pair, inputs) for pair in zip(batches, outputs, strict=True)]
    if inputs.fit_critic:
        _fit_critic(batches, outputs, rewards, inputs.critic, ranks)
    targets = [
        _batch_targets(*triple, inputs) for triple in zip(batches, outputs, rewards, strict=True)
    ]
    return _whiten_advantages(targets, ranks), _rollout_stats(batches, outputs, targets, ranks)


def _forward(batch: RolloutBatch, inputs: TargetInputs) -> _ForwardOutputs:
    tokens_N, temperature = batch.answers.tokens_N, inputs.settings.temperature
    reference_NV, _, states_TH = logits_and_states(inputs.reference, batch.answers, inputs.dtype)
    reference_N = token_log_probs(reference_NV, tokens_N, temperature)
    del reference_NV  # with a large vocabulary logits take most of the memory
    # With gradients as in the loss: compiled layers round differently without them.
    with torch.enable_grad():
        logits_NV, states_NH = (
            x.detach() for x in answer_logits(inputs.policy, batch.answers, inputs.dtype)
        )
    scores_A = inputs.reward.normalised(inputs.reward(batch.answers))
    preferred_SA = scores_A.new_zeros(0, len(scores_A))
    if inputs.posteriors is not None:
        scores_A, preferred_SA = inputs.posteriors.score(batch.answers, states_TH, scores_A)
    return _ForwardOutputs(
        scores_A=scores_A,
        preferred_SA=preferred_SA,
        log_probs_N=token_log_probs(logits_NV, tokens_N, temperature),
        reference_N=reference_N,
        entropies_N=token_entropies(logits_NV, temperature),
        states_NH=states_NH,
    )


def _rewards(batch: RolloutBatch, outputs: _ForwardOutputs, inputs: TargetInputs) -> Tensor:
    """Return the reward of each token, padded, [A, L]."""
    log_probs_AL, reference_AL = (
        batch.answers.padded(x) for x in (outputs.log_probs_N, outputs.reference_N)
    )
    scores_A = outputs.scores_A - duplicate_penalties(log_probs_AL, reference_AL)
    return token_rewards(
        log_probs_AL,
        reference_AL,
        torch.where(batch.finished_A, scores_A, scores_A - inputs.unfinished_penalty),
        batch.answers.answer_mask_AL,
        inputs.kl_coef,
    )


def _fit_critic(
    batches: Sequence[RolloutBatch],
    outputs: Sequence[_ForwardOutputs],
    rewards: Sequence[Tensor],
    critic: Critic,
    ranks: Ranks,
) -> None:
    """Fit the critic to the undiscounted rewards to go of all processes' rollouts."""
    returns_to_go_N = torch.cat(
        [
            rewards_AL.flip(-1).cumsum(-1).flip(-1)[batch.answers.answer_mask_AL]
            for batch, rewards_AL in zip(batches, rewards, strict=True)
        ]
    )
    states_NH = torch.cat([output.states_NH.float() for output in outputs])
    critic.fit(*(torch.cat(ranks.gather(x)) for x in (states_NH, returns_to_go_N)))


def _batch_targets(
    batch: RolloutBatch, outputs: _ForwardOutputs, rewards_AL: Tensor, inputs: TargetInputs
) -> PPOTargets:
    settings, answer_mask_AL = inputs.settings, batch.answers.answer_mask_AL
    values_N = inputs.critic.values(batch.answers, outputs.states_NH)
    advantages_AL, returns_AL = gae(
        rewards_AL,
        batch.answers.padded(values_N),
        answer_mask_AL,
        gamma=settings.gamma,
        lam=settings.lam,
    )
    return PPOTargets(
        old_log_probs_N=outputs.log_probs_N,
        old_values_N=values_N,
        advantages_N=advantages_AL[answer_mask_AL],
        returns_N=returns_AL[answer_mask_AL],
        weights_N=_weights(batch, outputs.log_probs_N, settings.importance_cap),
    )


def _weights(batch: RolloutBatch, log_probs_N: Tensor, cap: float) -> Tensor:
    """Return importance weights: per token for fresh answers, per answer for off-policy ones.

    The policies of a fresh answer differ only by rounding. An off-policy answer is as likely under
    this policy as all its tokens together. If its tokens were weighted one by one, likely tokens
    after an unlikely beginning would count in full, and the low advantage that they share with the
    answer would teach the policy to avoid them everywhere.
    """
    answers = batch.answers
    answer_weights_A = importance_weights(
        answers.padded(log_probs_N).sum(-1), answers.padded(batch.sampler_log_probs_N).sum(-1), cap
    )
    token_weights_N = importance_weights(log_probs_N, batch.sampler_log_probs_N, cap)
    return torch.where(
        answers.per_token(batch.fresh_A), token_weights_N, answers.per_token(answer_weights_A)
    )


def _whiten_advantages(targets: Sequence[PPOTargets], ranks: Ranks) -> list[PPOTargets]:
    """Whiten advantages over all tokens of all processes, weighted by importance."""
    advantages = ranks.gather(torch.cat([target.advantages_N for target in targets]))
    weights = ranks.gather(torch.cat([target.weights_N for target in targets]))
    whitened_N = whiten(torch.cat(advantages), torch.cat(weights))
    of_rank_N = torch.split(whitened_N, [len(a) for a in advantages])[ranks.rank]
    of_batches = torch.split(of_rank_N, [len(target.advantages_N) for target in targets])
    return [replace(t, advantages_N=a) for t, a in zip(targets, of_batches, strict=True)]


def _rollout_stats(
    batches: Sequence[RolloutBatch],
    outputs: Sequence[_ForwardOutputs],
    targets: Sequence[PPOTargets],
    ranks: Ranks,
) -> RolloutStats:
    nats_N, entropies_N, mismatch_N, weights_N, fresh_N = _gather(
        [_token_figures(*triple) for triple in zip(batches, outputs, targets, strict=True)], ranks
    )
    scores_A, fresh_A, *preferred_SA = _gather(
        [
            torch.stack([output.scores_A, batch.fresh_A.float(), *output.preferred_SA])
            for batch, output in zip(batches, outputs, strict=True)
        ],
        ranks,
    )
    fresh_N, fresh_A = fresh_N > 0, fresh_A > 0
    any_fresh = bool(fresh_A.any())
    counted_N, counted_A = (fresh_N, fresh_A) if any_fresh else (~fresh_N, ~fresh_A)
    earlier_weights = weights_N[~fresh_N]
    return RolloutStats(
        score=scores_A[counted_A].mean().item(),
        preferred=_preferred(preferred_SA, counted_A),
        kl=nats_N[counted_N].sum().item() / int(counted_A.sum()),
        length=int(counted_N.sum()) / int(counted_A.sum()),
        ended=finished_share(batches, ranks),
        entropy=entropies_N.mean().item(),
        mismatch_kl=mismatch_N[fresh_N].mean().item() if any_fresh else 0.0,
        effective_sample_size=(
            effective_sample_size(earlier_weights).item() if len(earlier_weights) else 1.0
        ),
    )


def _preferred(preferred_SA: Sequence[Tensor], counted_A: Tensor) -> float:
    if not preferred_SA:
        return 0.0
    return torch.stack(list(preferred_SA))[:, counted_A].mean().item()


def _token_figures(batch: RolloutBatch, outputs: _ForwardOutputs, targets: PPOTargets) -> Tensor:
    """Return log p - log p_ref, entropy, mismatch, weight and freshness of each token, [5, N]."""
    return torch.stack(
        [
            outputs.log_probs_N - outputs.reference_N,
            outputs.entropies_N,
            batch.sampler_log_probs_N - outputs.log_probs_N,
            targets.weights_N,
            batch.answers.per_token(batch.fresh_A).float(),
        ]
    )


def _gather(figures: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """Concatenate the batches' figures of all processes along the last dimension."""
    return torch.cat(ranks.gather(torch.cat(list(figures), dim=-1)), dim=-1)
