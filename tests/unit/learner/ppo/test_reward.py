"""The score that PPO climbs, on features drawn at random."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.data.answers import PromptAnswers
from learner.data.preferences import PreferenceExample
from learner.data.structure import STRUCTURE_SIZE
from learner.models.parameters import copy_shared
from learner.ppo.reward import PessimisticScore, fit_score, load_score, pessimistic
from learner.reward.evaluation import evaluate
from learner.reward.features import AnswerFeatures
from learner.reward.model import RewardModel
from learner.reward.reliability import Reliabilities
from learner.settings import RewardSettings

SIZE = 2 + STRUCTURE_SIZE
TYPICAL = [PromptAnswers((2, 50, 3), ((60 + i, 5),)) for i in range(40)]


class DrawnFeatures:
    """Features drawn from a normal distribution, by the second token of the answer."""

    def __init__(self, shift: float = 0.0) -> None:
        self.table_VD = torch.randn(300, SIZE, generator=torch.Generator().manual_seed(1)) + shift

    def of_examples(self, examples: Sequence[PreferenceExample], *_: object) -> Tensor:
        return self.table_VD[[s[-2] for e in examples for s in e.sequences]]

    def of(self, rows: Sequence[PromptAnswers], **_: object) -> Tensor:
        return self.table_VD[[row.answers[0][0] for row in rows]]


def vote(features: DrawnFeatures, count: int, taste: float, seed: int) -> list[PreferenceExample]:
    """Return noisy comparisons by raters who like the first state."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        left, right = torch.randint(60, 260, (2,), generator=generator).tolist()
        difference = taste * (features.table_VD[left, 0] - features.table_VD[right, 0])
        won = bool(torch.rand(1, generator=generator) < difference.sigmoid())
        sequences = ((2, 50, 3, left, 5), (2, 50, 3, right, 5))
        ranks = (0, 1) if won else (1, 0)
        found.append(PreferenceExample(f"{seed}{i:063x}", sequences, (2, 2), ranks))
    return found


def fit(model: PreTrainedModel, votes: int, taste: float = 2.0) -> PessimisticScore:
    features, settings = DrawnFeatures(), RewardSettings()
    reward = RewardModel(copy_shared(model), pad=0, seed=0)  # it has learned nothing
    held_out = vote(features, 60, taste, 7)
    report = evaluate(reward, held_out, Reliabilities(), settings, trained_on=votes, epochs=1)
    reward.normalise(TYPICAL)
    return fit_score(
        cast(AnswerFeatures, cast(Any, features)),
        reward,
        report,
        vote(features, votes, taste, 3),
        held_out,
        Reliabilities(),
        TYPICAL,
        seed=0,
    )


def test_the_score_is_the_mean_minus_a_deviation() -> None:
    drawn_SA = torch.tensor([[1.0, 4.0], [3.0, 4.0]])
    assert pessimistic(drawn_SA).tolist() == pytest.approx([2 - 2**0.5, 4.0])


def test_the_posterior_counts_by_what_it_predicts_of_held_out_votes(model: PreTrainedModel) -> None:
    score = fit(model, 120)
    assert score.posterior_share > 0.9
    assert score.model_factor < 0.1


def test_typical_scores_have_mean_0_and_vary_the_less_the_less_is_known(
    model: PreTrainedModel,
) -> None:
    typical_AD = DrawnFeatures().of(TYPICAL)
    spreads = []
    for votes in (10, 60, 240):
        scores_A = fit(model, votes).scores(typical_AD, torch.zeros(len(TYPICAL)))
        spreads.append(scores_A.std().item())
    assert spreads[0] < spreads[1] < spreads[2] < 1.1
    assert spreads[0] < 0.6
    score = fit(model, 60)
    own_A = score.scores(typical_AD, score.model_factor.new_zeros(len(TYPICAL)))
    assert own_A.mean().item() == pytest.approx(0.0, abs=0.2)


def test_answers_unlike_the_rated_ones_score_low(model: PreTrainedModel) -> None:
    score, none = fit(model, 120), torch.zeros(1)
    liked_1D = torch.zeros(1, SIZE)
    liked_1D[0, 0] = 1.5
    strange_1D = liked_1D.clone()
    strange_1D[0, 1:] = 6.0
    assert score.scores(liked_1D, none) > score.scores(torch.zeros(1, SIZE), none)
    assert score.scores(strange_1D, none) < score.scores(liked_1D, none) - 1


def test_a_saved_score_is_the_same(model: PreTrainedModel) -> None:
    score, features_AD = fit(model, 30), DrawnFeatures().of(TYPICAL)
    again = load_score(score.state())
    ones_A = torch.ones(len(TYPICAL))
    assert torch.equal(again.scores(features_AD, ones_A), score.scores(features_AD, ones_A))
    halved = replace(again, deviation=2 * again.deviation)
    torch.testing.assert_close(
        2 * halved.scores(features_AD, ones_A), again.scores(features_AD, ones_A)
    )
