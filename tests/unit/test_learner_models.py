"""Reward model, rollouts, PPO and gate, on a model with random weights."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from learner.answers import Answered, lay_out, split_prompt
from learner.critic import ValueHead
from learner.errors import Interrupted, StateUnusable
from learner.gate import Verdict, answer_kl, examine, judged_wins
from learner.live import LiveAnswer
from learner.losses import token_log_probs
from learner.model import choices, new_model, twin
from learner.next_token import rows_divergence, rows_loss
from learner.packing import IGNORED, Rows
from learner.ppo import Iteration, Players, run_ppo
from learner.preferences import Example
from learner.probe import probed_reliabilities
from learner.ranks import Ranks
from learner.reliability import Reliabilities
from learner.reward import (
    RewardModel,
    RewardReport,
    critic_of,
    new_critic,
    put_back,
    train_reward,
    trained_state,
)
from learner.rollouts import Group, collect, rows_of, targets
from learner.sampler import Sample, Sampler, TransformersSampler
from learner.settings import (
    GateSettings,
    LearnerSettings,
    PPOSettings,
    PretrainSettings,
    RewardSettings,
)
from learner.tokenizer import train_tokenizer

END = 5
TINY = PretrainSettings(
    vocabulary=300, hidden=32, layers=2, heads=1, feed_forward=32, initial_deviation=0.3
)
PROMPTS = [[2, 50, 3], [2, 51, 52, 53, 3], [2, 60, 61, 3]]
TINY_PPO = PPOSettings(
    iterations=3,
    rollouts=6,
    max_tokens=6,
    text_rows=2,
    text_row=8,
    micro_tokens=30,
    checkpoint_every=1,
    learning_rate=3e-3,
)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return new_model(TINY, train_tokenizer(["a b"], vocabulary=300, context=64)).eval()


def text() -> Rows:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(6, 262, (4, 8), generator=generator)
    return Rows(ids, ids, torch.arange(8).expand(4, 8).contiguous())


def rows(sequences: list[list[int]]) -> list[Answered]:
    return split_prompt(sequences, shared=False)


def test_an_answer_does_not_depend_on_what_is_sampled_beside_it(model: PreTrainedModel) -> None:
    sampler = TransformersSampler(model, [END])
    together = sampler.sample(PROMPTS, 2, 8, 1.0, seed=4)
    alone = [sampler.sample([p], 2, 8, 1.0, 4, [i]) for i, p in enumerate(PROMPTS)]
    tokens = [
        [s.token_ids for s in found] for found in (together, [s for one in alone for s in one])
    ]
    assert tokens[0] == tokens[1]


def test_sampling_in_bfloat16_leaves_the_model_as_it_was(model: PreTrainedModel) -> None:
    policy = twin(model)
    samples = TransformersSampler(policy, [END], dtype="bfloat16").sample(PROMPTS, 2, 8, 1.0, 1)
    assert all(
        torch.equal(p, q) for p, q in zip(policy.parameters(), model.parameters(), strict=True)
    )
    group = lay_out(rows_of(samples), pad=0, device=torch.device("cpu"))
    exact_N = token_log_probs(choices(model, group, "float32")[0], group.tokens_N, 1.0)
    sampled_N = torch.tensor([p for s in samples for p in s.log_probs])
    assert not torch.equal(exact_N, sampled_N)
    torch.testing.assert_close(sampled_N, exact_N, atol=0.1, rtol=0.1)


def samples_of(model: PreTrainedModel, n: int = 4) -> list[Sample]:
    return TransformersSampler(model, [END]).sample(PROMPTS, n, 8, 1.0, seed=1)


def test_reward_is_read_at_the_last_real_token_whatever_the_padding(model: PreTrainedModel) -> None:
    reward = RewardModel(twin(model), pad=0, seed=0)
    sequences = [[2, 50, 3, END], [2, 51, 52, 53, 54, 55, 3, END]]
    together = reward.score(rows(sequences))
    alone = torch.cat([reward.score(rows([s])) for s in sequences])
    torch.testing.assert_close(together, alone)
    longer = reward.score(rows([[2, 50, 3, END, 60]]))
    assert not torch.isclose(longer, alone[:1]).item()


def test_normalised_rewards_have_mean_0_and_deviation_1_and_the_critic_starts_there(
    model: PreTrainedModel,
) -> None:
    reward = RewardModel(twin(model), pad=0, seed=0)
    answered = rows([[2, 50 + i, 3, END] for i in range(20)])
    reward.normalise(answered)
    scores = reward.score(answered)
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std().item() == pytest.approx(1, abs=1e-5)
    batch = lay_out(answered, pad=0, device=torch.device("cpu"))
    with torch.no_grad():
        values = critic_of(reward).scalar(batch)[batch.last_A]
    torch.testing.assert_close(values, scores, atol=1e-5, rtol=1e-4)


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


def liking(token: int, count: int) -> list[Example]:
    """Comparisons in which the answer with `token` always wins."""
    found = []
    for i in range(count):
        good, bad = (2, 50 + i % 40, 3, token, END), (2, 50 + i % 40, 3, 100 + i % 7, END)
        ranks = (0, 1) if i % 2 else (1, 0)
        found.append(Example(str(i), (good, bad) if i % 2 else (bad, good), (2, 2), ranks))
    return found


def test_reward_model_learns_a_preference_and_says_how_sure_it_is(model: PreTrainedModel) -> None:
    settings = RewardSettings(learning_rate=3e-3, epochs=4)
    reward = RewardModel(twin(model), pad=0, seed=0)
    report = train_reward(
        reward, liking(99, 64), liking(99, 30), settings, seed=0, reliabilities=Reliabilities()
    )
    assert report.accuracy == 1
    assert 0.9 < report.lower_bound < 1
    saved = trained_state(reward)
    again = RewardModel(twin(model), pad=0, seed=1)
    put_back(again, saved)
    sequences = rows([list(e.sequences[0]) for e in liking(99, 4)])
    assert torch.equal(again.score(sequences), reward.score(sequences))


def test_reward_model_learns_from_thumbs_too(model: PreTrainedModel) -> None:
    thumbs = [
        Example(str(i), ((2, 50 + i % 40, 3, 99 if i % 2 else 98, END),), (2,), (), (float(i % 2),))
        for i in range(64)
    ]
    reward = RewardModel(twin(model), pad=0, seed=0)
    settings = RewardSettings(learning_rate=3e-3, epochs=4)
    train_reward(reward, thumbs, liking(99, 10), settings, seed=0, reliabilities=Reliabilities())
    scores = reward.score(rows([[2, 55, 3, 99, END], [2, 55, 3, 98, END]]))
    assert scores[0] > scores[1]


def test_forty_percent_of_hostile_raters_do_not_turn_it(model: PreTrainedModel) -> None:
    honest = liking(99, 320)
    votes = [
        replace(e, rater=f"{i % 10}", ranks=e.ranks[::-1] if i % 10 < 4 else e.ranks)
        for i, e in enumerate(honest)
    ]
    fair = liking(99, 40)

    def accuracy(reliabilities: Reliabilities) -> tuple[float, RewardReport]:
        reward = RewardModel(twin(model), pad=0, seed=0)
        settings = RewardSettings(learning_rate=1e-3, epochs=2)
        report = train_reward(
            reward, votes, votes[:40], settings, seed=0, reliabilities=reliabilities
        )
        scores = reward.score([r for e in fair for r in split_prompt(e.sequences)]).view(-1, 2)
        right = [
            (a > b).item() == (e.ranks == (0, 1)) for e, (a, b) in zip(fair, scores, strict=True)
        ]
        return sum(right) / len(right), report

    trusted, report = accuracy(
        probed_reliabilities(model, votes, pad=0, dtype="float32", micro_tokens=4096)
    )
    assert trusted == 1
    assert report.doubted_raters == 4
    assert report.accuracy > 0.95, "the held-out opinions of the four do not count"
    assert accuracy(Reliabilities())[1].accuracy < 0.7, "and if all are believed they do"


def test_too_few_opinions_train_nothing(model: PreTrainedModel) -> None:
    reward = RewardModel(twin(model), pad=0, seed=0)
    before = {n: p.clone() for n, p in reward.named_parameters()}
    report = train_reward(
        reward,
        liking(99, 5),
        liking(99, 5),
        RewardSettings(),
        seed=0,
        reliabilities=Reliabilities(),
    )
    assert report.epochs == 0
    assert all(torch.equal(p, before[n]) for n, p in reward.named_parameters())


def test_divergence_on_text_is_the_kl_of_its_tokens_and_nothing_where_nothing_was_learned(
    model: PreTrainedModel,
) -> None:
    rows = text()
    labels_NT = rows.labels_NT.clone()
    labels_NT[:, :3] = IGNORED
    rows = replace(rows, labels_NT=labels_NT)
    policy = twin(model)
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


def players(model: PreTrainedModel, settings: PPOSettings = TINY_PPO) -> Players:
    reward = RewardModel(twin(model), pad=0, seed=0)
    reward.normalise(rows_of(samples_of(model)))
    policy = twin(model)
    return Players(
        policy=policy,
        critic=new_critic(policy, reward, settings),
        reference=model,
        reward=reward,
        sampler=lambda policy: TransformersSampler(policy, [END]),
        prompts=PROMPTS,
        text=text(),
        live=[LiveAnswer(sample, 1) for sample in samples_of(model, 1)],
    )


def grouped(samples: list[Sample]) -> list[Group]:
    return collect(
        samples,
        [True] * len(samples),
        pad=0,
        micro_tokens=30,
        device=torch.device("cpu"),
        ranks=Ranks(),
    )


@pytest.mark.parametrize("separate", [False, True])
def test_ratio_is_exactly_one_on_the_first_step(model: PreTrainedModel, separate: bool) -> None:
    settings = TINY_PPO.model_copy(update={"separate_critic": separate})
    playing = players(model, settings)
    groups = grouped(samples_of(model))
    assert len(groups) > 2
    fixed, measured = targets(
        groups,
        policy=playing.policy,
        reference=playing.reference,
        reward=playing.reward,
        critic=playing.critic,
        settings=settings,
        kl_coef=0.05,
        dtype="float32",
        ranks=Ranks(),
        first=True,
    )
    for group, target in zip(groups, fixed, strict=True):
        logits, states = choices(playing.policy, group.batch, "float32")
        found = token_log_probs(logits, group.batch.tokens_N, 1.0)
        assert found.requires_grad
        assert torch.equal(found, target.old_log_probs_N)
        assert torch.equal(playing.critic.values(group.batch, states), target.old_values_N)
    # The policy still is the reference, and the sampler's figures are the trainer's.
    assert measured.kl == 0
    assert measured.mismatch_kl == pytest.approx(0, abs=1e-4)
    weights = torch.cat([target.weights_N for target in fixed])
    torch.testing.assert_close(weights, torch.ones(len(weights)), atol=1e-3, rtol=0)
    advantages = torch.cat([target.advantages_N for target in fixed])
    assert advantages.mean().item() == pytest.approx(0, abs=1e-5)


def test_sampled_tokens_are_never_re_tokenised_and_prompts_are_not_chosen(
    model: PreTrainedModel,
) -> None:
    found = samples_of(model)
    groups = grouped(found)
    for group in groups:
        tokens = [t for i in group.members for t in found[i].token_ids]
        log_probs = [p for i in group.members for p in found[i].log_probs]
        assert group.batch.tokens_N.tolist() == tokens
        assert group.sampler_log_probs_N.tolist() == pytest.approx(log_probs)
    assert sorted(i for group in groups for i in group.members) == list(range(12))


def test_answers_of_an_earlier_policy_are_weighed_whole_and_told_apart(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    playing = players(model)
    earlier = playing.live[0].sample
    one, two = len(earlier.token_ids), sum(len(a.sample.token_ids) for a in playing.live[1:])
    rarer = replace(earlier, log_probs=tuple(p - 0.5 / one for p in earlier.log_probs))
    playing.live = [LiveAnswer(rarer, 2), *playing.live[1:]]
    half = TINY_PPO.model_copy(update={"live_share": 0.5, "iterations": 1})
    found: list[Iteration] = []
    run_ppo(playing, half, seed=0, state=tmp_path / "s", on_iteration=found.append)
    assert found[0].live == 0.5
    assert found[0].staleness == pytest.approx((2 + 1 + 1) / 3)
    assert found[0].mismatch_kl == pytest.approx(0, abs=1e-4), "of the fresh ones alone"
    w = math.exp(0.5)  # all its tokens together
    by_hand = (one * w + two) ** 2 / ((one + two) * (one * w * w + two))
    assert found[0].effective_sample_size == pytest.approx(by_hand, abs=1e-3)


def test_ppo_learns_from_live_answers_alone(model: PreTrainedModel, tmp_path: Path) -> None:
    found: list[Iteration] = []
    alone = TINY_PPO.model_copy(update={"live_share": 1.0, "rollouts": 3})
    run_ppo(players(model), alone, seed=0, state=tmp_path / "s", on_iteration=found.append)
    assert [iteration.live for iteration in found] == [1.0] * 3
    assert found[-1].score == pytest.approx(found[0].score, abs=1e-4), "the same answers"


def test_killed_and_resumed_ppo_gives_the_same_weights(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    whole = players(model)
    run_ppo(whole, TINY_PPO, seed=5, state=tmp_path / "whole")
    seen: list[int] = []

    def kill(iteration: Iteration) -> None:
        seen.append(iteration.number)
        if seen == [1, 2]:
            raise Interrupted

    first = players(model)
    with pytest.raises(Interrupted):
        run_ppo(first, TINY_PPO, seed=5, state=tmp_path / "part", on_iteration=kill)
    second = players(model)
    run_ppo(second, TINY_PPO, seed=5, state=tmp_path / "part", on_iteration=kill)
    assert seen == [1, 2, 2, 3]
    pairs = zip(whole.policy.parameters(), second.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(StateUnusable):
        run_ppo(players(model), TINY_PPO, seed=6, state=tmp_path / "part")


def test_ppo_moves_the_policy_and_leaves_the_reference_and_the_reward_model(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    playing = players(model)
    before = [p.clone() for p in (*model.parameters(), *playing.reward.parameters())]
    found: list[Iteration] = []
    run_ppo(playing, TINY_PPO, seed=0, state=tmp_path / "s", on_iteration=found.append)
    after = [*model.parameters(), *playing.reward.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert found[0].kl == 0
    assert found[-1].kl != 0


def examined(
    model: PreTrainedModel,
    first: Sampler | None = None,
    base_text_nll: float = 5.0,
    **changes: float,
) -> Verdict:
    sampler = TransformersSampler(model, [END])
    return examine(
        candidate=model,
        reference=model,
        samplers=(sampler, sampler),
        first=first,
        judge=RewardModel(twin(model), pad=0, seed=0),
        judge_accuracy=0.8,
        prompts=PROMPTS * 10,
        text=text(),
        base_text_nll=base_text_nll,
        settings=GateSettings(**changes),
        ppo=TINY_PPO,
        seed=0,
    )


def test_gate_refuses_what_is_no_better_and_says_why(model: PreTrainedModel) -> None:
    verdict = examined(model, max_text_nll_increase=100.0)
    assert not verdict.passed
    assert "the judge prefers it on" in verdict.reasons[0]
    assert verdict.figures["kl"] == 0


class Silent:
    """A policy that ends every answer before it begins; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def sample(self, prompts: Sequence[Sequence[int]], *_: object, **__: object) -> list[Sample]:
        self.asked += 1
        return [Sample(tuple(prompt), (END,), (0.0,), True) for prompt in prompts]


