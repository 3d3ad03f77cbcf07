"""Batches of rollouts, on a model with random weights."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from learner.models.ranks import Ranks
from learner.ppo.rollouts import batch_rollouts, deal_rollouts, finished_share
from tests.support.tiny import rollout_batches, sample_answers


def test_sampled_tokens_are_never_re_tokenised_and_prompts_are_left_out(
    model: PreTrainedModel,
) -> None:
    found = sample_answers(model)
    groups = rollout_batches(found)
    for group in groups:
        tokens = [t for i in group.members for t in found[i].token_ids]
        log_probs = [p for i in group.members for p in found[i].log_probs]
        assert group.answers.tokens_N.tolist() == tokens
        assert group.sampler_log_probs_N.tolist() == pytest.approx(log_probs)
    assert sorted(i for group in groups for i in group.members) == list(range(12))


def test_every_process_has_a_share_of_every_minibatch() -> None:
    order = [7, 0, 3, 6, 1, 4, 5, 2]
    dealt = [deal_rollouts(order, 2, Ranks(rank, 4)) for rank in range(4)]
    assert dealt[0] == [[7], [0]]
    assert dealt[3] == [[5], [2]]
    assert sorted(n for share in dealt for members in share for n in members) == list(range(8))
    assert deal_rollouts(order, 2, Ranks()) == [order[::2], order[1::2]]


def test_the_finished_share_is_that_of_the_fresh_answers(model: PreTrainedModel) -> None:
    found = [replace(s, finished=i % 3 == 0) for i, s in enumerate(sample_answers(model))]
    groups = batch_rollouts(
        found,
        [i % 2 == 0 for i in range(len(found))],
        pad=0,
        micro_tokens=30,
        device=torch.device("cpu"),
        ranks=Ranks(),
    )
    assert finished_share(groups, Ranks()) == pytest.approx(1 / 3)
    earlier = [replace(group, fresh_A=torch.zeros_like(group.fresh_A)) for group in groups]
    assert finished_share(earlier, Ranks()) == pytest.approx(1 / 3)
    first = [replace(g, finished_A=g.fresh_A.clone()) for g in groups]
    assert finished_share(first, Ranks()) == 1
