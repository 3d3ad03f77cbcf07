"""The win rate and its interval against values worked out by hand."""

import math

import pytest
import torch

from learner.gate.win_rate import estimate_win_rate, win_probabilities


def test_a_tie_is_half_a_win() -> None:
    """With d = 2 ln 2 and nu = 1/2, win : loss : tie is 2 : 1/2 : 1/2."""
    found = win_probabilities(torch.tensor([[2 * math.log(2), 0.0]]), torch.tensor(math.log(0.5)))
    assert found[0].tolist() == pytest.approx([2 / 3 + 1 / 12, 0.5])


def test_the_interval_covers_both_judges_and_prompts() -> None:
    """Win rates of 0 and 1 on half of the prompts each, or from half of the judges each."""
    sure = torch.full((2000, 100), 0.75)
    rate = estimate_win_rate(sure, range(100), seed=0)
    assert (rate.lower, rate.mean, rate.upper) == pytest.approx((0.75, 0.75, 0.75))
    prompts = sure.clone()
    prompts[:, ::2], prompts[:, 1::2] = 0.0, 1.0
    rate = estimate_win_rate(prompts, range(100), seed=0)
    # The deviation of a share of one half of a hundred prompts is 0.05.
    assert rate.lower == pytest.approx(0.5 - 1.645 * 0.05, abs=0.01)
    assert rate.upper == pytest.approx(0.5 + 1.645 * 0.05, abs=0.01)
    judges = sure.clone()
    judges[::2], judges[1::2] = 0.0, 1.0
    rate = estimate_win_rate(judges, range(100), seed=0)
    assert (rate.lower, rate.mean, rate.upper) == pytest.approx((0.0, 0.5, 1.0))


def test_pairs_on_one_prompt_are_not_independent() -> None:
    rates = torch.zeros(2000, 100)
    rates[:, :50] = 1.0
    spread = [
        rate.upper - rate.lower
        for prompts in (range(100), [number // 25 for number in range(100)])
        for rate in [estimate_win_rate(rates, prompts, seed=0)]
    ]
    assert spread[1] > 3 * spread[0]
