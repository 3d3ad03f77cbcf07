"""Losses against values worked out by hand, and their gradients."""

import math

import pytest
import torch

from learner.losses import (
    clipped_share,
    davidson_log_probs,
    importance_weights,
    kl_k1,
    kl_k3,
    pointwise_loss,
    policy_loss,
    ranking_loss,
    token_entropies,
    token_log_probs,
    value_loss,
)

NEVER_TIES = torch.tensor(-60.0)


def test_davidson_gives_the_three_outcomes_in_proportion() -> None:
    # exp(d/2) : exp(-d/2) : nu with d = 2 ln 2 and nu = 1/2 is 2 : 1/2 : 1/2.
    log_probs = davidson_log_probs(torch.tensor(2 * math.log(2)), torch.tensor(math.log(0.5)))
    assert log_probs.exp().tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def test_davidson_without_ties_is_bradley_terry() -> None:
    win = davidson_log_probs(torch.tensor(1.3), NEVER_TIES)[0]
    assert win.item() == pytest.approx(math.log(1 / (1 + math.exp(-1.3))), abs=1e-6)


def test_davidson_probabilities_add_up_to_one() -> None:
    log_probs = davidson_log_probs(torch.linspace(-50, 50, 11), torch.tensor(0.3))
    assert log_probs.exp().sum(-1).tolist() == pytest.approx([1.0] * 11)


def test_ranking_of_two_has_bradley_terrys_loss_and_gradient() -> None:
    scores = torch.tensor([1.0, 0.5], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([0, 1]), NEVER_TIES)
    loss.backward()
    lose = 1 / (1 + math.exp(0.5))
    assert loss.item() == pytest.approx(-math.log(1 - lose), abs=1e-6)
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-lose, lose], abs=1e-6)


def test_ranking_averages_over_all_pairs_whatever_the_order_of_the_candidates() -> None:
    scores = torch.tensor([0.0, 2.0, 1.0])
    pairs = [2.0, 1.0, 1.0]  # differences, better minus worse, of the ranking 1 > 2 > 0
    by_hand = sum(math.log(1 + math.exp(-d)) for d in pairs) / 3
    assert ranking_loss(scores, torch.tensor([2, 0, 1]), NEVER_TIES).item() == pytest.approx(
        by_hand
    )


def test_tie_pulls_scores_together_and_makes_ties_more_likely() -> None:
    scores = torch.tensor([1.0, -1.0], requires_grad=True)
    log_tie = torch.tensor(0.0, requires_grad=True)
    ranking_loss(scores, torch.tensor([0, 0]), log_tie).backward()
    assert scores.grad is not None
    assert log_tie.grad is not None
    assert scores.grad[0] > 0 > scores.grad[1]
    assert log_tie.grad < 0


def test_tied_group_within_a_ranking() -> None:
    # One pair tied, two pairs won by a difference of 1; nu = 1.
    e = math.exp(0.5)
    won = -math.log(e / (e + 1 / e + 1))
    loss = ranking_loss(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 1, 1]), torch.tensor(0.0))
    assert loss.item() == pytest.approx((2 * won + math.log(3)) / 3)


def test_pointwise_is_logistic_about_the_offset() -> None:
    loss = pointwise_loss(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.25]), torch.tensor(1.0))
    log_up, log_down = -math.log(1 + math.exp(-1)), -math.log(1 + math.exp(1))
    by_hand = -(log_up + 0.25 * log_up + 0.75 * log_down) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)


def test_policy_loss_by_hand_clips_only_where_that_is_worse() -> None:
    ratios = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    log_probs = ratios.log().requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss = policy_loss(
        log_probs, torch.zeros(1, 4), advantages, torch.ones(1, 4), mask, clip=0.2, count=4
    )
    loss.backward()
    assert loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    assert log_probs.grad is not None
    # d ratio / d log p = ratio; the clipped ones (first and last) have no gradient.
    assert log_probs.grad.tolist()[0] == pytest.approx([0.0, -0.5 / 4, 1.5 / 4, 0.0])


def test_policy_loss_weighs_by_importance_and_divides_by_the_global_count() -> None:
    mask = torch.tensor([[True, True]])
    zeros = torch.zeros(1, 2)
    weights = torch.tensor([[2.0, 0.5]])
    loss = policy_loss(zeros, zeros, torch.ones(1, 2), weights, mask, clip=0.2, count=10)
    assert loss.item() == pytest.approx(-0.25)


@pytest.mark.parametrize("loss", ["policy", "value"])
def test_masked_tokens_get_exactly_no_gradient(loss: str) -> None:
    mask = torch.tensor([[False, True, False]])
    trained = torch.tensor([[3.0, 0.1, float("inf")]], requires_grad=True)
    fixed = torch.tensor([[-50.0, 0.0, 0.0]])
    ones = torch.ones(1, 3)
    if loss == "policy":
        policy_loss(trained, fixed, ones, ones, mask, clip=0.2, count=1).backward()
    else:
        value_loss(trained, fixed, ones, mask, clip=0.2, count=1).backward()
    assert trained.grad is not None
    assert trained.grad[0, 0] == 0
    assert trained.grad[0, 1] != 0
    assert trained.grad[0, 2] == 0


def test_value_loss_takes_the_worse_of_plain_and_clipped() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    values, old = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.9]])
    returns = torch.tensor([[1.0, 3.0]])
    # First: plain error 0, clipped value .2, error .64. Second: not clipped, error 4.
    loss = value_loss(values, old, returns, mask, clip=0.2, count=2)
    assert loss.item() == pytest.approx(0.5 * (0.64 + 4) / 2)


def test_clipped_share_counts_tokens_out_of_range() -> None:
    mask = torch.tensor([[True, True, True, False]])
    log_probs = torch.tensor([[1.3, 1.1, 0.7, 9.0]]).log()
    share = clipped_share(log_probs, torch.zeros(1, 4), mask, clip=0.2, count=3)
    assert share.item() == pytest.approx(2 / 3)


def test_importance_weights_are_truncated_and_carry_no_gradient() -> None:
    old = torch.tensor([[0.0, -1.0]], requires_grad=True)
    weights = importance_weights(old, torch.tensor([[-5.0, -0.5]]), cap=2.0)
    assert weights.tolist()[0] == pytest.approx([2.0, math.exp(-0.5)])
    assert not weights.requires_grad


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_kl_estimators_have_the_exact_mean(estimator: object) -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    exact = (p * (p / q).log()).sum()
    assert callable(estimator)
    assert (p * estimator(p.log(), q.log())).sum().item() == pytest.approx(exact.item(), abs=1e-6)


def test_k3_is_never_negative() -> None:
    assert (kl_k3(torch.randn(100), torch.randn(100)) >= 0).all()


def test_token_log_probs_are_aligned_and_tempered() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [5.0, 5.0]]])
    found = token_log_probs(logits, torch.tensor([[0, 1]]), temperature=1.0)
    assert found.tolist()[0] == pytest.approx([0.0, math.log(0.75)])
    halved = token_log_probs(logits, torch.tensor([[0, 1]]), temperature=0.5)
    assert halved.tolist()[0] == pytest.approx([0.0, math.log(0.9)])


def test_entropy_of_a_fair_coin() -> None:
    assert token_entropies(torch.zeros(1, 2, 2), 1.0).tolist()[0] == pytest.approx(
        [0.0, math.log(2)]
    )
