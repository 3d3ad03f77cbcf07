"""The critic: the value of the state in which each token was chosen."""

from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learner.data.answers import AnswerBatch
from learner.models.forward import ScalarModel
from learner.models.parameters import copy_shared, hidden_size
from learner.reward.model import RewardModel
from learner.settings import PPOSettings

_RIDGE = 0.1  # times the mean variance of the entries of a state


class Critic(Protocol):
    """A value function; also a torch module."""

    def values(self, batch: AnswerBatch, states_NH: Tensor) -> Tensor:
        """Return the value of the state in which each token was chosen, [N].

        Args:
            batch: Answers, for a critic with a trunk of its own.
            states_NH: Hidden states of the policy, for a head on its trunk.

        """
        ...

    def fit(self, states_NH: Tensor, returns_N: Tensor) -> None:
        """Initialise from the returns of the first rollouts, without gradient."""
        ...


class ValueHead(nn.Module):
    """A linear head on the policy's trunk, without a second model."""

    def __init__(self, width: int) -> None:
        """Initialise the head to zero."""
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def values(self, batch: AnswerBatch, states_NH: Tensor) -> Tensor:  # noqa: ARG002
        """Return the value of each state, [N]."""
        values: Tensor = self.linear(states_NH.float()).squeeze(-1)
        return values

    @torch.no_grad()
    def fit(self, states_NH: Tensor, returns_N: Tensor) -> None:
        """Fit the head to the returns by ridge regression.

        The first value errors of a head at zero would move the policy's trunk far; a head that
        already fits the states moves it little.
        """
        states_NH = states_NH.float()
        mean_H, mean = states_NH.mean(0), returns_N.mean()
        centred_NH = states_NH - mean_H
        cov_HH = centred_NH.T @ centred_NH / len(states_NH)
        ridge_HH = _RIDGE * cov_HH.diagonal().mean() * torch.eye(len(cov_HH), device=cov_HH.device)
        weight_H = torch.linalg.solve(
            cov_HH + ridge_HH, centred_NH.T @ (returns_N - mean) / len(states_NH)
        )
        self.linear.weight.copy_(weight_H[None])
        self.linear.bias.copy_(mean - weight_H @ mean_H)


class SeparateCritic(nn.Module):
    """A critic with a trunk of its own, initialised from the reward model."""

    def __init__(self, scalar: ScalarModel) -> None:
        """Use `scalar` (not a copy)."""
        super().__init__()
        self.scalar = scalar

    def values(self, batch: AnswerBatch, states_NH: Tensor) -> Tensor:  # noqa: ARG002
        """Return the value of each state, [N]."""
        values: Tensor = self.scalar(batch)[batch.state_index_N]
        return values

    def fit(self, states_NH: Tensor, returns_N: Tensor) -> None:
        """Do nothing: the reward model's score is the initial value."""


def new_critic(
    policy: PreTrainedModel, reward: RewardModel, settings: PPOSettings
) -> ValueHead | SeparateCritic:
    """Return a critic of the kind that the settings choose."""
    if settings.separate_critic:
        return critic_from_reward_model(reward)
    return ValueHead(hidden_size(policy)).to(policy.device)


def critic_from_reward_model(reward: RewardModel) -> SeparateCritic:
    """Copy a reward model into a critic whose values are its normalised scores."""
    scalar = copy_shared(reward.scalar)
    with torch.no_grad():
        scalar.head.weight.div_(reward.std)
        scalar.head.bias.sub_(reward.mean).div_(reward.std)
    return SeparateCritic(scalar)
