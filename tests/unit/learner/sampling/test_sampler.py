"""Sampling with transformers, on a model with random weights."""

import torch
from transformers import PreTrainedModel

from learner.data.answers import build_answer_batch
from learner.models.forward import answer_logits
from learner.models.parameters import copy_shared
from learner.ppo.losses import token_log_probs
from learner.ppo.rollouts import rows_from_samples
from learner.sampling.sampler import TransformersSampler
from tests.support.tiny import END, PROMPTS


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(model: PreTrainedModel) -> None:
    sampler = TransformersSampler(model, [END])
    together = sampler.sample(PROMPTS, 2, 8, 1.0, seed=4)
    alone = [sampler.sample([p], 2, 8, 1.0, 4, [i]) for i, p in enumerate(PROMPTS)]
    tokens = [
        [s.token_ids for s in found] for found in (together, [s for one in alone for s in one])
    ]
    assert tokens[0] == tokens[1]


def test_sampling_in_bfloat16_leaves_the_model_as_it_was(model: PreTrainedModel) -> None:
    policy = copy_shared(model)
    samples = TransformersSampler(policy, [END], dtype="bfloat16").sample(PROMPTS, 2, 8, 1.0, 1)
    assert all(
        torch.equal(p, q) for p, q in zip(policy.parameters(), model.parameters(), strict=True)
    )
    group = build_answer_batch(rows_from_samples(samples), pad=0, device=torch.device("cpu"))
    exact_N = token_log_probs(answer_logits(model, group, "float32")[0], group.tokens_N, 1.0)
    sampled_N = torch.tensor([p for s in samples for p in s.log_probs])
    assert not torch.equal(exact_N, sampled_N)
    torch.testing.assert_close(sampled_N, exact_N, atol=0.1, rtol=0.1)