def test_gate_holds_a_candidate_against_version_1_where_that_is_not_its_parent(
    model: PreTrainedModel,
) -> None:
    parent_is_first = examined(model).figures
    assert parent_is_first["win_rate_over_first"] == parent_is_first["win_rate"]
    first, prompts = Silent(), PROMPTS * 10
    sampler = TransformersSampler(model, [END])
    answers = sampler.sample(prompts, 1, TINY_PPO.max_tokens, TINY_PPO.temperature, 0)
    wins = judged_wins(RewardModel(twin(model), pad=0, seed=0), answers, first.sample(prompts))
    figures = examined(model, first).figures
    assert figures["win_rate_over_first"] == wins / len(prompts) != figures["win_rate"]
    assert first.asked == 2, "once here, once by the gate"
    assert {**figures, "win_rate_over_first": 0} == {**parent_is_first, "win_rate_over_first": 0}


def test_gate_passes_what_meets_every_bound(model: PreTrainedModel) -> None:
    lenient = {"max_text_nll_increase": 100.0, "min_win_rate": 0.0, "max_unended_increase": 1.0}
    assert examined(model, **lenient).passed


def test_gate_guards_the_likelihood_of_text(model: PreTrainedModel) -> None:
    verdict = examined(
        model, min_win_rate=0.0, max_text_nll_increase=1e-6, max_unended_increase=1.0
    )
    assert ["text costs" in r for r in verdict.reasons] == [True]


def test_gate_refuses_a_figure_that_is_no_number(model: PreTrainedModel) -> None:
    verdict = examined(model, base_text_nll=math.nan, min_win_rate=0.0, max_unended_increase=1.0)
    assert ["text costs" in r for r in verdict.reasons] == [True]


def test_kl_estimate_of_a_policy_to_itself_is_zero(model: PreTrainedModel) -> None:
    assert answer_kl(model, model, samples_of(model), TINY_PPO, 0) == 0


def test_large_models_get_other_defaults_but_keep_what_was_set() -> None:
    settings = LearnerSettings(ppo=PPOSettings(max_tokens=99))
    assert settings.for_model(5_000_000, 1.0) == settings.model_copy(update={"tune": "full"})
    assert settings.for_model(5_000_000, 0.6).ppo.temperature == 0.6
    own = settings.for_model(5_000_000, 0.6, own_text=True)
    assert own.ppo.text_coef > settings.ppo.text_coef
    large = settings.for_model(135_000_000, 0.6)
    assert large.tune == "lora"
    assert large.ppo.max_tokens == 99
    assert large.ppo.rollouts < settings.ppo.rollouts
