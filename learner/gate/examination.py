"""The gate: what a candidate must show before it may be published.

The judge is a second reward model, trained on votes that PPO's never saw: the one that PPO
climbed cannot be its own judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from learner.data.packing import Rows
from learner.gate.criteria import criteria
from learner.models.model import choices
from learner.models.ranks import Ranks
from learner.ppo.losses import token_log_probs
from learner.ppo.rollouts import batch_rollouts, rows_from_samples
from learner.pretraining.next_token import text_nll
from learner.reward.model import RewardModel
from learner.reward.statistics import wilson_lower
from learner.sampling.sampler import Sample, Sampler
from learner.settings import GateSettings, PPOSettings


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found.

    Attributes:
        reasons: Why the candidate may not be published, in words; empty: it may.
        figures: By name: win_rate, win_rate_lower_bound, win_rate_over_first, kl, text_nll,
            text_nll_increase, ended, live_ended, judge_accuracy.

    """

    reasons: tuple[str, ...]
    figures: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether the candidate may be published."""
        return not self.reasons


def count_wins(judge: RewardModel, ours: Sequence[Sample], theirs: Sequence[Sample]) -> float:
    """Count the prompts on which the judge prefers ours; a tie is half a win."""
    our_scores, their_scores = (
        judge.score(rows_from_samples(ours)),
        judge.score(rows_from_samples(theirs)),
    )
    wins = (our_scores > their_scores).float() + 0.5 * (our_scores == their_scores).float()
    return wins.sum().item()


@torch.no_grad()
def answer_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    samples: Sequence[Sample],
    settings: PPOSettings,
    pad: int,
) -> float:
    """Estimate KL(policy, reference) in nats in an answer, on the policy's own samples."""
    total = 0.0
    for group in batch_rollouts(
        samples,
        [True] * len(samples),
        pad=pad,
        micro_tokens=settings.micro_tokens,
        device=policy.device,
        ranks=Ranks(),
    ):
        ours_N, theirs_N = (
            token_log_probs(
                choices(model, group.batch, "float32")[0],
                group.batch.tokens_N,
                settings.temperature,
            )
            for model in (policy, reference)
        )
        total += (ours_N - theirs_N).sum().item()
    return total / len(samples)


def examine(
    *,
    candidate: PreTrainedModel,
    reference: PreTrainedModel,
    samplers: tuple[Sampler, Sampler],
    first: Sampler | None,
    judge: RewardModel,
    judge_accuracy: float,
    prompts: Sequence[Sequence[int]],
    text: Rows,
    base_text_nll: float,
    settings: GateSettings,
    ppo: PPOSettings,
    seed: int,
) -> Verdict:
    """Compare the candidate with the live policy on held-out prompts.

    Args:
        samplers: Of the candidate and of the live policy.
        first: Of version 1; None where that is the live policy.
        text: Held-out text.
        base_text_nll: Of the pre-trained model on that text, or of the SFT model where there
            is no pre-trained one.

    """
    ours, theirs = (
        sampler.sample(prompts, 1, ppo.max_tokens, ppo.temperature, seed + number)
        for number, sampler in enumerate(samplers)
    )
    wins = first_wins = count_wins(judge, ours, theirs)
    if first is not None:
        firsts = first.sample(prompts, 1, ppo.max_tokens, ppo.temperature, seed + 2)
        first_wins = count_wins(judge, ours, firsts)
    nll = text_nll(candidate, text)
    figures = {
        "win_rate": wins / len(prompts),
        "win_rate_lower_bound": wilson_lower(wins, len(prompts)),
        "win_rate_over_first": first_wins / len(prompts),
        "judge_accuracy": judge_accuracy,
        "kl": answer_kl(candidate, reference, ours, ppo, judge.pad),
        "text_nll": nll,
        "text_nll_increase": nll - base_text_nll,
        "ended": sum(s.finished for s in ours) / len(ours),
        "live_ended": sum(s.finished for s in theirs) / len(theirs),
    }
    return Verdict(tuple(_reasons(figures, settings)), figures)


def _reasons(figures: dict[str, float], settings: GateSettings) -> list[str]:
    """Say of each demand that is not met why, in words."""
    words = {
        "win_rate_lower_bound": (
            f"the judge prefers it on {figures['win_rate']:.2f} of prompts, at least "
            f"{figures['win_rate_lower_bound']:.2f}: less than {settings.min_win_rate:.2f}"
        ),
        "kl": f"{figures['kl']:.1f} nats from the SFT policy: more than {settings.max_kl:.1f}",
        "text_nll_increase": (
            f"text costs {figures['text_nll_increase']:.2f} nats a token more: "
            f"more than {settings.max_text_nll_increase:.2f}"
        ),
        "ended": (
            f"{figures['ended']:.2f} of its answers end, {figures['live_ended']:.2f} of the live "
            "policy's"
        ),
    }
    return [words[one.name] for one in criteria(figures, settings) if not one.passed]
