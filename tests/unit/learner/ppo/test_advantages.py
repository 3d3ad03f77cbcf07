"""Rewards, advantages and whitening against brute force and by hand."""

import pytest
import torch

from learner.ppo.advantages import (
    adapted_kl_coef,
    duplicate_penalties,
    gae,
    token_rewards,
    whiten,
)


def test_score_is_added_at_the_last_token_and_the_kl_penalty_at_each() -> None:
    mask = torch.tensor([[False, True, True, False], [False, False, True, True]])
    log_probs = torch.tensor([[9.0, -1.0, -2.0, 9.0], [9.0, 9.0, -3.0, -1.0]])
    reference = torch.tensor([[0.0, -2.0, -2.0, 0.0], [0.0, 0.0, -1.0, -1.0]])
    rewards = token_rewards(log_probs, reference, torch.tensor([1.0, -2.0]), mask, kl_coef=0.1)
    assert rewards.flatten().tolist() == pytest.approx([0, -0.1, 1.0, 0, 0, 0, 0.2, -2.0])


def test_an_answer_that_is_given_again_and_again_is_penalised() -> None:
    """Probabilities 0.5, 0.9, 0.9 and 1.0; the reference has 0.1, 0.9, 0.95 and 0.0."""
    own, reference = (
        torch.tensor([[p**0.5, p**0.5] for p in probabilities]).log()
        for probabilities in ((0.5, 0.9, 0.9, 1.0), (0.1, 0.9, 0.95, 1e-30))
    )
    found = duplicate_penalties(own, reference).tolist()
    assert found == pytest.approx([0.8, 0.0, 0.0, 2.0], abs=1e-5)


def test_gae_against_brute_force() -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(3, 7), torch.randn(3, 7)
    mask = torch.zeros(3, 7, dtype=torch.bool)
    spans = [(0, 7), (2, 5), (6, 7)]
    for row, (start, end) in enumerate(spans):
        mask[row, start:end] = True
    gamma, lam = 0.9, 0.8
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row, (start, end) in enumerate(spans):
        for t in range(start, end):
            by_hand = 0.0
            for k in range(t, end):
                following = values[row, k + 1].item() if k + 1 < end else 0.0
                delta = rewards[row, k].item() + gamma * following - values[row, k].item()
                by_hand += (gamma * lam) ** (k - t) * delta
            assert advantages[row, t].item() == pytest.approx(by_hand, abs=1e-5)
            assert returns[row, t].item() == pytest.approx(
                by_hand + values[row, t].item(), abs=1e-5
            )
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


def test_with_lambda_one_returns_are_rewards_to_go() -> None:
    mask = torch.tensor([[True, True, True]])
    _, returns = gae(torch.tensor([[1.0, 2.0, 3.0]]), torch.randn(1, 3), mask, gamma=1.0, lam=1.0)
    assert returns[0].tolist() == pytest.approx([6.0, 5.0, 3.0], abs=1e-5)


def test_padding_changes_no_advantage() -> None:
    torch.manual_seed(1)
    rewards, values = torch.randn(2, 4), torch.randn(2, 4)
    mask = torch.tensor([[True] * 4, [False, True, True, True]])
    wide = [torch.nn.functional.pad(x, (0, 3), value=7.0) for x in (rewards, values)]
    padded, _ = gae(*wide, torch.nn.functional.pad(mask, (0, 3)), gamma=1.0, lam=0.95)
    plain, _ = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    assert torch.equal(padded[:, :4], plain)


def test_whitening_by_hand() -> None:
    assert whiten(torch.tensor([1.0, 3.0, 5.0]), torch.ones(3)).tolist() == pytest.approx(
        [-1.2247, 0.0, 1.2247], abs=1e-3
    )


def test_whitening_uses_weights() -> None:
    """Mean (2 * 1 + 1 * 4) / 3 = 2, variance (2 * 1 + 1 * 4) / 3 = 2."""
    white = whiten(torch.tensor([1.0, 4.0, -100.0]), torch.tensor([2.0, 1.0, 0.0]))
    assert white.tolist() == pytest.approx([-1 / 2**0.5, 2 / 2**0.5, -102 / 2**0.5])


def test_whitening_of_one_token_or_equal_tokens_is_finite() -> None:
    assert torch.isfinite(whiten(torch.ones(1), torch.ones(1))).all()
    assert torch.isfinite(whiten(torch.ones(2), torch.ones(2))).all()
    assert torch.isfinite(whiten(torch.ones(2), torch.zeros(2))).all()


def test_kl_coefficient_follows_the_target_in_bounded_steps() -> None:
    assert adapted_kl_coef(0.05, 60.0, target=6.0) == pytest.approx(0.055)
    assert adapted_kl_coef(0.05, 0.0, target=6.0) == pytest.approx(0.045)
    assert adapted_kl_coef(0.05, 6.0, target=6.0) == pytest.approx(0.05)
