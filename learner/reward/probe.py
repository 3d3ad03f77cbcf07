"""A linear probe: what can be learned from the votes, and how reliable each rater is.

The probe predicts each vote from the reference policy's states of the answers, fitted to the votes
on other prompts (Alain and Bengio 2016, arXiv:1610.01644). Raters who contradict its predictions
count less. If it predicts no better than chance, a reward model cannot learn anything yet.

The probe has so few degrees of freedom that some hundred votes are enough, whereas a reward model
must be trained on a vote before it can say anything about it. Preferences need not be linear in
these states: the penalty that predicts best is chosen, and if nothing can be predicted every rater
keeps the prior's reliability.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.data.answers import AnswerBatch, PromptAnswers, build_answer_batch
from learner.data.batching import group_by_length
from learner.data.preferences import PreferenceExample
from learner.models.forward import model_inputs
from learner.models.parameters import trunk_of
from learner.models.precision import compute_in
from learner.reward.linear import PENALTIES, LinearFits, cross_fit, standardise
from learner.reward.reliability import Prediction, Reliabilities, estimate
from learner.reward.statistics import mean_bounds
from learner.settings import Dtype

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

    """

    reliabilities: Reliabilities
    gain: float
    gain_lower_bound: float


def probe(
    model: PreTrainedModel,
    examples: Sequence[PreferenceExample],
    *,
    pad: int,
    dtype: Dtype,
    micro_tokens: int,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> ProbeResult:
    """Estimate the raters' reliabilities, and how well a linear model predicts their votes.

    Args:
        model: Language model whose states the probe reads; it is not trained.
        examples: Training examples of all raters.
        pad: Padding token id.
        dtype: Type of the matrix products.
        micro_tokens: Maximum of padded tokens in one forward pass.
        raise_if_stopped: Called regularly; its exception ends the search.

    """
    if not examples:
        return ProbeResult(Reliabilities(), 0.0, mean_bounds([])[0])
    states_AD = answer_states(
        model,
        examples,
        pad=pad,
        dtype=dtype,
        micro_tokens=micro_tokens,
        raise_if_stopped=raise_if_stopped,
    )
    states_AD, _, _ = standardise(states_AD, examples)
    fits = LinearFits(states_AD, examples, raise_if_stopped=raise_if_stopped)
    predictions = _predict(fits, states_AD, [example.rater for example in examples])
    reliability_E = states_AD.new_tensor(_cross_fitted_reliabilities(predictions, fits))
    gains = cross_fit(
        states_AD, examples, reliability_E, raise_if_stopped=raise_if_stopped
    ).gains_E.tolist()
    keyed = list(zip((example.key for example in examples), gains, strict=True))
    return ProbeResult(estimate(predictions)[0], sum(gains) / len(gains), mean_bounds(keyed)[0])


def _predict(fits: LinearFits, states_AD: Tensor, raters: Sequence[str]) -> list[Prediction]:
    """Return the prediction of each vote, with the penalty that has the highest evidence."""
    if len({*raters} - {""}) <= 1:  # there is no majority to contradict
        return [Prediction(rater, 0.0, 0.0) for rater in raters]
    return max(
        (_fit_reliabilities(fits, states_AD, raters, penalty) for penalty in PENALTIES),
        key=lambda predictions: estimate(predictions)[1],
    )


def _fit_reliabilities(
    fits: LinearFits, states_AD: Tensor, raters: Sequence[str], penalty: float
) -> list[Prediction]:
    """Fit probe and reliabilities in turns; return the last prediction of each vote."""
    reliabilities, parameters = Reliabilities(), fits.initial_parameters()
    for _ in range(_MAX_ROUNDS):
        reliability_E = states_AD.new_tensor([reliabilities.of(rater) for rater in raters])
        fits.fit(parameters, reliability_E, penalty)
        meant, opposite = (likelihoods_E.tolist() for likelihoods_E in fits.predict(parameters))
        predictions = [Prediction(*one) for one in zip(raters, meant, opposite, strict=True)]
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


@torch.no_grad()
def answer_states(
    model: PreTrainedModel,
    examples: Sequence[PreferenceExample],
    *,
    pad: int,
    dtype: Dtype,
    micro_tokens: int,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the model's state of each answer, [A, D], in order.

    The state is the mean over the answer's tokens of their embeddings, followed by the mean of
    their last hidden states; D is twice the width of the model.
    """
    rows = [
        PromptAnswers(tuple(sequence[:-length]), (tuple(sequence[-length:]),))
        for example in examples
        for sequence, length in zip(example.sequences, example.lengths, strict=True)
    ]
    states_of_answer: dict[int, Tensor] = {}
    for members in group_by_length([row.length for row in rows], micro_tokens):
        raise_if_stopped()
        batch = build_answer_batch([rows[i] for i in members], pad=pad, device=model.device)
        states_of_answer.update(zip(members, _mean_states(model, batch, dtype), strict=True))
    return torch.stack([states_of_answer[i] for i in range(len(rows))])


def _mean_states(model: PreTrainedModel, batch: AnswerBatch, dtype: Dtype) -> Tensor:
    """Return the state of each answer of a batch, [A, D]; every row has one answer."""
    with compute_in(dtype, batch.ids_RT):
        states = trunk_of(model)(**model_inputs(batch)).last_hidden_state.flatten(0, 1)
    embedding = model.get_input_embeddings()
    lengths_A = batch.answer_mask_AL.sum(-1)
    first_A = batch.last_index_A - lengths_A + 1
    index_AL = first_A[:, None] + torch.arange(batch.answer_mask_AL.shape[1], device=model.device)
    index_N = index_AL[batch.answer_mask_AL]
    values_ND = torch.cat([embedding(batch.tokens_N).float(), states[index_N].float()], dim=-1)
    count = len(lengths_A)
    answer_N = torch.arange(count, device=model.device).repeat_interleave(lengths_A)
    sums_AD = values_ND.new_zeros(count, values_ND.shape[1]).index_add(0, answer_N, values_ND)
    return sums_AD / lengths_A[:, None]
