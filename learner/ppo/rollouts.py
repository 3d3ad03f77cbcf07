"""Rollouts of a PPO iteration: answers in batches, with their samplers' log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.data.answers import AnswerBatch, PromptAnswers, build_answer_batch
from learner.data.batching import group_by_length, resize_groups
from learner.models.ranks import Ranks
from learner.sampling.sampler import Sample


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """A answers of one forward pass.

    The old log-probabilities and the loss are computed on the same batches, so that the ratio of
    the first step is exactly 1.

    Attributes:
        answers: Token ids of the answers and their prompts.
        members: Indices of the answers among all those that were batched.
        sampler_log_probs_N: Log-probability of each token in the distribution it was sampled from.
        finished_A: Whether each answer has an end token.
        fresh_A: Whether each answer was sampled by the present policy in this iteration.

    """

    answers: AnswerBatch
    members: list[int]
    sampler_log_probs_N: Tensor
    finished_A: Tensor
    fresh_A: Tensor


def rows_from_samples(samples: Sequence[Sample]) -> list[PromptAnswers]:
    """Return a row for each sample."""
    return [PromptAnswers(sample.prompt, (sample.token_ids,)) for sample in samples]


def deal_rollouts(order: Sequence[int], minibatches: int, ranks: Ranks) -> list[list[int]]:
    """Return this process's rollouts of each minibatch, by their numbers.

    All processes have equal shares of each minibatch, or one rollout more: none is without any.

    Args:
        order: Numbers of all rollouts, in the order in which minibatches take them.
        minibatches: Number of minibatches.
        ranks: Processes that train together; at most as many as a minibatch has rollouts.

    """
    return [ranks.shard_items(order[start::minibatches]) for start in range(minibatches)]


def batch_rollouts(
    samples: Sequence[Sample],
    fresh: Sequence[bool],
    *,
    pad: int,
    micro_tokens: int,
    device: torch.device,
    ranks: Ranks,
) -> list[RolloutBatch]:
    """Group samples of similar length into forward passes of at most `micro_tokens` tokens.

    Every process returns the same number of batches, since all take part in each forward pass.

    Args:
        samples: This process's samples.
        fresh: Whether each sample was sampled in this iteration.
        pad: Padding token id.
        micro_tokens: Maximum of padded tokens in one forward pass.
        device: Device of the batches.
        ranks: Processes that train together.

    """
    rows = rows_from_samples(samples)
    groups = group_by_length([row.length for row in rows], micro_tokens)
    count = min(ranks.maximum(len(groups)), -ranks.maximum(-len(samples)))
    return [
        RolloutBatch(
            answers=build_answer_batch([rows[i] for i in members], pad=pad, device=device),
            members=members,
            sampler_log_probs_N=torch.tensor(
                [log_prob for i in members for log_prob in samples[i].log_probs], device=device
            ),
            finished_A=torch.tensor([samples[i].finished for i in members], device=device),
            fresh_A=torch.tensor([fresh[i] for i in members], device=device),
        )
        for members in resize_groups(groups, count)
    ]


def finished_share(batches: Sequence[RolloutBatch], ranks: Ranks) -> float:
    """Return the share of finished answers among the fresh ones, or among all if none is fresh.

    The answers of all processes count.
    """
    flags_2A = torch.cat([torch.stack([b.finished_A, b.fresh_A]).float() for b in batches], dim=-1)
    finished_A, fresh_A = torch.cat(ranks.gather(flags_2A), dim=-1)
    return float((finished_A[fresh_A > 0] if fresh_A.any() else finished_A).mean())
