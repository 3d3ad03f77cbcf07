"""The critic's head."""

import pytest
import torch

from learner.ppo.critic import ValueHead


def test_a_value_head_is_fitted_to_the_returns() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4000, 8, generator=generator) + 3
    returns = states @ torch.arange(8.0) + 5
    head = ValueHead(8)
    assert head.linear(states).abs().max() == 0
    head.fit(states, returns)
    found = head.linear(states).squeeze(-1).detach()
    assert found.mean().item() == pytest.approx(returns.mean().item(), abs=1e-2)
    left = (found - returns).var() / returns.var()
    assert left < 0.02, "the ridge keeps a tenth of each weight"
