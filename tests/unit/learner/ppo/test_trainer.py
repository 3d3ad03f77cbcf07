"""Sampling, rollouts and PPO, on a model with random weights."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from learner.data.answers import build_answer_batch
from learner.data.packing import IGNORED
from learner.errors import Interrupted, StateUnusable
from learner.models.forward import answer_logits
from learner.models.parameters import copy_shared
from learner.models.ranks import Ranks
from learner.ppo.critic import ValueHead
from learner.ppo.losses import token_log_probs
from learner.ppo.off_policy import OffPolicyAnswer
from learner.ppo.rollouts import batch_rollouts, finished_share, rows_from_samples
from learner.ppo.targets import TargetInputs, compute_targets
from learner.ppo.trainer import Iteration, run_ppo
from learner.pretraining.next_token import rows_divergence, rows_loss
from learner.sampling.sampler import TransformersSampler
from learner.settings import (
    LearnerSettings,
    PPOSettings,
)
from tests.support.tiny import END, PROMPTS, TINY_PPO, grouped, ppo_inputs, samples_of, text


def test_an_answer_does_not_depend_on_what_is_sampled_beside_it(model: PreTrainedModel) -> None:
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


def test_a_value_head_is_fitted_to_returns_that_its_states_tell() -> None:
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


def test_divergence_on_text_is_the_kl_of_its_tokens_and_nothing_where_nothing_was_learned(
    model: PreTrainedModel,
) -> None:
    rows = text()
    labels_NT = rows.labels_NT.clone()
    labels_NT[:, :3] = IGNORED
    rows = replace(rows, labels_NT=labels_NT)
    policy = copy_shared(model)
    divergence, loss = rows_divergence(policy, model, rows)
    divergence.backward()
    assert divergence.item() == pytest.approx(0, abs=1e-6)
    assert max(p.grad.abs().max().item() for p in policy.parameters() if p.grad is not None) < 1e-6
    assert loss.item() == pytest.approx(rows_loss(model, rows).item(), rel=1e-5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
        divergence, loss = rows_divergence(policy, model, rows)
        p, q = (
            one(input_ids=rows.input_ids_NT, use_cache=False).logits[:, 2:-1].softmax(-1)
            for one in (model, policy)
        )
    assert divergence.item() == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-4)
    assert divergence.item() > 0.01
    assert loss.item() == pytest.approx(rows_loss(policy, rows).item(), rel=1e-5)


@pytest.mark.parametrize("separate", [False, True])
def test_ratio_is_exactly_one_on_the_first_step(model: PreTrainedModel, separate: bool) -> None:
    settings = TINY_PPO.model_copy(update={"separate_critic": separate})
    inputs = ppo_inputs(model, settings)
    groups = grouped(samples_of(model))
    assert len(groups) > 2
    targets, stats = compute_targets(
        groups,
        TargetInputs(
            policy=inputs.policy,
            reference=inputs.reference,
            reward=inputs.reward,
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


def test_sampled_tokens_are_never_re_tokenised_and_prompts_are_not_chosen(
    model: PreTrainedModel,
) -> None:
    found = samples_of(model)
    groups = grouped(found)
    for group in groups:
        tokens = [t for i in group.members for t in found[i].token_ids]
        log_probs = [p for i in group.members for p in found[i].log_probs]
        assert group.answers.tokens_N.tolist() == tokens
        assert group.sampler_log_probs_N.tolist() == pytest.approx(log_probs)
    assert sorted(i for group in groups for i in group.members) == list(range(12))


def test_answers_of_an_earlier_policy_are_weighed_whole_and_told_apart(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    inputs = ppo_inputs(model)
    earlier = inputs.off_policy[0].sample
    one, two = len(earlier.token_ids), sum(len(a.sample.token_ids) for a in inputs.off_policy[1:])
    rarer = replace(earlier, log_probs=tuple(p - 0.5 / one for p in earlier.log_probs))
    inputs = replace(inputs, off_policy=[OffPolicyAnswer(rarer, 2), *inputs.off_policy[1:]])
    half = TINY_PPO.model_copy(update={"live_share": 0.5, "iterations": 1})
    found: list[Iteration] = []
    run_ppo(inputs, half, seed=0, state=tmp_path / "s", on_iteration=found.append)
    assert found[0].live == 0.5
    assert found[0].staleness == pytest.approx((2 + 1 + 1) / 3)
    assert found[0].mismatch_kl == pytest.approx(0, abs=1e-4), "of the fresh ones alone"
    w = math.exp(0.5)  # all its tokens together
    by_hand = (one * w + two) ** 2 / ((one + two) * (one * w * w + two))
    assert found[0].effective_sample_size == pytest.approx(by_hand, abs=1e-3)


def test_ppo_learns_from_live_answers_alone(model: PreTrainedModel, tmp_path: Path) -> None:
    found: list[Iteration] = []
    alone = TINY_PPO.model_copy(update={"live_share": 1.0, "rollouts": 3})
    run_ppo(ppo_inputs(model), alone, seed=0, state=tmp_path / "s", on_iteration=found.append)
    assert [iteration.live for iteration in found] == [1.0] * 3
    assert found[-1].score == pytest.approx(found[0].score, abs=1e-4), "the same answers"


def test_killed_and_resumed_ppo_gives_the_same_weights(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    whole = ppo_inputs(model)
    run_ppo(whole, TINY_PPO, seed=5, state=tmp_path / "whole")
    seen: list[int] = []

    def kill(iteration: Iteration) -> None:
        seen.append(iteration.number)
        if seen == [1, 2]:
            raise Interrupted

    first = ppo_inputs(model)
    with pytest.raises(Interrupted):
        run_ppo(first, TINY_PPO, seed=5, state=tmp_path / "part", on_iteration=kill)
    second = ppo_inputs(model)
    run_ppo(second, TINY_PPO, seed=5, state=tmp_path / "part", on_iteration=kill)
    assert seen == [1, 2, 2, 3]
    pairs = zip(whole.policy.parameters(), second.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(StateUnusable):
        run_ppo(ppo_inputs(model), TINY_PPO, seed=6, state=tmp_path / "part")


def test_who_is_cut_off_as_a_rule_learns_no_brevity_by_that(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    """No answer ends, as where a cycle's answers are shorter than those that people are given."""
    ran = []
    for penalty in (0.0, 2.0):
        inputs = replace(
            ppo_inputs(model),
            off_policy=[],
            sampler=lambda policy: TransformersSampler(policy, [10**6]),
        )
        settings = TINY_PPO.model_copy(update={"unfinished_penalty": penalty})
        run_ppo(inputs, settings, seed=0, state=tmp_path / f"{penalty}")
        ran.append(inputs.policy)
    pairs = zip(ran[0].parameters(), ran[1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_penalty_goes_by_how_many_end_of_those_sampled_now(model: PreTrainedModel) -> None:
    found = [replace(s, finished=i % 3 == 0) for i, s in enumerate(samples_of(model))]
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


def test_ppo_moves_the_policy_and_leaves_the_reference_and_the_reward_model(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    inputs = ppo_inputs(model)
    before = [p.clone() for p in (*model.parameters(), *inputs.reward.parameters())]
    found: list[Iteration] = []
    run_ppo(inputs, TINY_PPO, seed=0, state=tmp_path / "s", on_iteration=found.append)
    after = [*model.parameters(), *inputs.reward.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert found[0].kl == 0
    assert found[-1].kl != 0


def test_large_models_get_other_defaults_but_keep_what_was_set() -> None:
    settings = LearnerSettings(ppo=PPOSettings(max_tokens=99))
    small = {"tune": "full", "compiled": False}
    assert settings.for_model(5_000_000, 1.0) == settings.model_copy(update=small)
    assert settings.for_model(5_000_000, 0.6).ppo.temperature == 0.6
    own = settings.for_model(5_000_000, 0.6, own_text=True)
    assert own.ppo.text_coef > settings.ppo.text_coef
    large = settings.for_model(135_000_000, 0.6)
    assert (large.tune, large.compiled) == ("lora", True)
    assert not LearnerSettings(compiled=False).for_model(135_000_000, 0.6).compiled
    assert large.ppo.max_tokens == 99
    assert large.ppo.rollouts < settings.ppo.rollouts
