"""The gate, on a model with random weights."""

import math
from collections.abc import Sequence

from transformers import PreTrainedModel

from learner.gate.evaluation import (
    GateInputs,
    GateResult,
    answer_kl,
    count_wins,
    evaluate_candidate,
)
from learner.models.parameters import copy_shared
from learner.reward.model import RewardModel
from learner.sampling.sampler import Sample, Sampler, TransformersSampler
from learner.settings import GateSettings
from tests.support.tiny import END, PROMPTS, TINY_PPO, sample_answers, text


def gate_result(
    model: PreTrainedModel,
    first: Sampler | None = None,
    base_text_nll: float = 5.0,
    **bounds: float,
) -> GateResult:
    sampler = TransformersSampler(model, [END])
    inputs = GateInputs(
        candidate=model,
        reference=model,
        candidate_sampler=sampler,
        live_sampler=sampler,
        first_sampler=first,
        judge=RewardModel(copy_shared(model), pad=0, seed=0),
        prompts=PROMPTS * 10,
        text=text(),
        base_text_nll=base_text_nll,
    )
    return evaluate_candidate(inputs, GateSettings(**bounds), TINY_PPO, seed=0)


def test_gate_refuses_a_candidate_that_is_not_better_with_a_reason(model: PreTrainedModel) -> None:
    result = gate_result(model, max_text_nll_increase=100.0)
    assert not result.passed
    assert "the judge prefers the candidate on" in result.reasons[0]
    assert result.figures["kl"] == 0


class EmptyAnswers:
    """A sampler of empty answers, which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def sample(self, prompts: Sequence[Sequence[int]], *_: object, **__: object) -> list[Sample]:
        self.calls += 1
        return [Sample(tuple(prompt), (END,), (0.0,), True) for prompt in prompts]


def test_gate_compares_with_version_1_if_it_is_not_the_parent(
    model: PreTrainedModel,
) -> None:
    parent_is_first = gate_result(model).figures
    assert parent_is_first["win_rate_over_first"] == parent_is_first["win_rate"]
    first, prompts = EmptyAnswers(), PROMPTS * 10
    sampler = TransformersSampler(model, [END])
    answers = sampler.sample(prompts, 1, TINY_PPO.max_tokens, TINY_PPO.temperature, 0)
    wins = count_wins(
        RewardModel(copy_shared(model), pad=0, seed=0), answers, first.sample(prompts)
    )
    figures = gate_result(model, first).figures
    assert figures["win_rate_over_first"] == wins / len(prompts) != figures["win_rate"]
    assert first.calls == 2, "once by this test, once by the gate"
    assert {**figures, "win_rate_over_first": 0} == {**parent_is_first, "win_rate_over_first": 0}


def test_gate_passes_a_candidate_that_meets_every_bound(model: PreTrainedModel) -> None:
    lenient = {"max_text_nll_increase": 100.0, "min_win_rate": 0.0, "max_unended_increase": 1.0}
    assert gate_result(model, **lenient).passed


def test_gate_refuses_a_higher_loss_on_text(model: PreTrainedModel) -> None:
    result = gate_result(
        model, min_win_rate=0.0, max_text_nll_increase=1e-6, max_unended_increase=1.0
    )
    assert ["loss on held-out text" in r for r in result.reasons] == [True]


def test_gate_refuses_a_figure_that_is_nan(model: PreTrainedModel) -> None:
    result = gate_result(model, base_text_nll=math.nan, min_win_rate=0.0, max_unended_increase=1.0)
    assert ["loss on held-out text" in r for r in result.reasons] == [True]


def test_kl_estimate_of_a_policy_to_itself_is_zero(model: PreTrainedModel) -> None:
    assert answer_kl(model, model, sample_answers(model), TINY_PPO, 0) == 0
