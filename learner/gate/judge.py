"""The judge: a linear model of what people prefer, with what is not known about it.

The judge is fitted to votes that PPO's reward model was not trained on (the held-out ones chose
its epoch). It reads the reference policy's states and the structure of an answer
(`learner.reward.features`), and it is a posterior, not a point (`learner.gate.posterior`): an
answer unlike the rated ones gets a wide posterior, and a candidate that writes such answers wide
bounds.

Every vote both teaches the judge and measures it: its figures come from models that were fitted to
the votes on other prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from learner.data.owner_bound import relative_weights
from learner.data.preferences import PreferenceExample
from learner.gate.posterior import draw_weights, posterior
from learner.reward.calibration import ScoredPair, calibration
from learner.reward.evaluation import pair_accuracy, scored_pairs
from learner.reward.features import feature_groups
from learner.reward.linear import PENALTIES, LinearFits, cross_fit, standardise
from learner.reward.reliability import Reliabilities
from learner.reward.statistics import mean_bounds, weighted_mean, wilson_lower

_DRAWS: Final = 1000  # from the posterior


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """Figures of a judge on votes that the model at hand was not fitted to.

    Attributes:
        trained_on: Number of training examples.
        pairs: Number of pairs of which one answer was preferred.
        accuracy: Share of these pairs that the judge orders like the raters, by the weights of
            raters and examples.
        lower_bound: One-sided 95% Wilson bound of the accuracy.
        temperature: Divisor that calibrates differences of scores; the judge uses it.
        calibration_error: Expected calibration error with the temperature.
        uncalibrated_error: Expected calibration error without it.
        gain: Log-likelihood of a vote minus that under equal scores, weighted mean, in nats per
            example.
        gain_lower_bound: One-sided 95% lower bound of the gain.
        gain_upper_bound: One-sided 95% upper bound of the gain.

    """

    trained_on: int
    pairs: int
    accuracy: float
    lower_bound: float
    temperature: float
    calibration_error: float
    uncalibrated_error: float
    gain: float
    gain_lower_bound: float
    gain_upper_bound: float


@dataclass(frozen=True, slots=True)
class Judge:
    """Draws from the posterior of the weights that score answers.

    Attributes:
        mean_D: Mean of the features, which is subtracted.
        scale_D: Divisor of the features.
        weights_DS: Weights, S draws.
        log_tie: log nu of Davidson's model of ties, a scalar.
        temperature: Divisor that calibrates differences of scores, a scalar.

    """

    mean_D: Tensor
    scale_D: Tensor
    weights_DS: Tensor
    log_tie: Tensor
    temperature: Tensor

    def differences(self, features_ND: Tensor, others_ND: Tensor) -> Tensor:
        """Return calibrated differences of the scores of N pairs of answers, [S, N].

        Args:
            features_ND: Features of the first answers.
            others_ND: Features of the second answers.

        """
        pairs_ND = ((features_ND - others_ND) / self.scale_D).double()
        return (pairs_ND @ self.weights_DS).T / self.temperature

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the judge, to be saved."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def fit_judge(
    features_AD: Tensor,
    examples: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
    *,
    seed: int,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> tuple[Judge, JudgeReport]:
    """Fit a judge to votes, and measure it on the same votes by cross-fitting.

    Args:
        features_AD: Features of the examples' answers, in order.
        examples: Training examples; at least one.
        reliabilities: Reliability of each rater.
        seed: Random seed of the draws from the posterior.
        raise_if_stopped: Called regularly; its exception ends the fit.

    """
    states_AD, mean_D, scale_D = standardise(features_AD, examples, feature_groups(features_AD))
    reliability_E = states_AD.new_tensor([reliabilities.of(example.rater) for example in examples])
    crossed = cross_fit(states_AD, examples, reliability_E, raise_if_stopped=raise_if_stopped)
    answers_E = torch.tensor([len(e.sequences) for e in examples], device=states_AD.device)
    scores_A = (states_AD * crossed.weights_ED.repeat_interleave(answers_E, dim=0)).sum(-1)
    report = _report(scored_pairs(scores_A, examples, reliabilities), examples, crossed.gains_E)
    fits = LinearFits(states_AD, examples, folds=1, raise_if_stopped=raise_if_stopped)
    found = [posterior(fits, reliability_E, penalty) for penalty in PENALTIES]
    best = max(found, key=lambda one: one.log_evidence)
    temperature = best.log_tie.new_tensor(report.temperature)
    weights_DS = draw_weights(found, draws=_DRAWS, seed=seed)
    return Judge(mean_D, scale_D, weights_DS, best.log_tie, temperature), report


def _report(
    pairs: Sequence[ScoredPair], examples: Sequence[PreferenceExample], gains_E: Tensor
) -> JudgeReport:
    accuracy, effective_pairs = pair_accuracy(pairs)
    temperature, calibrated_error, uncalibrated_error = calibration(pairs)
    gains = gains_E.tolist()
    keyed = zip((example.key for example in examples), gains, strict=True)
    weights = relative_weights(examples)
    gain_lower_bound, gain_upper_bound = mean_bounds(keyed, weights)
    return JudgeReport(
        trained_on=len(examples),
        pairs=len(pairs),
        accuracy=accuracy,
        lower_bound=wilson_lower(accuracy * effective_pairs, effective_pairs),
        temperature=temperature,
        calibration_error=calibrated_error,
        uncalibrated_error=uncalibrated_error,
        gain=weighted_mean(gains, weights),
        gain_lower_bound=gain_lower_bound,
        gain_upper_bound=gain_upper_bound,
    )
