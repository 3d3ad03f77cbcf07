"""Evaluate a reward model on held-out training examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.data.owner_bound import relative_weights
from learner.data.preferences import PreferenceExample
from learner.data.work import working_on
from learner.reward.batches import (
    build_preference_batches,
    example_losses,
    preference_labels,
)
from learner.reward.calibration import ScoredPair, calibration
from learner.reward.linear import PENALTIES, cross_fit, standardise
from learner.reward.model import RewardModel
from learner.reward.reliability import Reliabilities
from learner.reward.statistics import (
    KeyedValue,
    mean_bounds,
    weighted_mean,
    wilson_lower,
)
from learner.settings import RewardSettings


@dataclass(frozen=True, slots=True)
class RewardReport:
    """Figures of a reward model on held-out training examples.

    Attributes:
        trained_on: Number of training examples that the model was trained on.
        pairs: Number of held-out pairs of which one answer was preferred.
        accuracy: Share of these pairs that the model orders like the raters, by the weights of
            raters and examples.
        lower_bound: One-sided 95% Wilson bound of the accuracy.
        temperature: Divisor that calibrates differences of scores.
        calibration_error: Expected calibration error with the temperature.
        uncalibrated_error: Expected calibration error without it.
        loss: Held-out loss, in nats per example.
        gain: Log-likelihood of held-out examples under calibrated scores minus that under equal
            scores, in nats per example; 0 for examples on which the scores are inverted.
        gain_lower_bound: One-sided 95% lower bound of the gain.
        gain_upper_bound: One-sided 95% upper bound of the gain.
        epochs: Epoch whose weights were kept; 0 if there was too little data to train.
        doubted_raters: Number of raters who contradict the majority more often than not.

    """

    trained_on: int
    pairs: int
    accuracy: float
    lower_bound: float
    temperature: float
    calibration_error: float
    uncalibrated_error: float
    loss: float
    gain: float
    gain_lower_bound: float
    gain_upper_bound: float
    epochs: int
    doubted_raters: int


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores of the held-out examples.

    Attributes:
        loss: Weighted sum of the losses, in nats.
        scores_A: Score of each answer, in the order of `examples`.
        examples: Held-out examples in the order of the batches.
        pairs: Pairs of which one answer was preferred.

    """

    loss: float
    scores_A: Tensor | None
    examples: list[PreferenceExample]
    pairs: list[ScoredPair]


@torch.no_grad()
def evaluate(
    model: RewardModel,
    held_out: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
    settings: RewardSettings,
    *,
    trained_on: int,
    epochs: int,
) -> RewardReport:
    """Evaluate a reward model on held-out examples, weighted by the raters' reliability."""
    found = _score(model, held_out, reliabilities, settings)
    accuracy, effective_pairs = pair_accuracy(found.pairs)
    temperature, calibrated_error, uncalibrated_error = calibration(found.pairs)
    gains = calibrated_gains(found.scores_A, found.examples, reliabilities)
    weights = relative_weights(found.examples)
    gain_lower_bound, gain_upper_bound = mean_bounds(gains, weights)
    return RewardReport(
        trained_on=trained_on,
        pairs=len(found.pairs),
        accuracy=accuracy,
        lower_bound=wilson_lower(accuracy * effective_pairs, effective_pairs),
        temperature=temperature,
        calibration_error=calibrated_error,
        uncalibrated_error=uncalibrated_error,
        loss=found.loss / (sum(weights) or 1),
        gain=weighted_mean([gain for _, gain in gains], weights),
        gain_lower_bound=gain_lower_bound,
        gain_upper_bound=gain_upper_bound,
        epochs=epochs,
        doubted_raters=reliabilities.count_unreliable(),
    )


def _score(
    model: RewardModel,
    held_out: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
    settings: RewardSettings,
) -> _Scores:
    reliability = [reliabilities.of(example.rater) for example in held_out]
    weights = relative_weights(held_out)
    loss = 0.0
    scores: list[Tensor] = []
    pairs: list[ScoredPair] = []
    batches = build_preference_batches(model, held_out, settings)
    for batch in batches:
        with working_on(held_out[i] for i in batch.members):
            losses_E, scores_A = example_losses(model, batch, reliability)
        weights_E = losses_E.new_tensor([weights[i] for i in batch.members])
        loss += (losses_E * weights_E).sum().item()
        scores.append(scores_A)
        pairs += scored_pairs(scores_A, [held_out[i] for i in batch.members], reliabilities)
    examples = [held_out[i] for batch in batches for i in batch.members]
    return _Scores(loss, torch.cat(scores) if scores else None, examples, pairs)


def scored_pairs(
    scores_A: Tensor, examples: Sequence[PreferenceExample], reliabilities: Reliabilities
) -> list[ScoredPair]:
    """Return the pairs of which one answer was preferred, by raters with a positive weight.

    Args:
        scores_A: Scores of the examples' answers, in order.
        examples: Training examples.
        reliabilities: Reliability of each rater.

    """
    labels = preference_labels(examples, scores_A.device)
    pairs = []
    for difference, outcome, index in zip(
        labels.differences(scores_A).tolist(),
        labels.outcomes_P.tolist(),
        labels.example_P.tolist(),
        strict=True,
    ):
        example = examples[index]
        weight = reliabilities.weight(example.rater) * example.weight
        if outcome != 2 and weight > 0:
            pairs.append(ScoredPair(difference, outcome == 0, weight, example.key))
    return pairs


def pair_accuracy(pairs: Sequence[ScoredPair]) -> tuple[float, float]:
    """Return the weighted accuracy, and the effective number of pairs (Kish 1965)."""
    correct = sum(pair.weight * ((pair.difference > 0) == pair.first_won) for pair in pairs)
    total, squares = sum(pair.weight for pair in pairs), sum(pair.weight**2 for pair in pairs)
    return correct / max(total, 1e-9), total * total / max(squares, 1e-9)


def calibrated_gains(
    scores_A: Tensor | None, examples: Sequence[PreferenceExample], reliabilities: Reliabilities
) -> list[KeyedValue]:
    """Return the prompt of each example, and what the scores add to its log-likelihood, in nats.

    The scale of the scores is fitted to the examples on other prompts.
    """
    if scores_A is None:
        return []
    states_A1 = standardise(scores_A[:, None], examples)[0]
    reliability_E = states_A1.new_tensor([reliabilities.of(example.rater) for example in examples])
    fitted = cross_fit(states_A1, examples, reliability_E, penalties=PENALTIES[:1])
    gains_E = torch.where(fitted.weights_ED.squeeze(-1) > 0, fitted.gains_E, 0)
    return list(zip((example.key for example in examples), gains_E.tolist(), strict=True))
