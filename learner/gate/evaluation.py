"""Evaluate a candidate policy: the gate before publication.

The gate compares the candidate with the live policy on held-out prompts and checks the criteria
of `learner.gate.criteria`. Its win rate comes from the judge (`learner.gate.judge`), whose bounds
say how little is known of answers that nobody has rated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from transformers import PreTrainedModel

from learner.data.packing import Rows
from learner.gate.criteria import criteria
from learner.gate.win_rate import WinRate, estimate_win_rate, win_probabilities
from learner.gate.writing import distinct_share, fluency
from learner.models.forward import answer_logits
from learner.models.ranks import Ranks
from learner.ppo.losses import token_log_probs
from learner.ppo.rollouts import batch_rollouts, rows_from_samples
from learner.pretraining.next_token import text_nll
from learner.reward.features import AnswerFeatures
from learner.reward.posterior import ScorePosterior
from learner.sampling.sampler import Sample, Sampler
from learner.settings import GateSettings, PPOSettings

_SAMPLES: Final = 4  # answers to a prompt, of which the distinct ones are counted


@dataclass(frozen=True, slots=True)
class GateInputs:
    """Models and held-out data that the gate compares.

    Attributes:
        candidate: Policy that may be published.
        reference: SFT policy, from which the KL divergence is measured.
        candidate_sampler: Sampler of the candidate.
        live_sampler: Sampler of the live policy.
        first_sampler: Sampler of version 1; None if the live policy is version 1.
        judge: Judge of the win rates.
        judge_gain_lower_bound: Lower bound of the judge's gain over chance, in nats per example.
        features: Features that the judge reads.
        prompts: Token ids of held-out prompts.
        text: Packed held-out text.
        base_text_nll: Loss on `text`, in nats per token, of the pre-trained model, or of the SFT
            model if there is no pre-trained one.

    """

    candidate: PreTrainedModel
    reference: PreTrainedModel
    candidate_sampler: Sampler
    live_sampler: Sampler
    first_sampler: Sampler | None
    judge: ScorePosterior
    judge_gain_lower_bound: float
    features: AnswerFeatures
    prompts: Sequence[Sequence[int]]
    text: Rows
    base_text_nll: float


@dataclass(frozen=True, slots=True)
class GateResult:
    """Outcome of the gate.

    Attributes:
        reasons: Reason for each criterion that the candidate does not meet.
        figures: Figures by name: judge_gain_lower_bound, win_rate, win_rate_lower_bound,
            win_rate_upper_bound, win_rate_over_first, kl, text_nll, text_nll_increase, ended,
            live_ended, answer_nll_increase, worst_sentence_nll_increase, distinct, first_distinct.

    """

    reasons: tuple[str, ...]
    figures: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether the candidate may be published."""
        return not self.reasons


def evaluate_candidate(
    inputs: GateInputs, settings: GateSettings, ppo: PPOSettings, *, seed: int
) -> GateResult:
    """Compare the candidate with the live policy and check every criterion of the gate.

    Args:
        inputs: Models and held-out data.
        settings: Bounds of the criteria.
        ppo: Sampling parameters and batch size of PPO; the gate uses the same.
        seed: Random seed of the sampled answers and of the win rate's interval.

    """

    def sample(sampler: Sampler, seed: int) -> list[Sample]:
        return sampler.sample(inputs.prompts, 1, ppo.max_tokens, ppo.temperature, seed)

    def distinct(sampler: Sampler, seed: int) -> float:
        prompts = _distinct(inputs.prompts)[: settings.distinct_prompts]
        samples = sampler.sample(prompts, _SAMPLES, ppo.max_tokens, ppo.temperature, seed)
        return distinct_share(samples)

    first_sampler = inputs.first_sampler or inputs.live_sampler
    answers = sample(inputs.candidate_sampler, seed)
    live_answers = first_answers = sample(inputs.live_sampler, seed + 1)
    win_rate = first_win_rate = judge_win_rate(inputs, answers, live_answers, seed=seed)
    if inputs.first_sampler is not None:
        first_answers = sample(first_sampler, seed + 2)
        first_win_rate = judge_win_rate(inputs, answers, first_answers, seed=seed)
    nll = text_nll(inputs.candidate, inputs.text)
    figures = {
        "judge_gain_lower_bound": inputs.judge_gain_lower_bound,
        "win_rate": win_rate.mean,
        "win_rate_lower_bound": win_rate.lower,
        "win_rate_upper_bound": win_rate.upper,
        "win_rate_over_first": first_win_rate.mean,
        **_compare_with_first(inputs, answers, first_answers, ppo),
        "text_nll": nll,
        "text_nll_increase": nll - inputs.base_text_nll,
        "ended": _finished_share(answers),
        "live_ended": _finished_share(live_answers),
        "distinct": distinct(inputs.candidate_sampler, seed + 3),
        "first_distinct": distinct(first_sampler, seed + 4),
    }
    return GateResult(_reasons(figures, settings), figures)


def judge_win_rate(
    inputs: GateInputs, answers: Sequence[Sample], others: Sequence[Sample], *, seed: int
) -> WinRate:
    """Return the win rate of answers over others to the same prompts, as the judge predicts it."""
    features_ND, others_ND = (
        inputs.features.of(rows_from_samples(own)) for own in (answers, others)
    )
    differences_SN = inputs.judge.differences(features_ND, others_ND)
    probabilities_SN = win_probabilities(differences_SN, inputs.judge.log_tie)
    return estimate_win_rate(probabilities_SN, [answer.prompt for answer in answers], seed=seed)


