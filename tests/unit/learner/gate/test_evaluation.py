"""The gate, on a model with random weights."""

import math
from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from learner.data.structure import STRUCTURE_SIZE
from learner.gate.criteria import criteria
from learner.gate.evaluation import (
    GateInputs,
    GateResult,
    answer_kl,
    answer_log_probs,
    evaluate_candidate,
)
from learner.reward.posterior import ScorePosterior
from learner.sampling.sampler import Sample, Sampler, TransformersSampler
from learner.settings import GateSettings
from tests.support.tiny import (
    END,
    PROMPTS,
    TINY,
    TINY_PPO,
    answer_features,
    sample_answers,
    text,
)

MET = {
    "min_win_rate": 0.0,
    "max_text_nll_increase": 100.0,
    "max_unended_increase": 1.0,
    "max_answer_nll_increase": 100.0,
    "max_sentence_nll_increase": 100.0,
    "max_distinct_decrease": 1.0,
}


def new_judge() -> ScorePosterior:
    """Return a judge that likes long answers and knows nothing else."""
    size = 2 * TINY.hidden + STRUCTURE_SIZE
    weights_DS = torch.zeros(size, 50, dtype=torch.float64)
    weights_DS[2 * TINY.hidden] = 1.0
    return ScorePosterior(torch.zeros(size), torch.ones(size), weights_DS, torch.tensor(-1.0))


def gate_result(
    model: PreTrainedModel,
    first: Sampler | None = None,
    base_text_nll: float = 5.0,
    judge_gain_lower_bound: float = 0.1,
    **bounds: float,
) -> GateResult:
    sampler = TransformersSampler(model, [END])
    inputs = GateInputs(
        candidate=model,
        reference=model,
        candidate_sampler=sampler,
        live_sampler=sampler,
        first_sampler=first,
        judge=new_judge(),
        judge_gain_lower_bound=judge_gain_lower_bound,
        features=answer_features(model),
        prompts=PROMPTS * 10,
        text=text(),
        base_text_nll=base_text_nll,
    )
    return evaluate_candidate(inputs, GateSettings(**bounds), TINY_PPO, seed=0)


def test_gate_refuses_a_candidate_that_is_not_better_with_a_reason(model: PreTrainedModel) -> None:
    result = gate_result(model, **(MET | {"min_win_rate": 0.5}))
    assert ["the judge predicts that people prefer" in r for r in result.reasons] == [True]
    figures = result.figures
    assert figures["win_rate_lower_bound"] < figures["win_rate"] < figures["win_rate_upper_bound"]
    assert figures["kl"] == 0


@pytest.mark.parametrize("gain", [-0.05, 0.0, math.nan])
def test_gate_refuses_every_candidate_if_the_judge_is_no_better_than_chance(
    model: PreTrainedModel, gain: float
) -> None:
    result = gate_result(model, judge_gain_lower_bound=gain, **MET)
    assert ["not known to be better than chance" in r for r in result.reasons] == [True]


class EmptyAnswers:
    """A sampler of empty answers, which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, *_: object, **__: object
    ) -> list[Sample]:
        self.calls += 1
        return [Sample(tuple(prompt), (END,), (0.0,), True) for prompt in prompts for _ in range(n)]


def test_gate_compares_with_version_1_if_it_is_not_the_parent(
    model: PreTrainedModel,
) -> None:
    parent_is_first = gate_result(model).figures
    assert parent_is_first["win_rate_over_first"] == parent_is_first["win_rate"]
    first = EmptyAnswers()
    figures = gate_result(model, first).figures
    assert figures["win_rate_over_first"] > figures["win_rate"], "the judge likes words"
    assert figures["first_distinct"] == 0.25
    assert first.calls == 2, "to compare the answers, and to count distinct ones"
    with_first = ("win_rate_over_first", "answer_nll_increase", "worst_sentence_nll_increase",
                  "first_distinct")  # fmt: skip
    assert {k: v for k, v in figures.items() if k not in with_first} == {
        k: v for k, v in parent_is_first.items() if k not in with_first
    }


def test_gate_passes_a_candidate_that_meets_every_bound(model: PreTrainedModel) -> None:
    assert gate_result(model, **MET).passed


def test_gate_refuses_a_higher_loss_on_text(model: PreTrainedModel) -> None:
    result = gate_result(model, **(MET | {"max_text_nll_increase": 1e-6}))
    assert ["loss on held-out text" in r for r in result.reasons] == [True]


def test_gate_refuses_answers_that_surprise_version_1(model: PreTrainedModel) -> None:
    """Version 1's empty answers have no loss; the candidate's do."""
    result = gate_result(
        model,
        EmptyAnswers(),
        **(MET | {"max_answer_nll_increase": 0.1, "max_sentence_nll_increase": 0.1}),
    )
    assert ["surprise version 1" in reason for reason in result.reasons] == [True, True]
    assert "worst sentences" in result.reasons[1]


def test_gate_refuses_a_candidate_that_repeats_itself(model: PreTrainedModel) -> None:
    first = gate_result(model).figures["distinct"]
    figures = dict.fromkeys(gate_result(model).figures, 0.0)
    settings = GateSettings(max_distinct_decrease=0.1)
    for share, passed in ((first - 0.05, True), (first - 0.15, False)):
        found = criteria(figures | {"distinct": share, "first_distinct": first}, settings)
        assert [c.passed for c in found if c.name == "distinct"] == [passed]


def test_gate_refuses_a_figure_that_is_nan(model: PreTrainedModel) -> None:
    result = gate_result(model, base_text_nll=math.nan, **MET)
    assert ["loss on held-out text" in r for r in result.reasons] == [True]


def test_log_probs_are_the_samplers(model: PreTrainedModel) -> None:
    samples = sample_answers(model)
    found = answer_log_probs(model, samples, TINY_PPO, 0)
    assert [len(own) for own in found] == [len(sample.token_ids) for sample in samples]
    for own, sample in zip(found, samples, strict=True):
        assert own == pytest.approx(sample.log_probs, abs=1e-4)


def test_kl_estimate_of_a_policy_to_itself_is_zero(model: PreTrainedModel) -> None:
    assert answer_kl(model, model, sample_answers(model), TINY_PPO, 0) == 0
