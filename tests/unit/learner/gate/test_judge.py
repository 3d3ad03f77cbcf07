"""The judge on simulated votes: what it knows, and whether the gate believes it."""

import pytest
import torch
from torch import Tensor

from learner.data.owner_bound import OwnerBound
from learner.data.preferences import PreferenceExample
from learner.data.structure import STRUCTURE_SIZE
from learner.gate.criteria import criteria
from learner.gate.judge import JudgeReport, fit_judge
from learner.gate.win_rate import WinRate, estimate_win_rate, win_probabilities
from learner.reward.posterior import ScorePosterior
from learner.reward.reliability import Reliabilities
from learner.settings import GateSettings

STATES = 2
SIZE = STATES + STRUCTURE_SIZE
MET = {
    "kl": 0.0,
    "text_nll_increase": 0.0,
    "ended": 1.0,
    "live_ended": 1.0,
    "answer_nll_increase": 0.0,
    "worst_sentence_nll_increase": 0.0,
    "distinct": 1.0,
    "first_distinct": 1.0,
}


def simulate(votes: int, taste: float, seed: int) -> tuple[ScorePosterior, JudgeReport]:
    """Fit a judge to noisy comparisons by raters who like the first state, or nothing."""
    generator = torch.Generator().manual_seed(seed)
    features_AD = torch.randn(2 * votes, SIZE, generator=generator)
    utilities = taste * features_AD[:, 0]
    won = torch.rand(votes, generator=generator) < (utilities[::2] - utilities[1::2]).sigmoid()
    examples = [
        PreferenceExample(f"{i:064x}", ((1, 2), (1, 3)), (1, 1), (0, 1) if first else (1, 0))
        for i, first in enumerate(won.tolist())
    ]
    return fit_judge(features_AD, examples, Reliabilities(), seed=seed)


def win_rate(judge: ScorePosterior, shift: Tensor, seed: int = 0) -> WinRate:
    """Return the win rate of answers whose features are shifted, on 40 prompts."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(40, SIZE, generator=generator) for _ in range(2))
    probabilities = win_probabilities(judge.differences(first + shift, second), judge.log_tie)
    return estimate_win_rate(probabilities, list(range(40)), seed=seed)


def liked(shift: float) -> Tensor:
    return torch.tensor([shift, *[0.0] * (SIZE - 1)])


def passes(report: JudgeReport, rate: WinRate) -> bool:
    figures = {
        "judge_gain_lower_bound": report.gain_lower_bound,
        "win_rate_lower_bound": rate.lower,
    }
    return all(c.passed for c in criteria(MET | figures, GateSettings()))


def test_a_judge_that_learned_from_noise_does_not_decide() -> None:
    """Twenty judges of random votes on a candidate that changed a lot: at most one lets it pass."""
    shift = torch.full((SIZE,), 1.0)
    found = [(*simulate(40, 0.0, seed), seed) for seed in range(20)]
    decided = [passes(report, win_rate(judge, shift, seed)) for judge, report, seed in found]
    assert sum(decided) <= 1
    assert sum(report.gain_lower_bound >= 0.001 for _, report, _ in found) <= 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_good_judge_decides(seed: int) -> None:
    judge, report = simulate(120, 2.0, seed)
    better, worse = win_rate(judge, liked(1.5)), win_rate(judge, liked(-1.5))
    assert passes(report, better)
    assert not passes(report, worse)
    assert report.accuracy > 0.7
    # Mean of the logistic function of 2 * (1.5 + x - y) for x, y from N(0, 1).
    assert better.lower < 0.81 < better.upper


def test_a_judge_does_not_know_answers_unlike_those_that_people_saw() -> None:
    """The same good judge, a candidate with something that no answer had before."""
    generator = torch.Generator().manual_seed(0)
    judge, report = simulate(120, 2.0, 0)
    unseen = torch.randn(SIZE, generator=generator)
    unseen[0] = 0.0
    near, far = (win_rate(judge, scale * unseen) for scale in (0.2, 5.0))
    assert far.upper - far.lower > 1.5 * (near.upper - near.lower)
    assert not passes(report, far)


def test_the_votes_of_one_key_do_not_turn_the_judge() -> None:
    """Ten people who like the first state, and one key's many users who dislike it."""
    generator = torch.Generator().manual_seed(0)
    features_AD = torch.randn(800, SIZE, generator=generator)
    votes = []
    for i in range(400):
        first, honest = bool(features_AD[2 * i, 0] > features_AD[2 * i + 1, 0]), i < 100
        rater = f"key{i % 10}/" if honest else f"sybil/user{i}"
        ranks = (0, 1) if first == honest else (1, 0)
        votes.append(PreferenceExample(f"{i:064x}", ((1, 2), (1, 3)), (1, 1), ranks, (), rater))

    def fit(examples: list[PreferenceExample]) -> tuple[ScorePosterior, JudgeReport]:
        return fit_judge(features_AD, examples, Reliabilities(), seed=0)

    judge, report = fit(OwnerBound().weigh(votes))
    assert win_rate(judge, liked(1.5)).lower > 0.5
    assert (report.trained_on, report.gain_lower_bound > 0) == (400, True)
    assert win_rate(fit(votes)[0], liked(1.5)).upper < 0.5, "without the bound they decide"


def test_the_same_votes_give_the_same_judge() -> None:
    (judge, report), (again, repeated) = simulate(30, 1.0, 0), simulate(30, 1.0, 0)
    assert report == repeated
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in judge.state().items())
    assert torch.equal(ScorePosterior(**judge.state()).weights_DS, judge.weights_DS)
