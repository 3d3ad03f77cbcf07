"""The score that PPO climbs: what people like at least, by two models of their votes.

A reward model that learned from few votes is wrong somewhere, and PPO finds where (Gao et al. 2022,
arXiv:2210.10760). So the score is the mean of what the votes leave possible minus a standard
deviation (Coste et al. 2023, arXiv:2310.02743): answers unlike the rated ones score low. The
posterior is a linear one (`learner.reward.posterior`); the fine-tuned reward model is mixed in as
far as it predicts held-out votes better.

Shapes: A answers, D features, S draws from the posterior.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from learner.data.answers import AnswerBatch, PromptAnswers
from learner.data.owner_bound import relative_weights
from learner.data.preferences import PreferenceExample
from learner.reward.evaluation import RewardReport, calibrated_gains
from learner.reward.features import AnswerFeatures
from learner.reward.model import RewardModel
from learner.reward.posterior import ScorePosterior, fit_scores
from learner.reward.reliability import Reliabilities

_DEVIATIONS: Final = 1.0  # that are subtracted from the mean


def pessimistic(scores_SA: Tensor) -> Tensor:
    """Return the mean of each answer's drawn scores minus a standard deviation, [A]."""
    return scores_SA.mean(0) - _DEVIATIONS * scores_SA.std(0)


@dataclass(frozen=True, slots=True)
class PessimisticScore:
    """Scores answers by a posterior and a fine-tuned reward model.

    The scale is that of a score drawn from the posterior: on the reference policy's answers its
    deviation is 1. The less is known, the smaller is the share of the mean in it, and the shorter
    the way that PPO goes for it.

    Attributes:
        posterior: Posterior of the answers' scores.
        model_factor: Log-odds of a vote in a unit of the reward model's normalised score, times
            the reward model's share.
        posterior_share: Share of the posterior's mean.
        mean: Mean of the unscaled scores of the reference policy's answers.
        deviation: Deviation of an unscaled score drawn from the posterior.

    """

    posterior: ScorePosterior
    model_factor: Tensor
    posterior_share: Tensor
    mean: Tensor
    deviation: Tensor

    def scores(self, features_AD: Tensor, model_scores_A: Tensor) -> Tensor:
        """Return the scores of answers, [A].

        Args:
            features_AD: Features of the answers.
            model_scores_A: The reward model's normalised scores.

        """
        drawn_SA = self.draw(features_AD, model_scores_A)
        return ((pessimistic(drawn_SA) - self.mean) / self.deviation).float()

    def draw(self, features_AD: Tensor, model_scores_A: Tensor) -> Tensor:
        """Return unscaled scores, [S, A]: the uncertainty is the posterior's, in full."""
        posterior_SA = self.posterior.scores(features_AD)
        mean_A = posterior_SA.mean(0)
        mixed_A = self.posterior_share * mean_A + self.model_factor * model_scores_A
        return posterior_SA - mean_A + mixed_A

    def state(self) -> dict[str, Tensor]:
        """Return all tensors by name, to be saved."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "posterior"}
        return own | {f"posterior.{name}": value for name, value in self.posterior.state().items()}


def load_score(state: Mapping[str, Tensor]) -> PessimisticScore:
    """Return the score whose `state` this is."""
    parts: dict[str, dict[str, Tensor]] = {"": {}, "posterior": {}}
    for name, value in state.items():
        owner, _, attribute = name.rpartition(".")
        parts[owner][attribute] = value
    return PessimisticScore(posterior=ScorePosterior(**parts["posterior"]), **parts[""])


def fit_score(
    features: AnswerFeatures,
    model: RewardModel,
    report: RewardReport,
    examples: Sequence[PreferenceExample],
    held_out: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
    typical: Sequence[PromptAnswers],
    *,
    seed: int,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> PessimisticScore:
    """Fit a posterior to the votes that taught a reward model, and mix the two.

    Args:
        features: Features that the posterior reads.
        model: Reward model, trained and normalised.
        report: Report of the model on the held-out votes.
        examples: Votes that the model was trained on.
        held_out: Held-out votes; each of the two counts by how well it predicts them.
        reliabilities: Reliability of each rater.
        typical: Answers of the reference policy, one to a row, which set the scale.
        seed: Random seed of the draws from the posterior.
        raise_if_stopped: Called regularly; its exception ends the fit.

    """
    posterior, _ = fit_scores(
        features.of_examples(examples, raise_if_stopped),
        examples,
        reliabilities,
        seed=seed,
        raise_if_stopped=raise_if_stopped,
    )
    held_out_AD = features.of_examples(held_out, raise_if_stopped)
    gain = _held_out_gain(posterior.scores(held_out_AD).mean(0).float(), held_out, reliabilities)
    share = (gain - report.gain * sum(relative_weights(held_out))).sigmoid()
    factor = (1 - share) * model.std / report.temperature
    zero, one = torch.zeros_like(share), torch.ones_like(share)
    unscaled = PessimisticScore(posterior, factor, share, zero, one)
    typical_AD = features.of(typical, raise_if_stopped=raise_if_stopped)
    drawn_SA = unscaled.draw(typical_AD, model.score(typical).to(share.device))
    deviation = (drawn_SA.mean(0).var() + drawn_SA.var(0).mean()).sqrt().clamp_min(1e-4)
    return replace(unscaled, mean=pessimistic(drawn_SA).mean(), deviation=deviation)


def _held_out_gain(
    scores_A: Tensor, held_out: Sequence[PreferenceExample], reliabilities: Reliabilities
) -> Tensor:
    """Return what the scores add to the log-likelihood of all held-out votes, in nats."""
    gains = [gain for _, gain in calibrated_gains(scores_A, held_out, reliabilities)]
    weighted = zip(gains, relative_weights(held_out), strict=True)
    return scores_A.new_tensor(sum(gain * weight for gain, weight in weighted))


@dataclass(frozen=True, slots=True)
class VotePosteriors:
    """What the votes say beside the reward model.

    Attributes:
        features: Features that the posteriors read, of the reference policy's states.
        rewarded: Score that PPO climbs.
        judge: Posterior of all votes (`learner.gate.judge`); it chooses the candidate.

    """

    features: AnswerFeatures
    rewarded: PessimisticScore
    judge: ScorePosterior

    def score(
        self, batch: AnswerBatch, states_TH: Tensor, model_scores_A: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the scores of a batch's answers, [A], and how people like them, [S, A].

        The latter are probabilities that people prefer an answer to a typical rated one, one for
        each draw from the judge's posterior.

        Args:
            batch: Answers; every row has one.
            states_TH: The reference policy's states at every token of the flattened rows.
            model_scores_A: The reward model's normalised scores.

        """
        features_AD = self.features.of_batch(batch, states_TH)
        preferred_SA = self.judge.scores(features_AD).sigmoid()
        return self.rewarded.scores(features_AD, model_scores_A), preferred_SA.float()
