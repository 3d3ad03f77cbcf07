"""The gate, on a model with random weights."""

import math
from collections.abc import Sequence

from transformers import PreTrainedModel

from learner.gate.examination import Verdict, answer_kl, count_wins, examine
from learner.models.model import copy_shared
from learner.reward.model import RewardModel
from learner.sampling.sampler import Sample, Sampler, TransformersSampler
from learner.settings import (
    GateSettings,
)
from tests.support.tiny import END, PROMPTS, TINY_PPO, samples_of, text


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
        judge=RewardModel(copy_shared(model), pad=0, seed=0),
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
    wins = count_wins(
        RewardModel(copy_shared(model), pad=0, seed=0), answers, first.sample(prompts)
    )
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
