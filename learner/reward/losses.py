"""The reward model's loss: the negative log-likelihood of the training examples.

A rater means what they say with the probability that is their reliability, and the opposite
otherwise, so each example's likelihood is a mixture of the two (Crowd-BT, see
`learner.reward.reliability`). `learner.reward.likelihoods` has the likelihoods that are mixed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.reward.batches import PreferenceBatch
from learner.reward.model import RewardModel


def example_losses(
    model: RewardModel, batch: PreferenceBatch, reliability: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the loss of each training example in nats, [E], and the answers' scores, [A].

    Args:
        model: Reward model in training or evaluation.
        batch: Examples of one forward pass.
        reliability: Reliability of the rater of every example, indexed by `batch.members`.

    """
    scores_A = model(batch.answers)
    meant_E, opposite_E = batch.labels.log_likelihoods(scores_A, model.log_tie, model.offset)
    reliability_E = meant_E.new_tensor([reliability[i] for i in batch.members])
    return mixture_losses(meant_E, opposite_E, reliability_E), scores_A


def mixture_losses(meant_E: Tensor, opposite_E: Tensor, reliability_E: Tensor) -> Tensor:
    """Return the negative log-likelihood of each training example in nats, [E].

    Args:
        meant_E: Log-likelihood of each example if the rater meant it.
        opposite_E: Log-likelihood of each example if the rater meant the opposite.
        reliability_E: Probability that each example is meant; 1 gives `-meant_E`.

    """
    return -torch.logaddexp(reliability_E.log() + meant_E, (1 - reliability_E).log() + opposite_E)
