"""The reward model's loss: the mixture by hand, and its gradient."""

import math

import pytest
import torch

from learner.reward.losses import mixture_losses


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
