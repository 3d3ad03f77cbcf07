"""What one PPO iteration learns from: answers with everything that is fixed about them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.data.answers import AnswerBatch, PromptAnswers, build_answer_batch
from learner.data.batching import group_by_length, resize_groups
from learner.models.forward import answer_logits
from learner.models.ranks import Ranks
from learner.ppo.advantages import gae, token_rewards, whiten
from learner.ppo.critic import Critic
from learner.ppo.losses import (
    effective_sample_size,
    importance_weights,
    token_entropies,
    token_log_probs,
)
from learner.reward.model import RewardModel
from learner.sampling.sampler import Sample
from learner.settings import Dtype, PPOSettings


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """A answers that take one forward pass.

    The old log-probabilities and the loss use the same groups, so that the first step's ratio is
    exactly 1.

    Attributes:
        members: The answers, by their place in what was collected.
        sampler_log_probs_N: In the distribution that each token was sampled from.
        ended_A: Whether each ended by itself.
        fresh_A: Whether the policy itself has just sampled it.

    """

    batch: AnswerBatch
    members: list[int]
    sampler_log_probs_N: Tensor
    ended_A: Tensor
    fresh_A: Tensor


@dataclass(frozen=True, slots=True)
class PPOTargets:
    """What is computed for a group before the policy moves; one figure for each token."""

    old_log_probs_N: Tensor
    old_values_N: Tensor
    advantages_N: Tensor
    returns_N: Tensor
    weights_N: Tensor


@dataclass(frozen=True, slots=True)
class RolloutStats:
    """Figures of an iteration's answers before the policy moves, of all processes.

    Those of whole answers are of the answers sampled now, where there are any.

    Attributes:
        score: Of the reward model, normalised, mean.
        kl: log p - log p_ref in an answer, mean, nats.
        length: Tokens in an answer, mean.
        ended: Share of answers that ended by themselves.
        entropy: Of a token, mean, nats.
        mismatch_kl: KL of what the sampler says of its tokens to what the trainer says, nats a
            token; of answers sampled now.
        effective_sample_size: Of the weights of tokens that were sampled earlier, as a share of
            their number; 1 where there are none.

    """

    score: float
    kl: float
    length: float
    ended: float
    entropy: float
    mismatch_kl: float
    effective_sample_size: float


def rows_from_samples(samples: Sequence[Sample]) -> list[PromptAnswers]:
    """Return each sample a row of its own."""
    return [PromptAnswers(sample.prompt, (sample.token_ids,)) for sample in samples]


def batch_rollouts(
    samples: Sequence[Sample],
    fresh: Sequence[bool],
    *,
    pad: int,
    micro_tokens: int,
    device: torch.device,
    ranks: Ranks,
) -> list[RolloutBatch]:
    """Group samples of like length for forward passes of at most `micro_tokens` tokens.

    Every process makes as many groups, since each forward pass takes them all.
    """
    rows = rows_from_samples(samples)
    groups = group_by_length([row.length for row in rows], micro_tokens)
    count = min(ranks.maximum(len(groups)), -ranks.maximum(-len(samples)))
    return [
        RolloutBatch(
            batch=build_answer_batch([rows[i] for i in members], pad=pad, device=device),
            members=members,
            sampler_log_probs_N=torch.tensor(
                [log_prob for i in members for log_prob in samples[i].log_probs], device=device
            ),
            ended_A=torch.tensor([samples[i].finished for i in members], device=device),
            fresh_A=torch.tensor([fresh[i] for i in members], device=device),
        )
        for members in resize_groups(groups, count)
    ]


def finished_share(groups: Sequence[RolloutBatch], ranks: Ranks) -> float:
    """Return the share of the fresh answers (of all, if none is fresh) that ended, on all ranks."""
    own = torch.cat([torch.stack([g.ended_A, g.fresh_A]).float() for g in groups], dim=-1)
    ended_A, fresh_A = torch.cat(ranks.gather(own), dim=-1)
    return float((ended_A[fresh_A > 0] if fresh_A.any() else ended_A).mean())


@dataclass(frozen=True, slots=True)
class _ForwardOutputs:
    """What the models say of a group, without gradient."""

    scores_A: Tensor
    old_N: Tensor
    reference_N: Tensor
    entropies_N: Tensor
    states_NH: Tensor


@torch.no_grad()
def targets(
    groups: Sequence[RolloutBatch],
    *,
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    reward: RewardModel,
    critic: Critic,
    settings: PPOSettings,
    kl_coef: float,
    unfinished_penalty: float,
    dtype: Dtype,
    ranks: Ranks,
    first: bool = False,
) -> tuple[list[PPOTargets], RolloutStats]:
    """Compute old log-probabilities, values, advantages and returns with the policy as it is.

    Args:
        unfinished_penalty: Off the score of answers without an end.
        first: The critic knows nothing yet, and is fitted to what these answers return.

    """
    looks = [
        _look(group, policy, reference, reward, settings.temperature, dtype) for group in groups
    ]
    rewards = [
        _rewards(group, look, kl_coef, unfinished_penalty)
        for group, look in zip(groups, looks, strict=True)
    ]
    if first:
        to_go = [
            rewards_AL.flip(-1).cumsum(-1).flip(-1)[group.batch.answer_mask_AL]
            for group, rewards_AL in zip(groups, rewards, strict=True)
        ]
        states_NH = torch.cat([look.states_NH.float() for look in looks])
        critic.fit(*(torch.cat(ranks.gather(x)) for x in (states_NH, torch.cat(to_go))))
    found = [
        _group_targets(*of_group, critic, settings)
        for of_group in zip(groups, looks, rewards, strict=True)
    ]
    return _whiten_advantages(found, ranks), _rollout_stats(groups, looks, found, ranks)


def _look(
    group: RolloutBatch,
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    reward: RewardModel,
    temperature: float,
    dtype: Dtype,
) -> _ForwardOutputs:
    tokens_N = group.batch.tokens_N
    reference_NV, _ = answer_logits(reference, group.batch, dtype)
    reference_N = token_log_probs(reference_NV, tokens_N, temperature)
    del reference_NV  # a large vocabulary's logits are most of the memory
    with torch.enable_grad():  # as in the loss: what is compiled without rounds otherwise
        logits_NV, states_NH = (x.detach() for x in answer_logits(policy, group.batch, dtype))
    return _ForwardOutputs(
        scores_A=reward.normalised(reward(group.batch)),
        old_N=token_log_probs(logits_NV, tokens_N, temperature),
        reference_N=reference_N,
        entropies_N=token_entropies(logits_NV, temperature),
        states_NH=states_NH,
    )


def _rewards(group: RolloutBatch, look: _ForwardOutputs, kl_coef: float, penalty: float) -> Tensor:
    return token_rewards(
        group.batch.padded(look.old_N),
        group.batch.padded(look.reference_N),
        torch.where(group.ended_A, look.scores_A, look.scores_A - penalty),
        group.batch.answer_mask_AL,
        kl_coef,
    )


def _group_targets(
    group: RolloutBatch,
    look: _ForwardOutputs,
    rewards_AL: Tensor,
    critic: Critic,
    settings: PPOSettings,
) -> PPOTargets:
    answer_mask_AL = group.batch.answer_mask_AL
    values_N = critic.values(group.batch, look.states_NH)
    advantages_AL, returns_AL = gae(
        rewards_AL,
        group.batch.padded(values_N),
        answer_mask_AL,
        gamma=settings.gamma,
        lam=settings.lam,
    )
    return PPOTargets(
        old_log_probs_N=look.old_N,
        old_values_N=values_N,
        advantages_N=advantages_AL[answer_mask_AL],
        returns_N=returns_AL[answer_mask_AL],
        weights_N=_weights(group, look.old_N, settings.importance_cap),
    )


def _weights(group: RolloutBatch, old_N: Tensor, cap: float) -> Tensor:
    """Weigh fresh answers token by token, since there only the arithmetic differs; others whole.

    An earlier policy's answer is one that this policy gives as often as all its tokens together
    say. Weighed one by one, likely words after an unlikely beginning would count in full, and
    their advantages, bad as the answer's, would teach the policy to say less of any such words.
    """
    sampler_N, batch = group.sampler_log_probs_N, group.batch
    of_answers_A = importance_weights(
        batch.padded(old_N).sum(-1), batch.padded(sampler_N).sum(-1), cap
    )
    of_tokens_N = importance_weights(old_N, sampler_N, cap)
    return torch.where(batch.per_token(group.fresh_A), of_tokens_N, batch.per_token(of_answers_A))


def _whiten_advantages(found: Sequence[PPOTargets], ranks: Ranks) -> list[PPOTargets]:
    """Whiten advantages over all tokens of the iteration, each as far as it counts."""
    advantages = ranks.gather(torch.cat([target.advantages_N for target in found]))
    weights = ranks.gather(torch.cat([target.weights_N for target in found]))
    everywhere_N = whiten(torch.cat(advantages), torch.cat(weights))
    white = torch.split(everywhere_N, [len(a) for a in advantages])[ranks.rank]
    own = torch.split(white, [len(target.advantages_N) for target in found])
    return [replace(t, advantages_N=a) for t, a in zip(found, own, strict=True)]


def _rollout_stats(
    groups: Sequence[RolloutBatch],
    looks: Sequence[_ForwardOutputs],
    found: Sequence[PPOTargets],
    ranks: Ranks,
) -> RolloutStats:
    def everywhere(figures: Sequence[Tensor]) -> Tensor:
        return torch.cat(ranks.gather(torch.cat(list(figures), dim=-1)), dim=-1)

    nats_N, entropies_N, mismatch_N, weights_N, fresh_N = everywhere(
        [
            torch.stack(
                [
                    look.old_N - look.reference_N,
                    look.entropies_N,
                    group.sampler_log_probs_N - look.old_N,
                    target.weights_N,
                    group.batch.per_token(group.fresh_A).float(),
                ]
            )
            for group, look, target in zip(groups, looks, found, strict=True)
        ]
    )
    scores_A, fresh_A = everywhere(
        [
            torch.stack([look.scores_A, group.fresh_A.float()])
            for group, look in zip(groups, looks, strict=True)
        ]
    )
    if fresh_A.any():
        own_N, own_A = fresh_N > 0, fresh_A > 0
    else:
        own_N, own_A = fresh_N == 0, fresh_A == 0
    earlier_N = fresh_N == 0
    return RolloutStats(
        score=scores_A[own_A].mean().item(),
        kl=nats_N[own_N].sum().item() / int(own_A.sum()),
        length=int(own_N.sum()) / int(own_A.sum()),
        ended=finished_share(groups, ranks),
        entropy=entropies_N.mean().item(),
        mismatch_kl=mismatch_N[fresh_N > 0].mean().item() if fresh_A.any() else 0.0,
        effective_sample_size=(
            effective_sample_size(weights_N[earlier_N]).item() if earlier_N.any() else 1.0
        ),
    )