def _compare_with_first(
    inputs: GateInputs, answers: Sequence[Sample], first_answers: Sequence[Sample], ppo: PPOSettings
) -> dict[str, float]:
    """Return the KL from version 1, and how much more the answers surprise it than its own do."""
    pad = inputs.features.pad

    @cache
    def decode_token(token: int) -> str:
        return str(inputs.features.tokenizer.decode([token]))

    log_probs, reference_log_probs = (
        answer_log_probs(model, answers, ppo, pad) for model in (inputs.candidate, inputs.reference)
    )
    own = fluency(answers, reference_log_probs, decode_token)
    first = fluency(first_answers, [answer.log_probs for answer in first_answers], decode_token)
    return {
        "kl": _mean_divergence(log_probs, reference_log_probs),
        "answer_nll_increase": own.mean - first.mean,
        "worst_sentence_nll_increase": own.worst - first.worst,
    }


def answer_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    samples: Sequence[Sample],
    settings: PPOSettings,
    pad: int,
) -> float:
    """Estimate KL(policy, reference) in nats per answer from the policy's own samples."""
    return _mean_divergence(
        *(answer_log_probs(model, samples, settings, pad) for model in (policy, reference))
    )


def _mean_divergence(
    log_probs: Sequence[Sequence[float]], reference_log_probs: Sequence[Sequence[float]]
) -> float:
    pairs = zip(log_probs, reference_log_probs, strict=True)
    return sum(sum(own) - sum(reference) for own, reference in pairs) / len(log_probs)


@torch.no_grad()
def answer_log_probs(
    model: PreTrainedModel, samples: Sequence[Sample], settings: PPOSettings, pad: int
) -> list[list[float]]:
    """Return the log-probability of each token of each answer at the sampling temperature."""
    found: dict[int, list[float]] = {}
    for group in batch_rollouts(
        samples,
        [True] * len(samples),
        pad=pad,
        micro_tokens=settings.micro_tokens,
        device=model.device,
        ranks=Ranks(),
    ):
        logits_NV, _ = answer_logits(model, group.answers, "float32")
        log_probs_N = token_log_probs(logits_NV, group.answers.tokens_N, settings.temperature)
        lengths = [len(samples[i].token_ids) for i in group.members]
        found.update(
            (i, own.tolist())
            for i, own in zip(group.members, torch.split(log_probs_N, lengths), strict=True)
        )
    return [found[i] for i in range(len(samples))]


def _distinct(prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(tuple(prompt) for prompt in prompts))


def _finished_share(samples: Sequence[Sample]) -> float:
    return sum(sample.finished for sample in samples) / len(samples)


def reason_of_weak_judge(gain_lower_bound: float, settings: GateSettings) -> str:
    """Return the reason why a judge with this lower bound of its gain may not decide."""
    return (
        f"the judge is not known to be better than chance: its gain on votes that it did not "
        f"learn from has a lower bound of {gain_lower_bound:.3f} nats per vote; the minimum is "
        f"{settings.min_judge_gain:.3f}"
    )


def _reasons(figures: dict[str, float], settings: GateSettings) -> tuple[str, ...]:
    """Return the reason of each criterion that is not met."""
    reasons = {
        "judge_gain_lower_bound": reason_of_weak_judge(figures["judge_gain_lower_bound"], settings),
        "win_rate_lower_bound": (
            f"the judge predicts that people prefer the candidate on {figures['win_rate']:.2f} of "
            f"the prompts, and as far as the votes tell on {figures['win_rate_lower_bound']:.2f} "
            f"to {figures['win_rate_upper_bound']:.2f}; the minimum of the lower bound is "
            f"{settings.min_win_rate:.2f}; more votes narrow the interval, and give the policy "
            "more to learn"
        ),
        "kl": (
            f"the divergence from the SFT policy is {figures['kl']:.1f} nats per answer; the "
            f"maximum is {settings.max_kl:.1f}"
        ),
        "text_nll_increase": (
            f"the loss on held-out text increased by {figures['text_nll_increase']:.2f} nats per "
            f"token; the maximum is {settings.max_text_nll_increase:.2f}"
        ),
        "ended": (
            f"{figures['ended']:.2f} of the candidate's answers are finished, and "
            f"{figures['live_ended']:.2f} of the live policy's; the maximum decrease is "
            f"{settings.max_unended_increase:.2f}"
        ),
        "answer_nll_increase": (
            f"the candidate's answers surprise version 1 by {figures['answer_nll_increase']:.2f} "
            f"nats per token more than its own; the maximum is "
            f"{settings.max_answer_nll_increase:.2f}"
        ),
        "worst_sentence_nll_increase": (
            f"the worst sentences of the candidate's answers surprise version 1 by "
            f"{figures['worst_sentence_nll_increase']:.2f} nats per token more than its own; the "
            f"maximum is {settings.max_sentence_nll_increase:.2f}"
        ),
        "distinct": (
            f"of {_SAMPLES} answers to a prompt {figures['distinct']:.2f} are distinct, and "
            f"{figures['first_distinct']:.2f} of version 1's; the maximum decrease is "
            f"{settings.max_distinct_decrease:.2f}"
        ),
    }
    return tuple(
        reasons[criterion.name] for criterion in criteria(figures, settings) if not criterion.passed
    )
