"""What votes tell, and whom to trust: a linear probe forecasts each opinion.

Raters who contradict it count less. Where it forecasts no better than chance there is nothing yet
that a reward model could learn.

The probe reads what the reference's states tell of an answer, and is fitted to the opinions on
other prompts (Alain and Bengio 2016, arXiv:1610.01644). It has so few degrees of freedom that
some hundred opinions are enough for it, where a reward model must have read an opinion before it
can say anything about it. People's preferences need not be linear in these states: the penalty
that forecasts best is taken, and where nothing can be forecast everybody keeps the prior's trust.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.data.answers import PromptAnswers, build_answer_batch
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
_TOLERANCE: Final = 0.02


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe of opinions found.

    Attributes:
        reliabilities: How far each rater can be trusted.
        gain: How much better opinions are forecast than if all answers were alike, in nats an
            opinion.
        gain_lower_bound: Of it, one-sided 95 %; above 0 there is something to learn.

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
    check: Callable[[], None] = lambda: None,
) -> ProbeResult:
    """Probe all opinions together.

    Args:
        model: Its states are what the probe reads; nothing is trained in it.
        micro_tokens: Padded tokens in one forward pass.
        check: Called now and then; what it raises ends the search.

    """
    if not examples:
        return ProbeResult(Reliabilities(), 0.0, mean_bounds([])[0])
    states_AD, _, _ = standardise(
        answer_states(
            model, examples, pad=pad, dtype=dtype, micro_tokens=micro_tokens, check=check
        ),
        examples,
    )
    fits = LinearFits(states_AD, examples, check=check)
    raters = [example.rater for example in examples]
    told = [Prediction(rater, 0.0, 0.0) for rater in raters]
    if len({*raters} - {""}) > 1:  # else there is no crowd to contradict
        told = max(
            (_fit_reliabilities(fits, states_AD, raters, penalty) for penalty in PENALTIES),
            key=lambda told: estimate(told)[1],
        )
    # What an opinion gains must not depend on a trust that it has earned itself.
    folds = fits.fold_E.tolist()
    others = {
        fold: estimate(one for one, own in zip(told, folds, strict=True) if own != fold)[0]
        for fold in {*folds}
    }
    reliability_E = states_AD.new_tensor(
        [others[fold].of(rater) for rater, fold in zip(raters, folds, strict=True)]
    )
    gains = cross_fit(states_AD, examples, reliability_E, check=check).gains_E.tolist()
    keyed = list(zip((example.key for example in examples), gains, strict=True))
    return ProbeResult(estimate(told)[0], sum(gains) / len(gains), mean_bounds(keyed)[0])


def _fit_reliabilities(
    fits: LinearFits, states_AD: Tensor, raters: Sequence[str], penalty: float
) -> list[Prediction]:
    """Fit the probes and see whom to trust, by turns; give each opinion's last forecast."""
    found, parameters = Reliabilities(), fits.begin()
    for _ in range(_MAX_ROUNDS):
        reliability_E = states_AD.new_tensor([found.of(rater) for rater in raters])
        fits.fit(parameters, reliability_E, penalty)
        forecasts = (likelihoods_E.tolist() for likelihoods_E in fits.forecast(parameters))
        told = [Prediction(*one) for one in zip(raters, *forecasts, strict=True)]
        last, (found, _) = found, estimate(told)
        if found.change(last) < _TOLERANCE:
            break
    return told


@torch.no_grad()
def answer_states(
    model: PreTrainedModel,
    examples: Sequence[PreferenceExample],
    *,
    pad: int,
    dtype: Dtype,
    micro_tokens: int,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return what the model's states tell of each answer, [A, D], in order.

    D is twice the model's width: the means over the answer's tokens of their embeddings and of
    their last states.
    """
    rows = [
        PromptAnswers(tuple(sequence[:-length]), (tuple(sequence[-length:]),))
        for example in examples
        for sequence, length in zip(example.sequences, example.lengths, strict=True)
    ]
    trunk, embedding = trunk_of(model), model.get_input_embeddings()
    found: dict[int, Tensor] = {}
    for part in group_by_length([row.length for row in rows], micro_tokens):
        check()
        batch = build_answer_batch([rows[i] for i in part], pad=pad, device=model.device)
        with compute_in(dtype, batch.ids_RT):
            states = trunk(**model_inputs(batch)).last_hidden_state.flatten(0, 1)
        lengths_A = batch.answer_mask_AL.sum(-1)
        first_A = batch.last_index_A - lengths_A + 1
        at_AL = first_A[:, None] + torch.arange(batch.answer_mask_AL.shape[1], device=model.device)
        at_N = at_AL[batch.answer_mask_AL]
        values_ND = torch.cat([embedding(batch.tokens_N).float(), states[at_N].float()], dim=-1)
        of_N = torch.arange(len(part), device=model.device).repeat_interleave(lengths_A)
        sums_AD = values_ND.new_zeros(len(part), values_ND.shape[1]).index_add(0, of_N, values_ND)
        found.update(zip(part, sums_AD / lengths_A[:, None], strict=True))
    return torch.stack([found[i] for i in range(len(rows))])
