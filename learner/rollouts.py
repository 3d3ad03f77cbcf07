"""What one PPO iteration learns from: answers with everything that is fixed about them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.advantages import gae, token_rewards, whiten
from learner.answers import AnswerBatch, Answered, lay_out
from learner.batching import parts
from learner.critic import Critic
from learner.losses import (
    effective_sample_size,
    importance_weights,
    token_entropies,
    token_log_probs,
)
from learner.model import choices
from learner.sampler import Sample
from learner.settings import Dtype, PPOSettings


@dataclass(frozen=True, slots=True)
class Group:
    """Answers that take one forward pass.

    The old log-probabilities and the loss use the same groups, so that the first step's ratio is
    exactly 1.

    Attributes:
        members: The answers, by their place in what was collected.
        sampler_log_probs_N: In the distribution that each token was sampled from.

    """

    batch: AnswerBatch
    members: list[int]
    sampler_log_probs_N: Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """What is computed for a group before the policy moves; one figure for each token."""

    old_log_probs_N: Tensor
    old_values_N: Tensor
    advantages_N: Tensor
    returns_N: Tensor
    weights_N: Tensor


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of an iteration's answers before the policy moves.

    Attributes:
        kl: log p - log p_ref in an answer sampled now, mean, nats.
        entropy: Of a token, mean, nats.
        mismatch_kl: KL of what the sampler says of its tokens to what the trainer says, nats a
            token; of answers sampled now.
        effective_sample_size: Of the weights of tokens that were sampled earlier, as a share of
            their number; 1 where there are none.

    """

    kl: float
    entropy: float
    mismatch_kl: float
    effective_sample_size: float


def rows_of(samples: Sequence[Sample]) -> list[Answered]:
    """Give each sample a row of its own."""
    return [Answered(sample.prompt, (sample.token_ids,)) for sample in samples]


def collect(
    samples: Sequence[Sample],
    *,
    pad: int,
    micro_tokens: int,
    minibatches: int,
    device: torch.device,
) -> list[Group]:
    """Group samples of like length for forward passes; a minibatch is made of whole groups."""
    rows = rows_of(samples)
    lengths = [row.length for row in rows]
    tokens = min(micro_tokens, max(1, sum(lengths) // minibatches))
    return [
        Group(
            batch=lay_out([rows[i] for i in members], pad=pad, device=device),
            members=members,
            sampler_log_probs_N=torch.tensor(
                [log_prob for i in members for log_prob in samples[i].log_probs], device=device
            ),
        )
        for members in parts(lengths, tokens)
    ]


@dataclass(frozen=True, slots=True)
class _Look:
    """What the models say of a group, without gradient."""

    old_N: Tensor
    reference_N: Tensor
    entropies_N: Tensor
    states_NH: Tensor


@torch.no_grad()
def targets(
    groups: Sequence[Group],
    scores_B: Tensor,
    fresh_B: Tensor,
    *,
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    critic: Critic,
    settings: PPOSettings,
    kl_coef: float,
    dtype: Dtype,
    first: bool = False,
) -> tuple[list[Targets], Measured]:
    """Compute old log-probabilities, values, advantages and returns with the policy as it is.

    Args:
        scores_B: Of each answer.
        fresh_B: True for answers that the policy itself has just sampled.
        first: The critic knows nothing yet, and is fitted to what these answers return.

    """
    looks = [_look(group, policy, reference, settings.temperature, dtype) for group in groups]
    rewards = [
        _rewards(group, look, scores_B, kl_coef) for group, look in zip(groups, looks, strict=True)
    ]
    if first:
        to_go = [
            rewards_AL.flip(-1).cumsum(-1).flip(-1)[group.batch.chosen_AL]
            for group, rewards_AL in zip(groups, rewards, strict=True)
        ]
        critic.fit(torch.cat([look.states_NH for look in looks]), torch.cat(to_go))
    found = [
        _target(*of_group, critic, settings)
        for of_group in zip(groups, looks, rewards, strict=True)
    ]
    return _whitened(found), _measure(groups, looks, found, fresh_B)


def _look(
    group: Group,
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    temperature: float,
    dtype: Dtype,
) -> _Look:
    tokens_N = group.batch.tokens_N
    reference_NV, _ = choices(reference, group.batch, dtype)
    reference_N = token_log_probs(reference_NV, tokens_N, temperature)
    del reference_NV  # a large vocabulary's logits are most of the memory
    logits_NV, states_NH = choices(policy, group.batch, dtype)
    return _Look(
        old_N=token_log_probs(logits_NV, tokens_N, temperature),
        reference_N=reference_N,
        entropies_N=token_entropies(logits_NV, temperature),
        states_NH=states_NH,
    )


def _rewards(group: Group, look: _Look, scores_B: Tensor, kl_coef: float) -> Tensor:
    return token_rewards(
        group.batch.padded(look.old_N),
        group.batch.padded(look.reference_N),
        scores_B[group.members].to(look.old_N.device),
        group.batch.chosen_AL,
        kl_coef,
    )


def _target(
    group: Group, look: _Look, rewards_AL: Tensor, critic: Critic, settings: PPOSettings
) -> Targets:
    chosen_AL = group.batch.chosen_AL
    values_N = critic.values(group.batch, look.states_NH)
    advantages_AL, returns_AL = gae(
        rewards_AL,
        group.batch.padded(values_N),
        chosen_AL,
        gamma=settings.gamma,
        lam=settings.lam,
    )
    return Targets(
        old_log_probs_N=look.old_N,
        old_values_N=values_N,
        advantages_N=advantages_AL[chosen_AL],
        returns_N=returns_AL[chosen_AL],
        weights_N=importance_weights(
            look.old_N, group.sampler_log_probs_N, settings.importance_cap
        ),
    )


def _whitened(found: Sequence[Targets]) -> list[Targets]:
    """Whiten advantages over all tokens of the iteration."""
    white_N = whiten(torch.cat([target.advantages_N for target in found]))
    own = torch.split(white_N, [len(target.advantages_N) for target in found])
    return [replace(t, advantages_N=a) for t, a in zip(found, own, strict=True)]


def _measure(
    groups: Sequence[Group], looks: Sequence[_Look], found: Sequence[Targets], fresh_B: Tensor
) -> Measured:
    fresh_N = torch.cat([g.batch.per_token(fresh_B[g.members]) for g in groups])
    old_N = torch.cat([look.old_N for look in looks])
    nats_N = old_N - torch.cat([look.reference_N for look in looks])
    sampled_N = torch.cat([g.sampler_log_probs_N for g in groups]) - old_N
    weights_N = torch.cat([target.weights_N for target in found])
    count = max(1, int(fresh_N.sum()))
    earlier_N = weights_N[~fresh_N]
    return Measured(
        kl=nats_N[fresh_N].sum().item() / max(1, int(fresh_B.sum())),
        entropy=torch.cat([look.entropies_N for look in looks]).mean().item(),
        mismatch_kl=sampled_N[fresh_N].sum().item() / count,
        effective_sample_size=effective_sample_size(earlier_N).item() if len(earlier_N) else 1.0,
    )
