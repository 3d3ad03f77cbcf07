"""PPO runs, on a model with random weights."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from learner.errors import Interrupted, StateUnusable
from learner.ppo.off_policy import OffPolicyAnswer
from learner.ppo.trainer import Iteration, run_ppo
from learner.sampling.sampler import TransformersSampler
from tests.support.tiny import TINY_PPO, ppo_inputs


def test_off_policy_answers_have_one_weight_per_answer_and_figures_of_their_own(
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
    assert found[0].mismatch_kl == pytest.approx(0, abs=1e-4), "of the fresh answers alone"
    w = math.exp(0.5)  # of all its tokens together
    by_hand = (one * w + two) ** 2 / ((one + two) * (one * w * w + two))
    assert found[0].effective_sample_size == pytest.approx(by_hand, abs=1e-3)


def test_ppo_learns_from_off_policy_answers_alone(model: PreTrainedModel, tmp_path: Path) -> None:
    found: list[Iteration] = []
    alone = TINY_PPO.model_copy(update={"live_share": 1.0, "rollouts": 3})
    run_ppo(ppo_inputs(model), alone, seed=0, state=tmp_path / "s", on_iteration=found.append)
    assert [iteration.live for iteration in found] == [1.0] * 3
    assert found[-1].score == pytest.approx(found[0].score, abs=1e-4), "the same answers"


def test_killed_and_resumed_ppo_gives_the_same_weights(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    whole = ppo_inputs(model)
    candidate = run_ppo(whole, TINY_PPO, seed=5, state=tmp_path / "whole")
    seen: list[int] = []

    def kill(iteration: Iteration) -> None:
        seen.append(iteration.number)
        if seen == [1, 2]:
            raise Interrupted

    first = ppo_inputs(model)
    with pytest.raises(Interrupted):
        run_ppo(first, TINY_PPO, seed=5, state=tmp_path / "part", on_iteration=kill)
    second = ppo_inputs(model)
    resumed = run_ppo(second, TINY_PPO, seed=5, state=tmp_path / "part", on_iteration=kill)
    assert seen == [1, 2, 2, 3]
    pairs = zip(whole.policy.parameters(), second.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(candidate.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(StateUnusable):
        run_ppo(ppo_inputs(model), TINY_PPO, seed=6, state=tmp_path / "part")


def test_the_truncation_penalty_is_zero_if_no_answer_is_finished(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    """No answer is finished, as if the token limit of a cycle were far below that of serving."""
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


def test_ppo_changes_the_policy_but_not_the_reference_or_the_reward_model(
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


def test_the_candidate_is_the_policy_whose_answers_people_like_best(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    inputs = ppo_inputs(model)
    found: list[Iteration] = []
    policies = [[p.clone() for p in inputs.policy.parameters()]]  # at the start of each iteration

    def note(iteration: Iteration) -> None:
        found.append(iteration)
        policies.append([p.detach().clone() for p in inputs.policy.parameters()])

    settings = TINY_PPO.model_copy(update={"iterations": 6, "learning_rate": 3e-2})
    candidate = run_ppo(inputs, settings, seed=1, state=tmp_path / "s", on_iteration=note)
    preferred = [iteration.preferred for iteration in found[1:]]  # the first one is no candidate
    best = 1 + preferred.index(max(preferred))
    assert 1 < best < 5, "neither the first candidate nor the last"
    pairs = zip(candidate.parameters(), policies[best], strict=True)
    assert all(torch.equal(own, expected) for own, expected in pairs)


def test_without_posteriors_the_last_policy_is_the_candidate(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    inputs = replace(ppo_inputs(model), posteriors=None)
    last: list[torch.Tensor] = []

    def note(_: Iteration) -> None:
        last[:] = [p.detach().clone() for p in inputs.policy.parameters()]

    candidate = run_ppo(inputs, TINY_PPO, seed=0, state=tmp_path / "s", on_iteration=note)
    assert all(torch.equal(a, b) for a, b in zip(candidate.parameters(), last, strict=True))
