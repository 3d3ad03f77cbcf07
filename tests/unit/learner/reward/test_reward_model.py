"""The reward model, on a model with random weights."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from learner.data.answers import PromptAnswers, build_answer_batch, split_prompt
from learner.data.owner_bound import OwnerBound
from learner.data.preferences import PreferenceExample
from learner.models.parameters import copy_shared
from learner.ppo.critic import critic_from_reward_model
from learner.reward.evaluation import RewardReport, evaluate
from learner.reward.likelihoods import davidson_log_probs
from learner.reward.model import RewardModel, load_trained_state, trained_state
from learner.reward.probe import probe
from learner.reward.reliability import Reliabilities
from learner.reward.training import initialise_from_linear_fit, train_reward
from learner.settings import (
    RewardSettings,
)
from tests.support.tiny import END, answer_features

NOBODY = Reliabilities()


def rows(sequences: list[list[int]]) -> list[PromptAnswers]:
    return split_prompt(sequences, shared=False)


def test_the_score_is_read_at_the_last_token_before_the_padding(model: PreTrainedModel) -> None:
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
    sequences = [[2, 50, 3, END], [2, 51, 52, 53, 54, 55, 3, END]]
    together = reward.score(rows(sequences))
    alone = torch.cat([reward.score(rows([s])) for s in sequences])
    torch.testing.assert_close(together, alone)
    longer = reward.score(rows([[2, 50, 3, END, 60]]))
    assert not torch.isclose(longer, alone[:1]).item()


def test_normalised_scores_have_mean_0_and_deviation_1_and_initialise_the_critic(
    model: PreTrainedModel,
) -> None:
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
    answered = rows([[2, 50 + i, 3, END] for i in range(20)])
    reward.normalise(answered)
    scores = reward.score(answered)
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std().item() == pytest.approx(1, abs=1e-5)
    batch = build_answer_batch(answered, pad=0, device=torch.device("cpu"))
    with torch.no_grad():
        values = critic_from_reward_model(reward).scalar(batch)[batch.last_index_A]
    torch.testing.assert_close(values, scores, atol=1e-5, rtol=1e-4)


def liking(token: int, count: int) -> list[PreferenceExample]:
    """Return comparisons in which the answer with `token` always wins."""
    found = []
    for i in range(count):
        good, bad = (2, 50 + i % 40, 3, token, END), (2, 50 + i % 40, 3, 100 + i % 7, END)
        ranks = (0, 1) if i % 2 else (1, 0)
        found.append(
            PreferenceExample(str(i), (good, bad) if i % 2 else (bad, good), (2, 2), ranks)
        )
    return found


def test_reward_model_learns_a_preference_and_reports_its_accuracy(model: PreTrainedModel) -> None:
    settings = RewardSettings(learning_rate=3e-3, epochs=4)
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
    report = train_reward(
        reward, liking(99, 64), liking(99, 30), settings, seed=0, reliabilities=Reliabilities()
    )
    assert report.accuracy == 1
    assert 0.9 < report.lower_bound < 1
    saved = trained_state(reward)
    again = RewardModel(copy_shared(model), pad=0, seed=1)
    load_trained_state(again, saved)
    sequences = rows([list(e.sequences[0]) for e in liking(99, 4)])
    assert torch.equal(again.score(sequences), reward.score(sequences))


def test_reward_model_learns_from_ratings(model: PreTrainedModel) -> None:
    thumbs = [
        PreferenceExample(
            str(i), ((2, 50 + i % 40, 3, 99 if i % 2 else 98, END),), (2,), (), (float(i % 2),)
        )
        for i in range(64)
    ]
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
    settings = RewardSettings(learning_rate=3e-3, epochs=4)
    train_reward(reward, thumbs, liking(99, 10), settings, seed=0, reliabilities=Reliabilities())
    scores = reward.score(rows([[2, 55, 3, 99, END], [2, 55, 3, 98, END]]))
    assert scores[0] > scores[1]


def test_forty_percent_of_hostile_raters_do_not_invert_the_reward_model(
    model: PreTrainedModel,
) -> None:
    honest = liking(99, 360)
    raters = random.Random(0).choices(range(10), k=len(honest))
    votes = [
        replace(e, rater=f"{rater}", ranks=e.ranks[::-1] if rater < 4 else e.ranks)
        for rater, e in zip(raters, honest, strict=True)
    ]
    fair = liking(99, 40)

    def accuracy(reliabilities: Reliabilities) -> tuple[float, RewardReport]:
        reward = RewardModel(copy_shared(model), pad=0, seed=0)
        settings = RewardSettings(learning_rate=1e-3, epochs=2)
        report = train_reward(
            reward, votes[:320], votes[320:], settings, seed=0, reliabilities=reliabilities
        )
        scores = reward.score([r for e in fair for r in split_prompt(e.sequences)]).view(-1, 2)
        right = [
            (a > b).item() == (e.ranks == (0, 1)) for e, (a, b) in zip(fair, scores, strict=True)
        ]
        return sum(right) / len(right), report

    trusted, report = accuracy(probe(answer_features(model, 4096), votes[:320]).reliabilities)
    assert trusted == 1
    assert report.doubted_raters == 4
    assert report.accuracy > 0.95, "the held-out votes of the four do not count"
    assert accuracy(Reliabilities())[1].accuracy < 0.7, "they count if all raters are trusted"


def sybil_attack() -> list[PreferenceExample]:
    """Return five votes of each of 20 keys, and 600 opposite ones of one key's invented users."""
    honest = [replace(e, rater=f"key{i % 20}/anna") for i, e in enumerate(liking(99, 100))]
    invented = [
        replace(e, rater=f"sybil/user{i}", ranks=e.ranks[::-1])
        for i, e in enumerate(liking(99, 600))
    ]
    return [*honest, *invented]


