"""What one PPO iteration learns from: sampled answers with everything that is fixed about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.advantages import gae, token_rewards, whiten
from learner.batching import pad_right, parts
from learner.losses import importance_weights, token_entropies, token_log_probs
from learner.model import ScalarModel, autocast, positions
from learner.sampler import Sample
from learner.settings import Dtype, PPOSettings


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Answers of one iteration; all [B, T], aligned so that entry t is about token t.

    Attributes:
        ids_BT: Prompt and answer, padded on the right.
        mask_BT: Real tokens.
        chosen_BT: Tokens that the policy chose: the answer and its end.
        groups: Rows of one forward pass; old log-probabilities and the loss use the same ones,
            so that the first step's ratio is exactly 1.

    """

    ids_BT: Tensor
    mask_BT: Tensor
    chosen_BT: Tensor
    sampler_log_probs_BT: Tensor
    groups: list[list[int]]

    def width(self, group: list[int]) -> int:
        """Give the length of the longest row of a group."""
        return int(self.mask_BT[group].sum(-1).max())


@dataclass(frozen=True, slots=True)
class Targets:
    """What is computed once from the rollouts, before the policy moves; all [B, T].

    Attributes:
        kl_B: log p - log p_ref summed over each answer.

    """

    old_log_probs_BT: Tensor
    reference_log_probs_BT: Tensor
    old_values_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor
    weights_BT: Tensor
    kl_B: Tensor
    entropy: float


def collect(
    samples: Sequence[Sample], *, pad: int, micro_tokens: int, minibatches: int
) -> Rollouts:
    """Pad samples into one batch, and group its rows for forward passes and minibatches."""
    ids_BT, mask_BT = pad_right([(*s.prompt, *s.token_ids) for s in samples], pad)
    chosen_BT = torch.zeros_like(mask_BT)
    sampler_BT = torch.zeros(ids_BT.shape)
    for row, sample in enumerate(samples):
        start, end = len(sample.prompt), len(sample.prompt) + len(sample.token_ids)
        chosen_BT[row, start:end] = True
        sampler_BT[row, start:end] = torch.tensor(sample.log_probs)
    lengths = [len(s.prompt) + len(s.token_ids) for s in samples]
    # A minibatch is made of whole groups, so a group is at most a minibatch.
    tokens = min(micro_tokens, max(1, sum(lengths) // minibatches))
    return Rollouts(ids_BT, mask_BT, chosen_BT, sampler_BT, parts(lengths, tokens))


def forward_policy(
    model: PreTrainedModel,
    rollouts: Rollouts,
    group: list[int],
    *,
    temperature: float,
    dtype: Dtype,
) -> tuple[Tensor, Tensor]:
    """Give the log-probability of each token of a group's rows, and the logits."""
    width = rollouts.width(group)
    ids_BT, mask_BT = rollouts.ids_BT[group, :width], rollouts.mask_BT[group, :width]
    with autocast(dtype):
        logits_BTV = model(
            input_ids=ids_BT,
            attention_mask=mask_BT.long(),
            position_ids=positions(mask_BT),
            use_cache=False,
        ).logits
    return token_log_probs(logits_BTV, ids_BT, temperature), logits_BTV


def forward_values(
    critic: ScalarModel, rollouts: Rollouts, group: list[int], *, dtype: Dtype
) -> Tensor:
    """Give the value of the state in which each token was chosen (0 for the first token)."""
    width = rollouts.width(group)
    with autocast(dtype):
        values_BT = critic(rollouts.ids_BT[group, :width], rollouts.mask_BT[group, :width])
    return torch.nn.functional.pad(values_BT[:, :-1], (1, 0))


@torch.no_grad()
def targets(
    rollouts: Rollouts,
    scores_B: Tensor,
    *,
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    critic: ScalarModel,
    settings: PPOSettings,
    kl_coef: float,
    dtype: Dtype,
) -> Targets:
    """Compute old log-probabilities, values, advantages and returns with the policy as it is."""
    old_BT, reference_BT, values_BT = (torch.zeros(rollouts.ids_BT.shape) for _ in range(3))
    entropy = 0.0
    for group in rollouts.groups:
        width = rollouts.width(group)
        chosen_BT = rollouts.chosen_BT[group, :width]
        log_probs_BT, logits_BTV = forward_policy(
            policy, rollouts, group, temperature=settings.temperature, dtype=dtype
        )
        old_BT[group, :width] = log_probs_BT
        entropy += token_entropies(logits_BTV, settings.temperature)[chosen_BT].sum().item()
        reference_BT[group, :width], _ = forward_policy(
            reference, rollouts, group, temperature=settings.temperature, dtype=dtype
        )
        values_BT[group, :width] = forward_values(critic, rollouts, group, dtype=dtype)
    mask_BT = rollouts.chosen_BT
    rewards_BT = token_rewards(old_BT, reference_BT, scores_B, mask_BT, kl_coef)
    advantages_BT, returns_BT = gae(
        rewards_BT, values_BT, mask_BT, gamma=settings.gamma, lam=settings.lam
    )
    return Targets(
        old_log_probs_BT=old_BT,
        reference_log_probs_BT=reference_BT,
        old_values_BT=values_BT,
        advantages_BT=whiten(advantages_BT, mask_BT),
        returns_BT=returns_BT,
        weights_BT=importance_weights(
            old_BT, rollouts.sampler_log_probs_BT, settings.importance_cap
        ),
        kl_B=torch.where(mask_BT, old_BT - reference_BT, 0.0).sum(-1),
        entropy=entropy / int(mask_BT.sum()),
    )
