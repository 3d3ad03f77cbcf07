"""Evaluate a candidate policy: the gate before publication.

The gate compares the candidate with the live policy on held-out prompts and checks the criteria
of `learner.gate.criteria`. Its win rate comes from the judge, a second reward model trained on
votes that PPO's reward model never saw: the model that PPO optimised cannot judge the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from learner.data.packing import Rows
from learner.gate.criteria import criteria
from learner.models.forward import answer_logits
from learner.models.ranks import Ranks
from learner.ppo.losses import token_log_probs
from learner.ppo.rollouts import batch_rollouts, rows_from_samples
from learner.pretraining.next_token import text_nll
from learner.reward.model import RewardModel
from learner.reward.statistics import wilson_lower
from learner.sampling.sampler import Sample, Sampler
from learner.settings import GateSettings, PPOSettings


@dataclass(frozen=True, slots=True)
class GateInputs:
    """Models and held-out data that the gate compares.

    Attributes:
        candidate: Policy that may be published.
        reference: SFT policy, from which the KL divergence is measured.
        candidate_sampler: Sampler of the candidate.
        live_sampler: Sampler of the live policy.
        first_sampler: Sampler of version 1; None if the live policy is version 1.
        judge: Reward model of the win rates.
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
    judge: RewardModel
    prompts: Sequence[Sequence[int]]
    text: Rows
    base_text_nll: float


@dataclass(frozen=True, slots=True)
class GateResult:
    """Outcome of the gate.

    Attributes:
        reasons: Reason for each criterion that the candidate does not meet.
        figures: Figures by name: win_rate, win_rate_lower_bound, win_rate_over_first, kl,
            text_nll, text_nll_increase, ended, live_ended.

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
        seed: Random seed of the sampled answers.

    """
    prompts = inputs.prompts

    def sample(sampler: Sampler, seed: int) -> list[Sample]:
        return sampler.sample(prompts, 1, ppo.max_tokens, ppo.temperature, seed)

    answers = sample(inputs.candidate_sampler, seed)
    live_answers = sample(inputs.live_sampler, seed + 1)
    wins = first_wins = count_wins(inputs.judge, answers, live_answers)
    if inputs.first_sampler is not None:
        first_wins = count_wins(inputs.judge, answers, sample(inputs.first_sampler, seed + 2))
    nll = text_nll(inputs.candidate, inputs.text)
    figures = {
        "win_rate": wins / len(prompts),
        "win_rate_lower_bound": wilson_lower(wins, len(prompts)),
        "win_rate_over_first": first_wins / len(prompts),
        "kl": answer_kl(inputs.candidate, inputs.reference, answers, ppo, inputs.judge.pad),
        "text_nll": nll,
        "text_nll_increase": nll - inputs.base_text_nll,
        "ended": _finished_share(answers),
        "live_ended": _finished_share(live_answers),
    }
    return GateResult(_reasons(figures, settings), figures)


def count_wins(judge: RewardModel, answers: Sequence[Sample], others: Sequence[Sample]) -> float:
    """Count the prompts on which the judge prefers the first answer; a tie is half a win."""
    scores, other_scores = (judge.score(rows_from_samples(own)) for own in (answers, others))
    wins = (scores > other_scores).float() + 0.5 * (scores == other_scores).float()
    return wins.sum().item()


@torch.no_grad()
def answer_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    samples: Sequence[Sample],
    settings: PPOSettings,
    pad: int,
) -> float:
    """Estimate KL(policy, reference) in nats per answer from the policy's own samples."""
    total = 0.0
    for group in batch_rollouts(
        samples,
        [True] * len(samples),
        pad=pad,
        micro_tokens=settings.micro_tokens,
        device=policy.device,
        ranks=Ranks(),
    ):
        log_probs_N, reference_log_probs_N = (
            token_log_probs(
                answer_logits(model, group.answers, "float32")[0],
                group.answers.tokens_N,
                settings.temperature,
            )
            for model in (policy, reference)
        )
        total += (log_probs_N - reference_log_probs_N).sum().item()
    return total / len(samples)


def _finished_share(samples: Sequence[Sample]) -> float:
    return sum(sample.finished for sample in samples) / len(samples)


def _reasons(figures: dict[str, float], settings: GateSettings) -> tuple[str, ...]:
    """Return the reason of each criterion that is not met."""
    reasons = {
        "win_rate_lower_bound": (
            f"the judge prefers the candidate on {figures['win_rate']:.2f} of the prompts, with a "
            f"lower bound of {figures['win_rate_lower_bound']:.2f}; the minimum is "
            f"{settings.min_win_rate:.2f}"
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
    }
    return tuple(
        reasons[criterion.name] for criterion in criteria(figures, settings) if not criterion.passed
    )
