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

from learner.answers import Answered, lay_out
from learner.batching import parts
from learner.linear import PENALTIES, LinearFits, cross_fitted, standardised
from learner.model import computing, inputs, trunk_of
from learner.preferences import Example
from learner.reliability import Forecast, Reliabilities, estimate
from learner.settings import Dtype
from learner.statistics import Keyed

_ROUNDS: Final = 10
_AGREED: Final = 0.02


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe of opinions found.

    Attributes:
        reliabilities: How far each rater can be trusted.
        gains: How much better each opinion is forecast than if all answers were alike, in nats,
            and its prompt.

    """

    reliabilities: Reliabilities
    gains: list[Keyed]


def probe(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    pad: int,
    dtype: Dtype,
    micro_tokens: int,
    check: Callable[[], None] = lambda: None,
) -> Probed:
    """Probe all opinions together.

    Args:
        model: Its states are what the probe reads; nothing is trained in it.
        micro_tokens: Padded tokens in one forward pass.
        check: Called now and then; what it raises ends the search.

    """
    if not examples:
        return Probed(Reliabilities(), [])
    states_AD = answer_states(
        model, examples, pad=pad, dtype=dtype, micro_tokens=micro_tokens, check=check
    )
    raters = [example.rater for example in examples]
    reliabilities = Reliabilities()
    if len({*raters} - {""}) > 1:  # else there is no crowd to contradict
        fits = LinearFits(states_AD, examples, check=check)
        found = (_search(fits, states_AD, raters, penalty) for penalty in PENALTIES)
        reliabilities = max(found, key=lambda one: one[0])[1]
    believed_E = states_AD.new_tensor([reliabilities.of(rater) for rater in raters])
    gains_E = cross_fitted(states_AD, examples, believed_E, check=check).gains_E
    return Probed(
        reliabilities, list(zip((e.key for e in examples), gains_E.tolist(), strict=True))
    )


def _search(
    fits: LinearFits, states_AD: Tensor, raters: Sequence[str], penalty: float
) -> tuple[float, Reliabilities]:
    """Fit the probes and see whom to trust, by turns; give the evidence too."""
    found, parameters = Reliabilities(), fits.begin()
    for _ in range(_ROUNDS):
        believed_E = states_AD.new_tensor([found.of(rater) for rater in raters])
        fits.fit(parameters, believed_E, penalty)
        forecasts = (likelihoods_E.tolist() for likelihoods_E in fits.forecast(parameters))
        told = zip(raters, *forecasts, strict=True)
        last = found
        found, evidence = estimate(Forecast(*one) for one in told)
        if found.change(last) < _AGREED:
            break
    return evidence, found


@torch.no_grad()
def answer_states(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    pad: int,
    dtype: Dtype,
    micro_tokens: int,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Give what the model's states tell of each answer, [A, D], in order.

    D is twice the model's width: the means over the answer's tokens of their embeddings and of
    their last states, each with mean 0 and deviation 1 over the answers, and all divided by the
    root of D, so that a row has about length 1.
    """
    rows = [
        Answered(tuple(sequence[:-length]), (tuple(sequence[-length:]),))
        for example in examples
        for sequence, length in zip(example.sequences, example.lengths, strict=True)
    ]
    trunk, embedding = trunk_of(model), model.get_input_embeddings()
    found: dict[int, Tensor] = {}
    for part in parts([row.length for row in rows], micro_tokens):
        check()
        batch = lay_out([rows[i] for i in part], pad=pad, device=model.device)
        with computing(dtype, batch.ids_RT):
            states = trunk(**inputs(batch)).last_hidden_state.flatten(0, 1)
        lengths_A = batch.chosen_AL.sum(-1)
        first_A = batch.last_A - lengths_A + 1
        at_AL = first_A[:, None] + torch.arange(batch.chosen_AL.shape[1], device=model.device)
        at_N = at_AL[batch.chosen_AL]
        values_ND = torch.cat([embedding(batch.tokens_N).float(), states[at_N].float()], dim=-1)
        of_N = torch.arange(len(part), device=model.device).repeat_interleave(lengths_A)
        sums_AD = values_ND.new_zeros(len(part), values_ND.shape[1]).index_add(0, of_N, values_ND)
        found.update(zip(part, sums_AD / lengths_A[:, None], strict=True))
    means_AD = torch.stack([found[i] for i in range(len(rows))])
    return standardised(means_AD)[0]
