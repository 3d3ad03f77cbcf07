"""Targets before the first update, on a model with random weights."""

import pytest
import torch
from transformers import PreTrainedModel

from learner.models.forward import answer_logits
from learner.models.ranks import Ranks
from learner.ppo.losses import token_log_probs
from learner.ppo.targets import TargetInputs, compute_targets
from tests.support.tiny import TINY_PPO, ppo_inputs, rollout_batches, sample_answers


@pytest.mark.parametrize("separate", [False, True])
def test_ratio_is_exactly_one_on_the_first_step(model: PreTrainedModel, separate: bool) -> None:
    settings = TINY_PPO.model_copy(update={"separate_critic": separate})
    inputs = ppo_inputs(model, settings)
    groups = rollout_batches(sample_answers(model))
    assert len(groups) > 2
    targets, stats = compute_targets(
        groups,
        TargetInputs(
            policy=inputs.policy,
            reference=inputs.reference,
            reward=inputs.reward,
            posteriors=None,
            critic=inputs.critic,
            settings=settings,
            kl_coef=0.05,
            unfinished_penalty=2.0,
            dtype="float32",
            fit_critic=True,
        ),
        Ranks(),
    )
    for group, target in zip(groups, targets, strict=True):
        logits, states = answer_logits(inputs.policy, group.answers, "float32")
        found = token_log_probs(logits, group.answers.tokens_N, 1.0)
        assert found.requires_grad
        assert torch.equal(found, target.old_log_probs_N)
        assert torch.equal(inputs.critic.values(group.answers, states), target.old_values_N)
    # The policy still is the reference, and the sampler's figures are the trainer's.
    assert stats.kl == 0
    assert stats.mismatch_kl == pytest.approx(0, abs=1e-4)
    weights = torch.cat([target.weights_N for target in targets])
    torch.testing.assert_close(weights, torch.ones(len(weights)), atol=1e-3, rtol=0)
    advantages = torch.cat([target.advantages_N for target in targets])
    assert advantages.mean().item() == pytest.approx(0, abs=1e-5)