def test_invented_users_of_one_key_do_not_move_the_reward_model(model: PreTrainedModel) -> None:
    fair = liking(99, 40)

    def train(votes: list[PreferenceExample]) -> RewardReport:
        found = probe(answer_features(model), votes)
        reward = RewardModel(copy_shared(model), pad=0, seed=0)
        settings = RewardSettings(learning_rate=1e-3, epochs=2)
        report = train_reward(
            reward, votes, votes, settings, seed=0, reliabilities=found.reliabilities
        )
        assert report.epochs > 0
        assert found.gain_lower_bound > 0
        return evaluate(reward, fair, NOBODY, settings, trained_on=0, epochs=0)

    assert train(sybil_attack()).accuracy == 0, "without the bound they decide"
    assert train(OwnerBound().weigh(sybil_attack())).accuracy == 1


def test_votes_of_one_key_alone_train_nothing_unless_its_users_are_trusted(
    model: PreTrainedModel,
) -> None:
    people = [replace(e, rater=f"app/user{i}") for i, e in enumerate(liking(99, 200))]

    def train(bound: OwnerBound) -> RewardReport:
        votes = bound.weigh(people)
        reward = RewardModel(copy_shared(model), pad=0, seed=0)
        settings = RewardSettings(learning_rate=1e-3, epochs=1)
        return train_reward(
            reward, votes, votes[:40], settings, seed=0, reliabilities=Reliabilities()
        )

    assert train(OwnerBound()).epochs == 0
    report = train(OwnerBound(trusted=frozenset({"app"})))
    assert (report.epochs, report.accuracy) == (1, 1)


def test_weights_of_examples_weigh_every_held_out_figure(model: PreTrainedModel) -> None:
    """The figures are those of whole votes, repeated as often as their weights say."""
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
    settings = RewardSettings(learning_rate=3e-3, epochs=1)
    train_reward(reward, liking(99, 64), liking(99, 8), settings, seed=0, reliabilities=NOBODY)
    votes = [replace(e, ranks=e.ranks[::-1]) if i < 8 else e for i, e in enumerate(liking(99, 40))]
    weighted = [replace(e, weight=0.25) if i < 8 else e for i, e in enumerate(votes)]
    repeated = [*votes[:8], *votes[8:] * 4]

    def figures(examples: list[PreferenceExample]) -> tuple[float, ...]:
        report = evaluate(reward, examples, NOBODY, settings, trained_on=0, epochs=0)
        return (report.accuracy, report.loss, report.temperature, report.calibration_error)

    assert figures(weighted) == pytest.approx(figures(repeated), rel=1e-5)
    assert figures(weighted)[0] == pytest.approx(32 / 34)


def test_head_and_ties_are_initialised_from_a_linear_fit(
    model: PreTrainedModel,
) -> None:
    """Seven in ten of the votes are ties, and no optimizer step is taken."""
    votes = [
        replace(e, ranks=(0, 0), sequences=(e.sequences[0],) * 2) if i % 10 < 7 else e
        for i, e in enumerate(liking(99, 200))
    ]
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
    initialise_from_linear_fit(reward, votes, Reliabilities(), RewardSettings())
    ties = davidson_log_probs(torch.tensor(0.0), reward.log_tie.detach())[2].exp().item()
    assert ties > 0.7
    report = evaluate(
        reward, liking(99, 60), Reliabilities(), RewardSettings(), trained_on=0, epochs=0
    )
    assert report.accuracy > 0.95
    assert all(
        torch.equal(p, q)
        for p, q in zip(reward.scalar.trunk.parameters(), model.model.parameters(), strict=True)
    )


def test_the_offset_is_initialised_from_the_share_of_approvals(model: PreTrainedModel) -> None:
    thumbs = [
        PreferenceExample(str(i), ((2, 50, 3, 90 + i % 9, END),), (2,), (), (float(i % 10 != 0),))
        for i in range(98)
    ]
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
    initialise_from_linear_fit(reward, thumbs, Reliabilities(), RewardSettings())
    assert torch.sigmoid(-reward.offset).item() == pytest.approx(0.89, abs=1e-6)


@pytest.mark.parametrize(("liked", "gains"), [(99, True), (98, False), (None, False)])
def test_scores_gain_over_chance_only_if_raters_agree_with_them(
    model: PreTrainedModel, liked: int | None, gains: bool
) -> None:
    """The model prefers 99; raters prefer 99 or 98, or vote at random."""
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
    settings = RewardSettings(learning_rate=3e-3, epochs=2)
    train_reward(reward, liking(99, 64), liking(99, 8), settings, seed=0, reliabilities=NOBODY)
    rng = random.Random(0)
    votes = [
        replace(e, ranks=e.ranks[::-1])
        if liked == 98 or (liked is None and rng.random() < 0.5)
        else e
        for e in liking(99, 40)
    ]
    report = evaluate(reward, votes, NOBODY, settings, trained_on=0, epochs=0)
    assert (report.gain_lower_bound > 0) == gains
    assert (report.gain_upper_bound > 0) == (liked != 98), "only here it is certain that it fails"


def test_too_few_examples_train_nothing(model: PreTrainedModel) -> None:
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
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
