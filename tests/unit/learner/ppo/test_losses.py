"""Losses against values worked out by hand, and their gradients."""

import math

import pytest
import torch

from learner.ppo.losses import (
    clipped_share,
    effective_sample_size,
    importance_weights,
    policy_loss,
    token_entropies,
    token_log_probs,
    value_loss,
)


def test_policy_loss_by_hand_clips_only_where_the_loss_is_higher() -> None:
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    log_probs = ratios.log().requires_grad_()
    loss = policy_loss(log_probs, torch.zeros(4), advantages, torch.ones(4), clip=0.2, count=4)
    loss.backward()
    assert loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    assert log_probs.grad is not None
    # d ratio / d log p = ratio; the clipped ones (first and last) have no gradient.
    assert log_probs.grad.tolist() == pytest.approx([0.0, -0.5 / 4, 1.5 / 4, 0.0])


def test_policy_loss_uses_importance_weights_and_divides_by_the_global_count() -> None:
    zeros = torch.zeros(2)
    loss = policy_loss(zeros, zeros, torch.ones(2), torch.tensor([2.0, 0.5]), clip=0.2, count=10)
    assert loss.item() == pytest.approx(-0.25)


def test_value_loss_takes_the_worse_of_plain_and_clipped() -> None:
    values, old = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.9])
    # First: plain error 0, clipped value .2, error .64. Second: not clipped, error 4.
    returns = torch.tensor([1.0, 3.0])
    loss = value_loss(values, old, returns, torch.ones(2), clip=0.2, count=2)
    assert loss.item() == pytest.approx(0.5 * (0.64 + 4) / 2)
    loss = value_loss(values, old, returns, torch.tensor([2.0, 0.5]), clip=0.2, count=2)
    assert loss.item() == pytest.approx(0.5 * (2 * 0.64 + 0.5 * 4) / 2)


def test_clipped_share_counts_tokens_out_of_range() -> None:
    share = clipped_share(torch.tensor([1.3, 1.1, 0.7]).log(), torch.zeros(3), clip=0.2, count=3)
    assert share.item() == pytest.approx(2 / 3)


def test_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(torch.ones(7)).item() == pytest.approx(1)
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0, 0.0])).item() == pytest.approx(1 / 4)
    assert effective_sample_size(torch.tensor([2.0, 1.0])).item() == pytest.approx(9 / 10)


def test_importance_weights_are_truncated_and_carry_no_gradient() -> None:
    old = torch.tensor([[0.0, -1.0]], requires_grad=True)
    weights = importance_weights(old, torch.tensor([[-5.0, -0.5]]), cap=2.0)
    assert weights.tolist()[0] == pytest.approx([2.0, math.exp(-0.5)])
    assert not weights.requires_grad


def test_token_log_probs_are_tempered() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]])
    found = token_log_probs(logits, torch.tensor([1, 0]), temperature=1.0)
    assert found.tolist() == pytest.approx([math.log(0.75), math.log(0.5)])
    halved = token_log_probs(logits, torch.tensor([1, 0]), temperature=0.5)
    assert halved.tolist() == pytest.approx([math.log(0.9), math.log(0.5)])


def test_entropy_of_a_fair_coin() -> None:
    assert token_entropies(torch.zeros(1, 2), 1.0).tolist() == pytest.approx([math.log(2)])
