"""The judge: a linear model of what people prefer, with what is not known about it.

It reads the reference policy's states and the structure of an answer (`learner.reward.features`),
and it is a posterior, not a point (`learner.reward.posterior`): an answer unlike the rated ones
gets a wide posterior, and a candidate that writes such answers wide bounds.

Every vote both teaches the judge and measures it: its figures come from models that were fitted to
the votes on other prompts. Votes that taught PPO's reward model teach the judge too. PPO finds what
is wrong in a score that is a point; a posterior says how much of what PPO found may be wrong
(measured in `docs/decisions/gate-and-trials.md`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from learner.data.owner_bound import relative_weights
from learner.data.preferences import PreferenceExample
from learner.reward.calibration import ScoredPair, calibration
from learner.reward.evaluation import pair_accuracy
from learner.reward.posterior import ScorePosterior, fit_scores
from learner.reward.reliability import Reliabilities
from learner.reward.statistics import mean_bounds, weighted_mean, wilson_lower


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """Figures of a judge on votes that the model at hand was not fitted to.

    Attributes:
        trained_on: Number of training examples.
        pairs: Number of pairs of which one answer was preferred.
        accuracy: Share of these pairs that the judge orders like the raters, by the weights of
            raters and examples.
        lower_bound: One-sided 95% Wilson bound of the accuracy.
        temperature: Divisor that calibrates differences of the most probable scores. The judge
            averages over its posterior instead.
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


def fit_judge(
    features_AD: Tensor,
    examples: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
    *,
    seed: int,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> tuple[ScorePosterior, JudgeReport]:
    """Fit a judge to votes, and measure it on the same votes by cross-fitting.

    Args:
        features_AD: Features of the examples' answers, in order.
        examples: Training examples; at least one.
        reliabilities: Reliability of each rater.
        seed: Random seed of the draws from the posterior.
        raise_if_stopped: Called regularly; its exception ends the fit.

    """
    judge, crossed = fit_scores(
        features_AD, examples, reliabilities, seed=seed, raise_if_stopped=raise_if_stopped
    )
    return judge, _report(crossed.pairs, examples, crossed.gains_E)


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
