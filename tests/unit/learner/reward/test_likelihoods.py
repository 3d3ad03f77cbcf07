"""Likelihoods of pairs, ties and approvals against values worked out by hand."""

import math

import pytest
import torch

from learner.reward.likelihoods import (
    approval_information,
    approval_log_likelihoods,
    davidson_log_probs,
    mixture_losses,
    pair_information,
    pair_log_likelihoods,
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


def test_a_pair_has_bradley_terrys_likelihood_and_gradient() -> None:
    difference = torch.tensor([0.5], requires_grad=True)
    meant, opposite = pair_log_likelihoods(difference, torch.tensor([0]), NEVER_TIES)
    meant.sum().backward()
    lose = 1 / (1 + math.exp(0.5))
    assert meant.item() == pytest.approx(math.log(1 - lose), abs=1e-6)
    assert opposite.item() == pytest.approx(math.log(lose), abs=1e-6)
    assert difference.grad is not None
    assert difference.grad.tolist() == pytest.approx([lose], abs=1e-6)


def test_a_tie_pulls_scores_together_makes_ties_likelier_and_is_its_own_opposite() -> None:
    difference = torch.tensor([2.0], requires_grad=True)
    log_tie = torch.tensor(0.0, requires_grad=True)
    meant, opposite = pair_log_likelihoods(difference, torch.tensor([2]), log_tie)
    assert meant.item() == opposite.item()
    meant.sum().backward()
    assert difference.grad is not None
    assert log_tie.grad is not None
    assert difference.grad < 0 < log_tie.grad


def test_approval_is_logistic_about_the_offset() -> None:
    meant, opposite = approval_log_likelihoods(
        torch.tensor([2.0, 2.0]) - 1.0, torch.tensor([1.0, 0.25])
    )
    log_up, log_down = -math.log(1 + math.exp(-1)), -math.log(1 + math.exp(1))
    assert meant.tolist() == pytest.approx([log_up, 0.25 * log_up + 0.75 * log_down], abs=1e-6)
    assert opposite.tolist() == pytest.approx([log_down, 0.75 * log_up + 0.25 * log_down], abs=1e-6)


@pytest.mark.parametrize("reliability", [1.0, 0.9, 0.5])
def test_information_is_the_variance_of_the_score(reliability: float) -> None:
    """The expected square of the gradient of the log-likelihood of what the rater says."""
    tie, reliable = torch.tensor(0.3), torch.tensor([reliability])
    expected = 0.0
    for outcome in range(3):
        difference = torch.tensor([0.7], requires_grad=True)
        meant, opposite = pair_log_likelihoods(difference, torch.tensor([outcome]), tie)
        said = reliability * meant.exp() + (1 - reliability) * opposite.exp()
        said.log().sum().backward()
        assert difference.grad is not None
        expected += said.item() * difference.grad.item() ** 2
    assert pair_information(torch.tensor([0.7]), tie, reliable).item() == pytest.approx(expected)
    expected = 0.0
    for approval in (0.0, 1.0):
        score = torch.tensor([0.7], requires_grad=True)
        meant, opposite = approval_log_likelihoods(score, torch.tensor([approval]))
        said = reliability * meant.exp() + (1 - reliability) * opposite.exp()
        said.log().sum().backward()
        assert score.grad is not None
        expected += said.item() * score.grad.item() ** 2
    assert approval_information(torch.tensor([0.7]), reliable).item() == pytest.approx(expected)


def test_mixture_by_hand() -> None:
    meant, opposite = torch.tensor([0.8, 0.8]).log(), torch.tensor([0.2, 0.2]).log()
    found = mixture_losses(meant, opposite, torch.tensor([0.9, 1.0]))
    assert found.tolist() == pytest.approx([-math.log(0.74), -math.log(0.8)], abs=1e-6)


def test_the_gradient_of_an_unreliable_vote_is_inverted() -> None:
    """The gradient is d/ds of -log(r p + (1 - r) (1 - p)) = -(2 r - 1) p (1 - p) / mixture."""
    reliabilities = [1.0, 0.98, 0.7, 0.5, 0.1]
    scores = torch.full((5,), 0.4, requires_grad=True)
    meant, opposite = (torch.nn.functional.logsigmoid(s) for s in (scores, -scores))
    mixture_losses(meant, opposite, torch.tensor(reliabilities)).sum().backward()
    p = 1 / (1 + math.exp(-0.4))
    mixtures = [r * p + (1 - r) * (1 - p) for r in reliabilities]
    expected = [
        -(2 * r - 1) * p * (1 - p) / m for r, m in zip(reliabilities, mixtures, strict=True)
    ]
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx(expected, abs=1e-6)
