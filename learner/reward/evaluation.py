"""How a reward model does on opinions that it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.data.preferences import PreferenceExample
from learner.reward.batches import PreferenceBatch, batch_preferences
from learner.reward.calibration import Judged, calibration
from learner.reward.linear import PENALTIES, cross_fit, standardise
from learner.reward.model import RewardModel
from learner.reward.reliability import Reliabilities, mixture_losses
from learner.reward.statistics import KeyedValue, mean_bounds, wilson_lower
from learner.settings import RewardSettings


@dataclass(frozen=True, slots=True)
class RewardReport:
    """How a reward model did on held-out opinions.

    Attributes:
        trained_on: Opinions in training.
        pairs: Held-out pairs of which one was preferred.
        accuracy: Share of them that it orders as people did; raters count as far as trusted.
        lower_bound: Of the accuracy, Wilson's one-sided 95 %.
        temperature: By which differences of scores are divided to be calibrated.
        calibration_error: Of the calibrated probability that the first is preferred.
        uncalibrated_error: The same without the temperature.
        loss: Held-out loss, in nats an opinion.
        gain: How much better scores, once calibrated, explain held-out opinions than if all
            answers were alike, in nats an opinion; 0 where they are the wrong way round.
        gain_lower_bound: Of it, one-sided 95 %; `gain_upper_bound` likewise.
        epochs: After which it was kept; 0 where there was too little to train on.
        doubted_raters: Who contradict the crowd more often than not.

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


def example_losses(
    model: RewardModel, batch: PreferenceBatch, raters: Sequence[str], reliabilities: Reliabilities
) -> tuple[Tensor, Tensor]:
    """Return each opinion's loss, [E], and the scores, [A]."""
    scores_A = model(batch.answers)
    meant_E, opposite_E = batch.opinions.log_likelihoods(scores_A, model.log_tie, model.offset)
    reliability_E = meant_E.new_tensor([reliabilities.of(raters[i]) for i in batch.members])
    return mixture_losses(meant_E, opposite_E, reliability_E), scores_A


def build_preference_batches(
    model: RewardModel, examples: Sequence[PreferenceExample], settings: RewardSettings
) -> list[PreferenceBatch]:
    """Return the opinions in forward passes of at most `settings.micro_tokens` tokens."""
    return batch_preferences(
        examples,
        micro_tokens=settings.micro_tokens,
        shared=model.shares,
        pad=model.pad,
        device=model.device,
    )


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
    """Measure a reward model on held-out opinions; those of doubted raters count less."""
    raters = [example.rater for example in held_out]
    loss = 0.0
    told = []
    judged: list[Judged] = []
    batches = build_preference_batches(model, held_out, settings)
    for batch in batches:
        losses_E, scores_A = example_losses(model, batch, raters, reliabilities)
        loss += losses_E.sum().item()
        told.append(scores_A)
        judged += _scored_pairs(scores_A, batch, held_out, reliabilities)
    right = sum(one.weight * ((one.difference > 0) == one.first_won) for one in judged)
    total, squares = sum(o.weight for o in judged), sum(o.weight**2 for o in judged)
    accuracy = right / max(total, 1e-9)
    trials = total * total / max(squares, 1e-9)  # Kish's effective number
    temperature, calibrated, plain = calibration(judged)
    gains = _gains(told, [held_out[i] for b in batches for i in b.members], reliabilities)
    lower, upper = mean_bounds(gains)
    return RewardReport(
        trained_on=trained_on,
        pairs=len(judged),
        accuracy=accuracy,
        lower_bound=wilson_lower(accuracy * trials, trials),
        temperature=temperature,
        calibration_error=calibrated,
        uncalibrated_error=plain,
        loss=loss / max(1, len(held_out)),
        gain=sum(gain for _, gain in gains) / max(1, len(held_out)),
        gain_lower_bound=lower,
        gain_upper_bound=upper,
        epochs=epochs,
        doubted_raters=reliabilities.count_unreliable(),
    )


def _scored_pairs(
    scores_A: Tensor,
    batch: PreferenceBatch,
    held_out: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
) -> list[Judged]:
    """Return the pairs of which somebody preferred one, by raters who are trusted at all."""
    opinions, found = batch.opinions, []
    for difference, outcome, of in zip(
        opinions.differences(scores_A).tolist(),
        opinions.outcomes_P.tolist(),
        opinions.of_P.tolist(),
        strict=True,
    ):
        example = held_out[batch.members[of]]
        weight = reliabilities.weight(example.rater)
        if outcome != 2 and weight > 0:
            found.append(Judged(difference, outcome == 0, weight, example.key))
    return found


def _gains(
    scores: Sequence[Tensor], examples: Sequence[PreferenceExample], reliabilities: Reliabilities
) -> list[KeyedValue]:
    """Return what the scores gain on each opinion, in nats, and its prompt.

    Their scale is fitted to the opinions on the other prompts, so that nothing is gained by it.
    """
    if not examples:
        return []
    states_A1 = standardise(torch.cat([*scores])[:, None], examples)[0]
    reliability_E = states_A1.new_tensor([reliabilities.of(example.rater) for example in examples])
    fitted = cross_fit(states_A1, examples, reliability_E, penalties=PENALTIES[:1])
    gains_E = torch.where(fitted.weights_ED.squeeze(-1) > 0, fitted.gains_E, 0)
    return list(zip((example.key for example in examples), gains_E.tolist(), strict=True))
