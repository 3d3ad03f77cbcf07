"""A linear probe: what can be learned from the votes, and how reliable each rater is.

The probe predicts each vote from the reference policy's states of the answers and their structure,
fitted to the votes on other prompts (Alain and Bengio 2016, arXiv:1610.01644). Raters who
contradict its predictions count less. If it predicts no better than chance, a reward model cannot
learn anything yet.

The probe has so few degrees of freedom that some hundred votes are enough, whereas a reward model
must be trained on a vote before it can say anything about it. Preferences need not be linear in
these states: the penalty that predicts best is chosen, and if nothing can be predicted every rater
keeps the prior's reliability.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from learner.data.owner_bound import relative_weights
from learner.data.preferences import PreferenceExample
from learner.reward.features import AnswerFeatures, feature_groups
from learner.reward.linear import PENALTIES, LinearFits, cross_fit, standardise
from learner.reward.reliability import Prediction, Reliabilities, estimate
from learner.reward.statistics import mean_bounds, weighted_mean

_MAX_ROUNDS: Final = 10
_TOLERANCE: Final = 0.02  # largest change of a reliability at which the rounds end


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Result of the probe.

    Attributes:
        reliabilities: Reliability of each rater.
        gain: Log-likelihood of a vote under the probe minus that under equal scores, mean, in
            nats per vote.
        gain_lower_bound: One-sided 95% lower bound of the gain; above 0 there is something to
            learn.
        gains: Gain of each vote, in order.

    """

    reliabilities: Reliabilities
    gain: float
    gain_lower_bound: float
    gains: tuple[float, ...] = ()


def probe(
    features: AnswerFeatures,
    examples: Sequence[PreferenceExample],
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> ProbeResult:
    """Estimate the raters' reliabilities, and how well a linear model predicts their votes.

    Args:
        features: Features that the probe reads.
        examples: Training examples of all raters.
        raise_if_stopped: Called regularly; its exception ends the search.

    """
    if not examples:
        return ProbeResult(Reliabilities(), 0.0, mean_bounds([])[0])
    features_AD = features.of_examples(examples, raise_if_stopped)
    states_AD, _, _ = standardise(features_AD, examples, feature_groups(features_AD))
    fits = LinearFits(states_AD, examples, raise_if_stopped=raise_if_stopped)
    predictions = _predict(fits, states_AD, examples)
    reliability_E = states_AD.new_tensor(_cross_fitted_reliabilities(predictions, fits))
    gains = cross_fit(
        states_AD, examples, reliability_E, raise_if_stopped=raise_if_stopped
    ).gains_E.tolist()
    keyed = list(zip((example.key for example in examples), gains, strict=True))
    weights = relative_weights(examples)
    return ProbeResult(
        estimate(predictions)[0],
        weighted_mean(gains, weights),
        mean_bounds(keyed, weights)[0],
        tuple(gains),
    )


def _predict(
    fits: LinearFits, states_AD: Tensor, examples: Sequence[PreferenceExample]
) -> list[Prediction]:
    """Return the prediction of each vote, with the penalty that has the highest evidence."""
    raters = [example.rater for example in examples]
    if len({*raters} - {""}) <= 1:  # there is no majority to contradict
        return [Prediction(rater, 0.0, 0.0) for rater in raters]
    weights = relative_weights(examples)
    return max(
        (_fit_reliabilities(fits, states_AD, raters, weights, penalty) for penalty in PENALTIES),
        key=lambda predictions: estimate(predictions)[1],
    )


def _fit_reliabilities(
    fits: LinearFits,
    states_AD: Tensor,
    raters: Sequence[str],
    weights: Sequence[float],
    penalty: float,
) -> list[Prediction]:
    """Fit probe and reliabilities in turns; return the last prediction of each vote."""
    reliabilities, parameters = Reliabilities(), fits.initial_parameters()
    for _ in range(_MAX_ROUNDS):
        reliability_E = states_AD.new_tensor([reliabilities.of(rater) for rater in raters])
        fits.fit(parameters, reliability_E, penalty)
        meant, opposite = (likelihoods_E.tolist() for likelihoods_E in fits.predict(parameters))
        votes = zip(raters, meant, opposite, weights, strict=True)
        predictions = [Prediction(*vote) for vote in votes]
        last, (reliabilities, _) = reliabilities, estimate(predictions)
        if reliabilities.change(last) < _TOLERANCE:
            break
    return predictions


def _cross_fitted_reliabilities(predictions: Sequence[Prediction], fits: LinearFits) -> list[float]:
    """Return the reliability of each vote's rater, estimated without the votes of its fold.

    The gain of a vote must not depend on a reliability that the vote itself has raised.
    """
    folds = fits.fold_E.tolist()
    others = {
        fold: estimate(
            one for one, own_fold in zip(predictions, folds, strict=True) if own_fold != fold
        )[0]
        for fold in {*folds}
    }
    return [
        others[fold].of(prediction.rater)
        for prediction, fold in zip(predictions, folds, strict=True)
    ]
